/**
 * containerd's image service for a kubelet, with two additions: the credentials of a pull reach the engine, which needs them
 * as long as blocks of the image are absent, since containerd itself tells no snapshotter what it pulls with; and the kubelet
 * hears of a pull when the image has been judged (pull-judge.ts).
 *
 *     kubelet ──▶ ROOT/run/image-service.sock ──▶ /run/containerd/containerd.sock
 *                     └─ PullImage's auth ──▶ the engine's credential desk
 *
 * All calls go through as they come, byte by byte, so that neither a new field nor a new call needs a new cofa. Only the request
 * and the answer of PullImage are read as well; each is one message.
 */
import { fromBinary } from '@bufbuild/protobuf';
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect as connectHttp2,
  constants,
  type IncomingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2';
import { connect } from 'node:net';
import type { Logger } from 'pino';
import { toErrorRecord } from '../../schemas/errors.ts';
import { count, fields, isNothing, type Shape } from '../../schemas/shapes.ts';
import { askLocal } from '../bus/local-socket.ts';
import type { CredentialOffer } from '../registry/credential-desk.ts';
import { parseReference } from '../registry/reference.ts';
import { type AuthConfig, PullImageRequestSchema } from '../containerd/generated/runtime/v1/cri_pb.ts';
import { grpcMessage } from './grpc-calls.ts';

export interface ImageServiceOptions {
  /** containerd's socket. */
  containerd: string;
  /** The engine's credential desk. */
  desk: string;
  /** Rejects where the image that was pulled may not be used. */
  judge: (ref: string, response: Uint8Array) => Promise<void>;
  log: Logger;
}

const PULL = /^\/runtime\.v1(?:alpha2)?\.ImageService\/PullImage$/;
/** As the kubelet sends at most. */
const MAX_MESSAGE = 16 * 1024 * 1024;
const DESK_MS = 10_000;
const isPull = fields({ pull: count(1) }) as Shape<{ pull: number }>;
/** gRPC's codes. */
const PERMISSION_DENIED = '7';
const UNAVAILABLE = '14';
const RESOURCE_EXHAUSTED = '8';

export class ImageService {
  readonly #options: ImageServiceOptions;
  #session: ClientHttp2Session | undefined;

  constructor(options: ImageServiceOptions) {
    this.#options = options;
  }

  /** For the `stream` events of an HTTP/2 server. */
  readonly take = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders): void => {
    // A caller that goes away in the middle is no concern of the others.
    stream.on('error', () => {});
    const path = String(headers[':path']);
    if (PULL.test(path)) void this.#pull(stream, headers);
    else this.#forward(stream, headers, (upstream) => stream.pipe(upstream));
  };

  close(): void {
    this.#session?.close();
  }

  async #pull(stream: ServerHttp2Stream, headers: IncomingHttpHeaders): Promise<void> {
    const chunks: Buffer[] = [];
    let length = 0;
    try {
      for await (const chunk of stream as AsyncIterable<Buffer>) {
        length += chunk.length;
        if (length > MAX_MESSAGE) return refuse(stream, RESOURCE_EXHAUSTED, 'the request is too long');
        chunks.push(chunk);
      }
    } catch {
      // The caller has gone.
      return;
    }
    const body = Buffer.concat(chunks);
    const pull = await this.#offer(body);
    const answer = stream.destroyed ? undefined : await this.#ask(stream, headers, body);
    const refusal = answer?.status === '0' ? await this.#judge(body, answer) : undefined;
    await this.#settle(pull, answer?.status === '0' && refusal === undefined);
    if (answer === undefined) return refuse(stream, UNAVAILABLE, 'containerd is not reached');
    if (refusal !== undefined) return refuse(stream, refusal.code, refusal.message);
    if (stream.destroyed) return;
    const isWhole = answer.body.length === 0 && Object.keys(answer.trailers).length === 0;
    stream.respond(answer.headers, { endStream: isWhole, waitForTrailers: !isWhole });
    if (isWhole) return;
    stream.once('wantTrailers', () => stream.sendTrailers(answer.trailers));
    stream.end(answer.body);
  }

  /** Undefined where the image may be used; else what the kubelet hears. */
  async #judge(request: Buffer, { body }: Answer): Promise<{ code: string; message: string } | undefined> {
    try {
      const response = messageOf(body);
      const image = fromBinary(PullImageRequestSchema, messageOf(request) ?? new Uint8Array()).image?.image;
      if (response === undefined || image === undefined) throw new Error('a pull that cannot be read');
      await this.#options.judge(image, response);
      return undefined;
    } catch (error) {
      const record = toErrorRecord(error);
      this.#options.log.warn({ error: record }, 'the kubelet does not get a pulled image');
      const code = record.code === 'unauthorized' ? PERMISSION_DENIED : UNAVAILABLE;
      return { code, message: `cofa: ${record.message}` };
    }
  }

  /** What containerd answers to one message; undefined where it does not. The caller's leaving ends the call. */
  async #ask(
    stream: ServerHttp2Stream,
    headers: IncomingHttpHeaders,
    body: Buffer,
  ): Promise<Answer | undefined> {
    let upstream: ClientHttp2Stream;
    try {
      upstream = this.#connect().request(withoutConnection(headers), { endStream: false });
    } catch {
      return undefined;
    }
    stream.once('close', () => {
      if (!upstream.destroyed) upstream.close(stream.rstCode);
    });
    const answer: Answer = { status: undefined, headers: {}, trailers: {}, body: Buffer.alloc(0) };
    upstream.on('response', (first) => {
      answer.headers = withoutConnection(first);
      answer.status = textOf(first['grpc-status']);
    });
    upstream.on('trailers', (last) => {
      answer.trailers = withoutConnection(last);
      answer.status = textOf(last['grpc-status']) ?? answer.status;
    });
    upstream.end(body);
    const pieces: Buffer[] = [];
    let length = 0;
    try {
      for await (const piece of upstream as AsyncIterable<Buffer>) {
        length += piece.length;
        if (length > MAX_MESSAGE) return undefined;
        pieces.push(piece);
      }
    } catch {
      // Its status says what there is to say.
    } finally {
      if (!upstream.destroyed) upstream.close();
    }
    answer.body = Buffer.concat(pieces);
    return answer.status === undefined ? undefined : answer;
  }

  /** Undefined where the pull has none, or the engine cannot be told: then the image is pulled all the same. */
  async #offer(body: Buffer): Promise<number | undefined> {
    const { desk, log } = this.#options;
    try {
      const offer = offerOf(body);
      if (offer === undefined) return undefined;
      return (await askLocal(desk, 'offer', DESK_MS, isPull, { request: offer })).pull;
    } catch (error) {
      log.warn({ error: toErrorRecord(error) }, 'the credentials of a pull did not reach the engine');
      return undefined;
    }
  }

  async #settle(pull: number | undefined, isPulled: boolean): Promise<void> {
    if (pull === undefined) return;
    const { desk, log } = this.#options;
    await askLocal(desk, 'settle', DESK_MS, isNothing, { request: { pull, isPulled } }).catch(
      (error: unknown) => {
        log.warn({ error: toErrorRecord(error) }, 'the engine did not hear how a pull ended');
      },
    );
  }

  #forward(
    stream: ServerHttp2Stream,
    headers: IncomingHttpHeaders,
    send: (upstream: ClientHttp2Stream) => void,
  ): void {
    let upstream: ClientHttp2Stream;
    try {
      upstream = this.#connect().request(withoutConnection(headers), { endStream: false });
    } catch {
      return refuse(stream, UNAVAILABLE, 'containerd is not reached');
    }
    let status: string | undefined;
    let trailers: IncomingHttpHeaders = {};
    upstream.on('response', (answer, flags) => {
      status = textOf(answer['grpc-status']) ?? status;
      if (stream.destroyed) return;
      const isWhole = (flags & constants.NGHTTP2_FLAG_END_STREAM) !== 0;
      stream.respond(withoutConnection(answer), { endStream: isWhole, waitForTrailers: !isWhole });
      if (isWhole) return;
      stream.once('wantTrailers', () => stream.sendTrailers(trailers));
      upstream.pipe(stream);
    });
    upstream.on('trailers', (last) => {
      status = textOf(last['grpc-status']) ?? status;
      trailers = withoutConnection(last);
    });
    upstream.once('error', () => {});
    upstream.once('close', () => {
      if (status !== undefined || stream.destroyed) return;
      if (stream.headersSent) stream.close(constants.NGHTTP2_INTERNAL_ERROR);
      else refuse(stream, UNAVAILABLE, 'containerd is not reached');
    });
    stream.once('close', () => {
      if (!upstream.destroyed) upstream.close(stream.rstCode);
    });
    send(upstream);
  }

  #connect(): ClientHttp2Session {
    const known = this.#session;
    if (known !== undefined && !known.closed && !known.destroyed) return known;
    const { containerd } = this.#options;
    const session = connectHttp2('http://localhost', { createConnection: () => connect(containerd) });
    // Its calls hear of it.
    session.on('error', () => {});
    session.on('goaway', () => {
      if (this.#session === session) this.#session = undefined;
    });
    this.#session = session;
    return session;
  }
}

/** Of a call with one message each way. */
interface Answer {
  /** gRPC's. */
  status: string | undefined;
  headers: IncomingHttpHeaders;
  trailers: IncomingHttpHeaders;
  body: Buffer;
}

/** A gRPC message: a byte that says whether it is compressed, its length, itself. Undefined: another one. */
function messageOf(body: Buffer): Buffer | undefined {
  if (body.length < 5 || body[0] !== 0 || body.readUInt32BE(1) !== body.length - 5) return undefined;
  return body.subarray(5);
}

/** What a pull brings along, and for which repository; undefined where it is nothing, or nothing for that registry. */
export function offerOf(body: Buffer): CredentialOffer | undefined {
  const message = messageOf(body);
  if (message === undefined) return undefined;
  const { image, auth } = fromBinary(PullImageRequestSchema, message);
  if (image === undefined || auth === undefined) return undefined;
  const { registry, domain, repository } = parseReference(image.image);
  if (!isFor(auth, domain, registry)) return undefined;
  const credentials = credentialsOf(auth);
  return credentials === undefined ? undefined : { registry, repository, credentials };
}

/** containerd leaves out what names another server, too. */
function isFor({ serverAddress }: AuthConfig, domain: string, registry: string): boolean {
  if (serverAddress === '') return true;
  const host = serverAddress.replace(/^https?:\/\//, '').split('/', 1)[0] ?? '';
  return host === domain || host === registry || (domain === 'docker.io' && host === 'index.docker.io');
}

function credentialsOf(auth: AuthConfig): CredentialOffer['credentials'] | undefined {
  let { username, password } = auth;
  if (username === '' && auth.auth !== '') {
    const decoded = Buffer.from(auth.auth, 'base64').toString('utf8');
    const colon = decoded.indexOf(':');
    if (colon < 0) return undefined;
    username = decoded.slice(0, colon);
    password = decoded.slice(colon + 1).replace(/\0+$/, '');
  }
  const { identityToken, registryToken } = auth;
  if (username === '' && identityToken === '' && registryToken === '') return undefined;
  return {
    username,
    password,
    ...(identityToken === '' ? {} : { identityToken }),
    ...(registryToken === '' ? {} : { registryToken }),
  };
}

function refuse(stream: ServerHttp2Stream, code: string, message: string): void {
  if (stream.destroyed || stream.headersSent) return;
  const headers = { ':status': 200, 'content-type': 'application/grpc', 'grpc-status': code };
  stream.respond({ ...headers, 'grpc-message': grpcMessage(message) }, { endStream: true });
}

/** HTTP/2 has no headers of a connection (RFC 9113, 8.2.2), and who forwards makes none. */
function withoutConnection(headers: IncomingHttpHeaders): IncomingHttpHeaders {
  const { connection: _, 'keep-alive': __, 'transfer-encoding': ___, ...rest } = headers;
  return rest;
}

const textOf = (value: string | string[] | undefined): string | undefined =>
  Array.isArray(value) ? value[0] : value;
