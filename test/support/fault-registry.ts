/**
 * A registry in memory that misbehaves on request. By itself it follows the OCI distribution-spec v1.1 (pull with
 * ranges, push, and the referrers API where a test wants it). `fault` sees each request first and may answer it
 * instead, break it off, or let it pass. The registry records every request with its headers, so that a test can prove
 * which requests were sent, and which were not.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
} from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';

export interface FaultRegistryOptions {
  /** Offer the referrers API, so many entries a page (OCI-Subject in answers to pushes). Without it: 404. */
  referrersPage?: number;
  /** Serve HTTPS with server.crt, server.key and ca.crt of this folder (see makeCertificates). */
  certificates?: string;
  /** With `certificates`: refuse clients without a certificate of the same CA. */
  clientCertificates?: boolean;
}

/** `handled` when the fault has answered or broken the request. */
export type Fault = (call: FaultCall) => 'handled' | 'pass' | Promise<'handled' | 'pass'>;

export interface FaultCall {
  request: IncomingMessage;
  response: ServerResponse;
  method: string;
  /** Path without the query. */
  path: string;
  query: URLSearchParams;
  /** How many requests of this method and path came before. */
  seen: number;
  body: Buffer;
}

export interface RecordedRequest {
  method: string;
  /** With the query. */
  url: string;
  headers: IncomingMessage['headers'];
  body: Buffer;
}

export class FaultRegistry {
  fault: Fault = () => 'pass';
  readonly requests: RecordedRequest[] = [];
  /** By digest; all repositories share them. */
  readonly blobs = new Map<string, Buffer>();
  /** By `REPOSITORY@DIGEST` and `REPOSITORY:TAG`. */
  readonly manifests = new Map<string, { bytes: Buffer; mediaType: string }>();
  readonly #options: FaultRegistryOptions;
  readonly #server: Server;
  /** What has arrived of each. */
  readonly #uploads = new Map<string, Buffer>();
  #counter = 0;

  constructor(options: FaultRegistryOptions) {
    this.#options = options;
    const { certificates } = options;
    const listener: RequestListener = (request, response) => {
      this.#serve(request, response).catch((error: unknown) => response.destroy(error as Error));
    };
    this.#server =
      certificates === undefined
        ? createServer(listener)
        : createTlsServer(
            {
              cert: readFileSync(join(certificates, 'server.crt')),
              key: readFileSync(join(certificates, 'server.key')),
              ...(options.clientCertificates === true
                ? {
                    ca: readFileSync(join(certificates, 'ca.crt')),
                    requestCert: true,
                    rejectUnauthorized: true,
                  }
                : {}),
            },
            listener,
          );
    this.#server.keepAliveTimeout = 60_000;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** `127.0.0.1:PORT` */
  get host(): string {
    return `127.0.0.1:${this.port}`;
  }

  get origin(): string {
    return `${this.#options.certificates === undefined ? 'http' : 'https'}://${this.host}`;
  }

  /** Adds a blob and returns its name. */
  addBlob(bytes: Buffer): { digest: string; size: number } {
    const digest = digestOf(bytes);
    this.blobs.set(digest, bytes);
    return { digest, size: bytes.length };
  }

  addManifest(repository: string, bytes: Buffer, mediaType: string, tag?: string): string {
    const digest = digestOf(bytes);
    this.manifests.set(`${repository}@${digest}`, { bytes, mediaType });
    if (tag !== undefined) this.manifests.set(`${repository}:${tag}`, { bytes, mediaType });
    return digest;
  }

  async start(): Promise<this> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(0, '127.0.0.1', resolve);
    });
    return this;
  }

  async stop(): Promise<void> {
    if (!this.#server.listening) return;
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    // Some tests have a client that leaves.
    response.on('error', () => {});
    request.on('error', () => {});
    const url = new URL(request.url ?? '/', 'http://x');
    const method = request.method ?? '';
    const seen = this.requests.filter(
      (one) => one.method === method && one.url.split('?')[0] === url.pathname,
    ).length;
    const chunks: Buffer[] = [];
    for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    this.requests.push({ method, url: request.url ?? '', headers: request.headers, body });
    const call = { request, response, method, path: url.pathname, query: url.searchParams, seen, body };
    if ((await this.fault(call)) === 'pass') this.#answer(call);
  }

  #answer({ request, response, method, path, query, body }: FaultCall): void {
    const send = (
      status: number,
      headers: Record<string, string | number> = {},
      content?: Buffer | string,
    ) => {
      response.writeHead(status, { 'content-length': Buffer.byteLength(content ?? ''), ...headers });
      response.end(method === 'HEAD' ? undefined : content);
    };
    const fail = (status: number, code: string, message: string) =>
      send(status, { 'content-type': 'application/json' }, JSON.stringify({ errors: [{ code, message }] }));
    if (path === '/v2/') return send(200);
    const [, repository = '', kind = '', name = ''] =
      /^\/v2\/(.+?)\/(blobs\/uploads|blobs|manifests|referrers|tags)\/(.*)$/.exec(path) ?? [];
    switch (`${method} ${kind}`) {
      case 'HEAD blobs':
      case 'GET blobs': {
        const blob = this.blobs.get(name);
        return blob === undefined
          ? fail(404, 'BLOB_UNKNOWN', 'blob unknown')
          : sendRange(request, send, blob);
      }
      case 'POST blobs/uploads': {
        const id = String(++this.#counter);
        this.#uploads.set(id, Buffer.alloc(0));
        return send(202, { location: `/v2/${repository}/blobs/uploads/${id}?state=a%2Bb` });
      }
      case 'PATCH blobs/uploads': {
        const begun = this.#uploads.get(name);
        if (begun === undefined) return fail(404, 'BLOB_UPLOAD_UNKNOWN', 'upload unknown');
        this.#uploads.set(name, Buffer.concat([begun, body]));
        return send(202, { location: path });
      }
      case 'PUT blobs/uploads': {
        const digest = query.get('digest') ?? '';
        const begun = this.#uploads.get(name);
        if (begun === undefined) return fail(404, 'BLOB_UPLOAD_UNKNOWN', 'upload unknown');
        this.#uploads.delete(name);
        const whole = Buffer.concat([begun, body]);
        if (digestOf(whole) !== digest) return fail(400, 'DIGEST_INVALID', 'digest does not match');
        this.blobs.set(digest, whole);
        return send(201, { location: `/v2/${repository}/blobs/${digest}` });
      }
      case 'PUT manifests': {
        const tag = name.startsWith('sha256:') ? undefined : name;
        const digest = this.addManifest(repository, body, request.headers['content-type'] ?? '', tag);
        const { subject } = JSON.parse(body.toString()) as { subject?: { digest: string } };
        const says = subject !== undefined && this.#options.referrersPage !== undefined;
        return send(201, {
          'docker-content-digest': digest,
          ...(says ? { 'oci-subject': subject.digest } : {}),
        });
      }
      case 'HEAD manifests':
      case 'GET manifests': {
        const manifest = this.manifests.get(`${repository}${name.startsWith('sha256:') ? '@' : ':'}${name}`);
        if (manifest === undefined) return fail(404, 'MANIFEST_UNKNOWN', 'manifest unknown');
        const headers = {
          'content-type': manifest.mediaType,
          'docker-content-digest': digestOf(manifest.bytes),
        };
        return send(200, headers, manifest.bytes);
      }
      case 'GET tags': {
        const all = [...this.manifests.keys()].filter((key) => key.startsWith(`${repository}:`));
        const tags = all.map((key) => key.slice(repository.length + 1));
        if (![...this.manifests.keys()].some((key) => key.split(/[@:]/)[0] === repository)) {
          return fail(404, 'NAME_UNKNOWN', 'repository name not known to registry');
        }
        return send(200, { 'content-type': 'application/json' }, JSON.stringify({ name: repository, tags }));
      }
      case 'GET referrers': {
        const size = this.#options.referrersPage;
        if (size === undefined) return send(404, {}, '404 page not found\n');
        return this.#sendReferrers(send, repository, name, query, size);
      }
      default:
        return send(404, {}, '404 page not found\n');
    }
  }

  #sendReferrers(
    send: (status: number, headers: Record<string, string>, content: string) => void,
    repository: string,
    digest: string,
    query: URLSearchParams,
    size: number,
  ): void {
    const wanted = query.get('artifactType');
    const all = [...this.manifests]
      .filter(([key]) => key.startsWith(`${repository}@`))
      .map(([key, { bytes, mediaType }]) => {
        const content = JSON.parse(bytes.toString()) as Record<string, unknown>;
        const { artifactType, annotations, subject } = content;
        const descriptor = {
          mediaType,
          digest: key.slice(key.indexOf('@') + 1),
          size: bytes.length,
          artifactType,
          annotations,
        };
        return { descriptor, subject: (subject as { digest?: string } | undefined)?.digest };
      })
      .filter(
        ({ subject, descriptor }) =>
          subject === digest && (wanted === null || descriptor.artifactType === wanted),
      )
      .map(({ descriptor }) => descriptor);
    const from = Number(query.get('from') ?? 0);
    const headers: Record<string, string> = { 'content-type': 'application/vnd.oci.image.index.v1+json' };
    if (wanted !== null) headers['oci-filters-applied'] = 'artifactType';
    if (from + size < all.length) {
      query.set('from', String(from + size));
      headers['link'] = `</v2/${repository}/referrers/${digest}?${query}>; rel="next"`;
    }
    send(
      200,
      headers,
      JSON.stringify({
        schemaVersion: 2,
        mediaType: 'application/vnd.oci.image.index.v1+json',
        manifests: all.slice(from, from + size),
      }),
    );
  }
}

/** Starts a registry in memory on a free loopback port. */
export async function startFaultRegistry(options: FaultRegistryOptions = {}): Promise<FaultRegistry> {
  return await new FaultRegistry(options).start();
}

/** Sends the bytes that a Range header asks for, as 206, or all of them. */
export function sendRange(
  request: IncomingMessage,
  send: (status: number, headers: Record<string, string>, content: Buffer) => void,
  bytes: Buffer,
): void {
  const match = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
  if (match === null) return send(200, {}, bytes);
  const [first, last] = [Number(match[1]), Math.min(Number(match[2]), bytes.length - 1)];
  if (first >= bytes.length)
    return send(416, { 'content-range': `bytes */${bytes.length}` }, Buffer.alloc(0));
  send(206, { 'content-range': `bytes ${first}-${last}/${bytes.length}` }, bytes.subarray(first, last + 1));
}

function digestOf(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}
