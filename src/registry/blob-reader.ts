/**
 * Reads blobs, whole or in part, so that what comes out is one unbroken run of bytes whatever happens on the way:
 *
 *     ask for [position, end) ──▶ 206  check that it is what was asked for, pass it on
 *            ▲                    200  the registry ignores Range: skip to the position, stop at the end
 *            │                    cut, 5xx, 429: wait, then ask again from the first byte that is missing
 *            └────────────────────
 *
 * Bytes pass as the network delivered them, uncopied. Nothing here checks their digest, except `wholeBlob` and
 * `blobStream`, which see all of them; parts are checked against the span table by their reader.
 *
 * Registries often answer with a redirect to a storage service and an address signed for some minutes. The
 * address is kept for a while: reading an image lazily asks for many parts of the same blob, and each would
 * otherwise pay the registry's round trip again.
 */
import { createHash } from 'node:crypto';
import { CofaError } from '../../schemas/errors.ts';
import type { RegistryApi, Source } from './api.ts';
import { RequestFailure } from './failure.ts';
import { printable } from './printable.ts';
import { isDigest } from './reference.ts';
import { Retries } from './retry.ts';
import { bodyFailure, discard, header, type Reply } from './transport.ts';

/** Digest and size in bytes of a blob. */
export interface BlobName {
  digest: string;
  size: number;
}

/** An attempt that brought less than this did not get on; a registry that trickles is given up in the end. */
const PROGRESS_BYTES = 64 * 1024;
/** Signed addresses live for minutes; one that has expired costs a request, not an error. */
const LOCATION_MS = 60_000;
const MAX_LOCATIONS = 1024;
/** A rest of a body shorter than this is read to keep the connection; a longer one is cut off. */
const DRAIN_BYTES = 64 * 1024;

const WRONG_BLOB = 'the registry does not hold what was pushed: push the image again';

export class BlobReader {
  readonly #api: RegistryApi;
  /** By source and digest, oldest first. */
  readonly #locations = new Map<string, { url: URL; until: number }>();
  readonly #warned = new Set<string>();

  constructor(api: RegistryApi) {
    this.#api = api;
  }

  /** Yields the bytes [start, end) of a blob, exactly as many. */
  async *range(
    source: Source,
    blob: BlobName,
    start: number,
    end: number,
    signal?: AbortSignal,
  ): AsyncGenerator<Buffer, void, undefined> {
    checkName(blob);
    if (
      !Number.isSafeInteger(start) ||
      !Number.isSafeInteger(end) ||
      start < 0 ||
      start > end ||
      end > blob.size
    ) {
      throw new CofaError(
        'invalid-argument',
        `bytes ${start} to ${end} are not within blob ${blob.digest} (${blob.size} bytes)`,
      );
    }
    const retries = new Retries(this.#api.retryContext(`blob ${blob.digest}`, signal));
    let position = start;
    while (position < end) {
      const before = position;
      try {
        const reply = await this.#open(source, blob, position, end, signal);
        for await (const chunk of this.#body(source, blob, reply, position, end, signal)) {
          position += chunk.length;
          yield chunk;
        }
        if (position < end && position - before < PROGRESS_BYTES) {
          throw new RequestFailure('unavailable', `${reply.url.host} sends blob ${blob.digest} in crumbs`, {
            retryable: true,
          });
        }
      } catch (error) {
        // The place it came from may be at fault: the registry is asked again.
        this.#locations.delete(locationKey(source, blob));
        if (position - before >= PROGRESS_BYTES) retries.progressed();
        await retries.failed(error).catch((last: unknown) => {
          throw withPosition(last, blob, position);
        });
      }
    }
  }

  /** Yields a whole blob; throws `integrity` at its end where size or digest are not the promised ones. */
  async *stream(
    source: Source,
    blob: BlobName,
    signal?: AbortSignal,
  ): AsyncGenerator<Buffer, void, undefined> {
    const hash = createHash('sha256');
    for await (const chunk of this.range(source, blob, 0, blob.size, signal)) {
      hash.update(chunk);
      yield chunk;
    }
    const digest = `sha256:${hash.digest('hex')}`;
    if (digest !== blob.digest) {
      throw new CofaError(
        'integrity',
        `blob ${blob.digest} of ${source.registry}/${source.repository} is not what its digest says (got ${digest})`,
        {
          hint: 'it was changed on the way or in the registry: push the image again, or ask who runs the registry',
        },
      );
    }
  }

  /** A whole blob in memory, checked. Refuses blobs of more than `limit` bytes before it asks for them. */
  async whole(source: Source, blob: BlobName, limit: number, signal?: AbortSignal): Promise<Buffer> {
    checkName(blob);
    if (blob.size > limit) {
      throw new CofaError(
        'unsupported',
        `blob ${blob.digest} has ${blob.size} bytes, more than the ${limit} that are read at once`,
      );
    }
    const chunks: Buffer[] = [];
    for await (const chunk of this.stream(source, blob, signal)) chunks.push(chunk);
    return chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks);
  }

  /** The reply that brings bytes from `position` on: 206, or 200 from the blob's start. */
  async #open(
    source: Source,
    blob: BlobName,
    position: number,
    end: number,
    signal: AbortSignal | undefined,
  ): Promise<Reply> {
    const headers: Record<string, string> = { accept: '*/*', 'accept-encoding': 'identity' };
    // A whole blob is asked for without Range: proxies cache that.
    if (position > 0 || end < blob.size) headers['range'] = `bytes=${position}-${end - 1}`;
    const key = locationKey(source, blob);
    const direct = await this.#openDirect(key, headers, signal);
    if (direct !== undefined) return direct;
    const reply = await this.#api.request({
      registry: source.registry,
      method: 'GET',
      target: `/v2/${source.repository}/blobs/${blob.digest}`,
      scope: { repository: source.repository, push: false },
      headers,
      expect: [200, 206, 416],
      what: `blob ${blob.digest} of ${source.repository}`,
      signal,
    });
    if (reply.status === 416) {
      await discard(reply.body);
      throw new CofaError(
        'integrity',
        `${reply.url.host} has fewer bytes of blob ${blob.digest} than the ${blob.size} of its manifest (416 for ${position}-${end - 1})`,
        {
          hint: WRONG_BLOB,
        },
      );
    }
    if (reply.crossed) this.#remember(key, reply.url);
    return reply;
  }

  async #openDirect(
    key: string,
    headers: Record<string, string>,
    signal: AbortSignal | undefined,
  ): Promise<Reply | undefined> {
    const known = this.#locations.get(key);
    if (known === undefined) return undefined;
    if (known.until > this.#api.settings.ambient.now()) {
      try {
        const reply = await this.#api.requestDirect(known.url, headers, signal);
        if (reply.status === 200 || reply.status === 206) return reply;
        await discard(reply.body);
      } catch (error) {
        // Whatever it is, the registry knows a better address, or says what is wrong.
        if (!(error instanceof RequestFailure)) throw error;
      }
    }
    this.#locations.delete(key);
    return undefined;
  }

  #remember(key: string, url: URL): void {
    this.#locations.set(key, { url, until: this.#api.settings.ambient.now() + LOCATION_MS });
    if (this.#locations.size > MAX_LOCATIONS) {
      this.#locations.delete(this.#locations.keys().next().value as string);
    }
  }

  /** The bytes [position, end) of a reply, or as many as it has. */
  async *#body(
    source: Source,
    blob: BlobName,
    reply: Reply,
    position: number,
    end: number,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<Buffer, void, undefined> {
    let skip = 0;
    let wanted = end - position;
    try {
      if (reply.status === 206) {
        wanted = Math.min(wanted, checkContentRange(reply, blob, position, end) - position);
      } else {
        const length = header(reply, 'content-length');
        if (length !== undefined && Number(length) !== blob.size) {
          throw new CofaError(
            'integrity',
            `${reply.url.host} has ${length} bytes of blob ${blob.digest}, its manifest says ${blob.size}`,
            {
              hint: WRONG_BLOB,
            },
          );
        }
        skip = position;
        if (position > 0 || end < blob.size) this.#warnOfWholeBodies(source);
      }
      for await (let chunk of reply.body as AsyncIterable<Buffer>) {
        if (wanted === 0) {
          // The end of the answer is near: reading on to it keeps the connection.
          skip += chunk.length;
          if (skip > DRAIN_BYTES) return;
          continue;
        }
        if (skip >= chunk.length) {
          skip -= chunk.length;
          continue;
        }
        chunk = chunk.subarray(skip, skip + wanted);
        skip = 0;
        wanted -= chunk.length;
        yield chunk;
      }
    } catch (error) {
      throw bodyFailure(error, reply, signal);
    } finally {
      // Ends the connection, unless the body has come to its end.
      reply.body.destroy();
    }
  }

  #warnOfWholeBodies(source: Source): void {
    if (this.#warned.has(source.registry)) return;
    this.#warned.add(source.registry);
    this.#api.settings.log.warn(
      { registry: source.registry },
      'the registry ignores range requests: each read of a part transfers the layer from its start',
    );
  }
}

/**
 * Checks that a 206 brings what was asked for: `bytes FIRST-LAST/SIZE` (RFC 9110, 14.4) that begins at `position`,
 * ends within the request and agrees on the blob's size. Returns the end of what it brings, exclusive.
 */
function checkContentRange(reply: Reply, blob: BlobName, position: number, end: number): number {
  const text = header(reply, 'content-range') ?? '';
  const match = /^bytes (\d{1,16})-(\d{1,16})\/(\d{1,16}|\*)$/i.exec(text.trim());
  const [first, last, size] = [Number(match?.[1]), Number(match?.[2]), match?.[3]];
  const asked = `bytes ${position}-${end - 1} of blob ${blob.digest}`;
  if (match !== null && size !== '*' && Number(size) !== blob.size) {
    throw new CofaError(
      'integrity',
      `${reply.url.host} has ${size} bytes of blob ${blob.digest}, its manifest says ${blob.size}`,
      { hint: WRONG_BLOB },
    );
  }
  if (match !== null && first === position && last >= first && last < end) return last + 1;
  // A proxy that muddles answers may do better the next time; the bytes must not be used either way.
  throw new RequestFailure(
    'integrity',
    `${reply.url.host} answers with the range "${printable(text)}" to ${asked}`,
    {
      retryable: true,
    },
  );
}

/** Says how far a blob could be read, where the connection broke at each attempt. */
function withPosition(error: unknown, blob: BlobName, position: number): unknown {
  if (!(error instanceof RequestFailure) || (error.reason !== 'broken' && error.code !== 'timeout'))
    return error;
  const where = `at byte ${position} of ${blob.size} of blob ${blob.digest}`;
  return new RequestFailure(error.code, `${error.message}, ${where}`, {
    cause: error,
    hint: error.hint ?? `if it always ends there, ${WRONG_BLOB}`,
  });
}

function locationKey(source: Source, blob: BlobName): string {
  return `${source.registry}/${source.repository}@${blob.digest}`;
}

function checkName(blob: BlobName): void {
  if (isDigest(blob.digest) && Number.isSafeInteger(blob.size) && blob.size >= 0) return;
  throw new CofaError('invalid-argument', 'a blob is named by its sha256 digest and its size in bytes');
}
