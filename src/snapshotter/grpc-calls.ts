/**
 * gRPC's calls with one message from the client, as they come on the wire (grpc/grpc, doc/PROTOCOL-HTTP2.md). The server
 * of connect-node serves every client over every transport, and took more time for a call than the snapshotter itself.
 * Messages are decoded and encoded by protobuf-es.
 *
 *     HEADERS  :path /<service>/<method>
 *     DATA     byte: is it compressed?  4 bytes: its length  the message            (answers of a list: several)
 *     HEADERS  grpc-status, and grpc-message where it is not 0
 */
import type { IncomingHttpHeaders, ServerHttp2Stream } from 'node:http2';
import { pipeline } from 'node:stream/promises';
import {
  create,
  type DescMessage,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  type DescService,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import { type TraceContext, traceContextOf } from '../../schemas/trace-context.ts';

/** What a call says beside its message. */
export interface Asked {
  /** When it came, ms since the epoch. */
  at: number;
  /** What its client traces; undefined: it does not say. */
  trace: TraceContext | undefined;
}

/** What answers the methods of a service. What is thrown and is no ConnectError becomes `unknown`. */
export type Calls<Service extends DescService> = {
  [Name in keyof Service['method']]: Service['method'][Name] extends DescMethodUnary<infer I, infer O>
    ? (request: MessageShape<I>, asked: Asked) => Promise<MessageInitShape<O>>
    : Service['method'][Name] extends DescMethodServerStreaming<infer I, infer O>
      ? (request: MessageShape<I>, asked: Asked) => AsyncIterable<MessageInitShape<O>>
      : never;
};

type Answer = MessageInitShape<DescMessage>;
type Call = (request: MessageShape<DescMessage>, asked: Asked) => Promise<Answer> | AsyncIterable<Answer>;

/** As gRPC servers of containerd take them, bytes. */
const MAX_MESSAGE = 16 * 1024 * 1024;
const PREFIX_BYTES = 5;
const HEAD = { ':status': 200, 'content-type': 'application/grpc' };

/** Takes the calls of one service. `now`: ms since the epoch. */
export function grpcCalls<Service extends DescService>(
  service: Service,
  calls: Calls<Service>,
  now: () => number,
): (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void {
  const byPath = new Map(
    service.methods.map((method) => [
      `/${service.typeName}/${method.name}`,
      { method, call: calls[method.localName as keyof Calls<Service>] as Call },
    ]),
  );
  return (stream, headers) => {
    const asked = { at: now(), trace: traceContextOf(headers.traceparent, headers.tracestate) };
    // A client that leaves in the middle is no concern of the others.
    stream.on('error', () => {});
    const found = byPath.get(String(headers[':path']));
    whenWhole(stream, (body) => {
      if (found === undefined) throw new ConnectError(`no method ${headers[':path']}`, Code.Unimplemented);
      const { method, call } = found;
      return send(stream, method.output, call(parse(method.input, body), asked));
    });
  };
}

/** Works on the client's whole message; what that fails with ends the call. */
function whenWhole(stream: ServerHttp2Stream, work: (body: Buffer) => Promise<void>): void {
  const pieces: Buffer[] = [];
  let length = 0;
  const fail = (error: unknown) => end(stream, ConnectError.from(error));
  stream.on('data', (piece: Buffer) => {
    length += piece.length;
    if (length <= MAX_MESSAGE + PREFIX_BYTES) return pieces.push(piece);
    pieces.length = 0;
    return fail(new ConnectError(`a message has at most ${MAX_MESSAGE} bytes`, Code.ResourceExhausted));
  });
  stream.once('end', () => {
    if (stream.destroyed || stream.headersSent) return;
    const body = pieces.length === 1 ? (pieces[0] as Buffer) : Buffer.concat(pieces);
    (async () => work(body))().catch(fail);
  });
}

async function send(
  stream: ServerHttp2Stream,
  schema: DescMessage,
  answer: Promise<Answer> | AsyncIterable<Answer>,
): Promise<void> {
  if (!(Symbol.asyncIterator in answer)) {
    const frame = framed(schema, await answer);
    if (begin(stream, () => OK)) stream.end(frame);
    return;
  }
  let status = OK;
  const frames = async function* () {
    try {
      for await (const one of answer) yield framed(schema, one);
    } catch (error) {
      status = statusOf(ConnectError.from(error));
    }
  };
  // No faster than the client reads; where it has gone there is no more to do.
  if (begin(stream, () => status)) await pipeline(frames(), stream).catch(() => {});
}

const OK: Readonly<Record<string, string>> = { 'grpc-status': '0' };

/** Sends the head; false where the client has gone. */
function begin(stream: ServerHttp2Stream, status: () => Readonly<Record<string, string>>): boolean {
  if (stream.destroyed || stream.headersSent) return false;
  stream.respond(HEAD, { waitForTrailers: true });
  stream.once('wantTrailers', () => stream.sendTrailers(status()));
  return true;
}

/** An answer without a message. */
function end(stream: ServerHttp2Stream, error: ConnectError): void {
  if (!stream.destroyed && !stream.headersSent)
    stream.respond({ ...HEAD, ...statusOf(error) }, { endStream: true });
}

/** A message as a header may have it: percent-encoded. */
export const grpcMessage = (text: string): string => encodeURIComponent(text.toWellFormed());

/** The numbers of connect's codes are gRPC's. */
const statusOf = ({ code, rawMessage }: ConnectError): Readonly<Record<string, string>> => ({
  'grpc-status': String(code),
  'grpc-message': grpcMessage(rawMessage),
});

function parse<Schema extends DescMessage>(schema: Schema, body: Buffer): MessageShape<Schema> {
  if (body.length < PREFIX_BYTES || body.readUInt32BE(1) !== body.length - PREFIX_BYTES)
    throw new ConnectError('the request is not one message', Code.InvalidArgument);
  if (body[0] !== 0) throw new ConnectError('messages are not compressed here', Code.Unimplemented);
  try {
    return fromBinary(schema, body.subarray(PREFIX_BYTES));
  } catch (error) {
    throw ConnectError.from(error, Code.InvalidArgument);
  }
}

function framed(schema: DescMessage, answer: Answer): Buffer {
  const message = toBinary(schema, create(schema, answer));
  const frame = Buffer.allocUnsafe(PREFIX_BYTES + message.length);
  frame[0] = 0;
  frame.writeUInt32BE(message.length, 1);
  frame.set(message, PREFIX_BYTES);
  return frame;
}
