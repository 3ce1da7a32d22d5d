/**
 * A collector: an HTTP server that takes OTLP's traces in both encodings, checks each request against OTLP's own messages
 * (test/fixtures/otlp/otlp.proto, by another library than the sender's), and keeps the spans.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import protobuf from 'protobufjs';
import type { Cleanup } from './temp.ts';

export interface ReceivedSpan {
  traceId: string;
  spanId: string;
  /** Undefined: a root. */
  parentId: string | undefined;
  traceState: string;
  name: string;
  kind: number;
  /** ms since the epoch. */
  from: number;
  to: number;
  attributes: Record<string, string | number | boolean>;
  events: Array<{ name: string; at: number }>;
  links: Array<{ traceId: string; spanId: string }>;
  /** Undefined: no status. */
  error: string | undefined;
  flags: number;
  resource: Record<string, string | number | boolean>;
}

export interface Received {
  headers: IncomingMessage['headers'];
  path: string;
  spans: ReceivedSpan[];
}

/** How it answers; the default takes everything. */
export type Answer = (response: ServerResponse, received: Received) => void;

export interface Collector {
  url: string;
  requests: Received[];
  /** What was wrong with requests. */
  flaws: string[];
  answer: Answer;
  /** All spans so far. */
  readonly spans: ReceivedSpan[];
}

const TYPES = protobuf.loadSync(join(import.meta.dirname, '../fixtures/otlp/otlp.proto'));
const REQUEST = TYPES.lookupType('otlp.ExportTraceServiceRequest');
const RESPONSE = TYPES.lookupType('otlp.ExportTraceServiceResponse');

/** The answer's bytes. */
export const encodeResponse = (response: object): Uint8Array =>
  RESPONSE.encode(RESPONSE.fromObject(response)).finish();

interface Value {
  stringValue?: string;
  boolValue?: boolean;
  intValue?: string;
  doubleValue?: number;
}
type Attributes = Array<{ key: string; value: Value }>;
interface Request {
  resourceSpans: Array<{
    resource: { attributes?: Attributes };
    scopeSpans: Array<{ spans: Array<Record<string, unknown>> }>;
  }>;
}

/** Listens on a free port of 127.0.0.1, until the cleanup. `tls`: PEM. */
export async function startCollector(
  cleanup: Cleanup,
  tls?: { cert: string; key: string },
): Promise<Collector> {
  const collector: Collector = {
    url: '',
    requests: [],
    flaws: [],
    answer: (response) => response.end(),
    get spans() {
      return collector.requests.flatMap(({ spans }) => spans);
    },
  };
  const take = (request: IncomingMessage, response: ServerResponse) => {
    const pieces: Buffer[] = [];
    request.on('data', (piece: Buffer) => pieces.push(piece));
    request.on('end', () => {
      const { headers, method, url = '' } = request;
      try {
        const spans = decode(headers, Buffer.concat(pieces));
        if (method !== 'POST') throw new Error(`the method is ${method}`);
        const received = { headers, path: url, spans };
        collector.requests.push(received);
        collector.answer(response, received);
      } catch (error) {
        collector.flaws.push(String(error));
        response.writeHead(400).end();
      }
    });
  };
  const server = tls === undefined ? createServer(take) : createTlsServer(tls, take);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanup.defer(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  collector.url = `${tls === undefined ? 'http' : 'https'}://127.0.0.1:${port}`;
  return collector;
}

const LOSSLESS = { longs: String, bytes: String, enums: Number } as const;

/** Throws where the request is not as OTLP wants it. */
function decode(headers: IncomingMessage['headers'], body: Buffer): ReceivedSpan[] {
  const bytes = headers['content-encoding'] === 'gzip' ? gunzipSync(body) : body;
  const type = headers['content-type'];
  if (type === 'application/x-protobuf') {
    const message = REQUEST.decode(bytes);
    // Another encoder writes the same bytes: no field of the request was passed over. Go's encoders do not sort by number.
    const again = REQUEST.encode(message).finish();
    if (again.length !== bytes.length)
      throw new Error(`${bytes.length - again.length} bytes are no field of OTLP`);
    return spansOf(REQUEST.toObject(message, LOSSLESS) as Request, base64ToHex);
  }
  if (type === 'application/json') {
    const request = JSON.parse(bytes.toString('utf8')) as Request;
    checkJson(request);
    return spansOf(request, (id) => id);
  }
  throw new Error(`the content is ${type}`);
}

const base64ToHex = (text: string): string => Buffer.from(text, 'base64').toString('hex');

/** OTLP's JSON is protobuf's, but for ids, which are hex digits there. Each key has to be a field. */
function checkJson(request: Request): void {
  const isId = (key: string) => /^(traceId|spanId|parentSpanId)$/.test(key);
  const told = JSON.stringify(request, (key, value: unknown) => {
    if (!isId(key)) return value;
    if (!/^([0-9a-f]{16}|[0-9a-f]{32})$/.test(String(value))) throw new Error(`${key} is ${String(value)}`);
    return Buffer.from(value as string, 'hex').toString('base64');
  });
  const message = REQUEST.fromObject(JSON.parse(told) as object);
  const flaw = REQUEST.verify(message);
  if (flaw !== null) throw new Error(flaw);
  const known = new Set(Object.keys(flat(REQUEST.toObject(message, LOSSLESS))));
  const lost = Object.entries(flat(JSON.parse(told))).filter(
    ([path, value]) => !known.has(path) && JSON.stringify(value) !== '[]',
  );
  if (lost.length > 0) throw new Error(`no fields of OTLP: ${lost.map(([path]) => path).join(', ')}`);
}

function flat(value: unknown, path = ''): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Object.keys(value).length === 0)
    return { [path]: value };
  return Object.assign(
    {},
    ...Object.entries(value).map(([key, inner]) => flat(inner, `${path}/${key}`)),
  ) as Record<string, unknown>;
}

function spansOf({ resourceSpans }: Request, idOf: (text: string) => string): ReceivedSpan[] {
  return resourceSpans.flatMap(({ resource, scopeSpans }) =>
    scopeSpans.flatMap(({ spans }) =>
      spans.map((span): ReceivedSpan => {
        const text = (key: string) => String(span[key] ?? '');
        const ms = (nano: unknown) => Number(BigInt(String(nano)) / 1000n) / 1000;
        const list = <T>(key: string) => (span[key] ?? []) as T[];
        const status = span.status as { message?: string; code?: number } | undefined;
        return {
          traceId: idOf(text('traceId')),
          spanId: idOf(text('spanId')),
          parentId: idOf(text('parentSpanId')) || undefined,
          traceState: text('traceState'),
          name: text('name'),
          kind: Number(span.kind),
          from: ms(span.startTimeUnixNano),
          to: ms(span.endTimeUnixNano),
          attributes: attributesOf(list('attributes')),
          events: list<{ name: string; timeUnixNano: string }>('events').map((event) => ({
            name: event.name,
            at: ms(event.timeUnixNano),
          })),
          links: list<{ traceId: string; spanId: string }>('links').map((link) => ({
            traceId: idOf(link.traceId),
            spanId: idOf(link.spanId),
          })),
          error: status?.code === 2 ? (status.message ?? '') : undefined,
          flags: Number(span.flags ?? 0),
          resource: attributesOf(resource.attributes ?? []),
        };
      }),
    ),
  );
}

const attributesOf = (all: Attributes): Record<string, string | number | boolean> =>
  Object.fromEntries(
    all.map(({ key, value: { stringValue, boolValue, intValue, doubleValue } }) => [
      key,
      stringValue ?? boolValue ?? (intValue === undefined ? (doubleValue ?? '') : Number(intValue)),
    ]),
  );
