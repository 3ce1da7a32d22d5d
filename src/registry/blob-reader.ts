/**
 * Reads blobs, whole or in part, as one unbroken run of bytes, whatever happens to connections:
 *
 *     ask for [position, end) ──▶ 206  check that it is the requested range, pass it on
 *            ▲                    200  the registry ignores Range: skip to the position, stop at the end
 *            │                    cut, 5xx, 429: wait, then ask again from the first byte that is missing
 *            └────────────────────
 *
 * Bytes pass as the network delivered them, uncopied. Only `wholeBlob` and `blobStream` see all bytes and check their
 * digest; the readers of parts verify them against the span table.
 *
 * Where the registry knows how to answer, one request asks for several ranges: a request costs a registry more than
 * some MB do. Debian's docker-registry 2.8 spends 5 ms of processor time on one; a request of 150 KB costs six times
 * what these bytes cost as one of ten ranges. Many storage services do not know how (S3 sends the whole object,
 * Google's answers with 400). Then each range is a request of its own, and so is the missing rest of an answer that
 * ended early.
 *
 * Many registries answer with a redirect to a storage service and an address signed for some minutes. The reader keeps
 * the address for a while: a lazy image asks for many parts of the same blob, and each would otherwise pay the
 * registry's round trip again.
 *
 * On a node of a fleet other members are asked first (fleet-door.ts); what they do not bring comes from the registry.
 */
import { isDigest } from '../../schemas/digest.ts';
import { Digest } from '../digest/digest.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { RegistryApi, Source } from './api.ts';
import type { FleetDoor } from './fleet-door.ts';
import { RequestFailure } from './failure.ts';
import {
  bytesOf,
  checkContentRange,
  DRAIN_BYTES,
  letEnd,
  placed,
  takeFrom,
  WRONG_BLOB,
} from './range-reply.ts';
import { Retries } from './retry.ts';
import { bodyFailure, discard, header, type Pace, paced, type Reply } from './transport.ts';
import { readUntilRight } from './wrong-bytes.ts';

/** Digest and size in bytes of a blob; `data` where its descriptor carries its content. */
export interface BlobName {
  digest: string;
  size: number;
  data?: string;
}

/** Bytes [start, end) of a blob. */
export type ByteRange = readonly [start: number, end: number];

/** An attempt that brought less than this made no progress; the reader gives up a registry that trickles. */
const PROGRESS_BYTES = 64 * 1024;
/** Signed addresses live for minutes; one that has expired costs a request, not an error. */
const LOCATION_MS = 60_000;
const MAX_LOCATIONS = 1024;
/** Requests at once where each range is a request of its own. */
const SIDE_BY_SIDE = 3;
/** Of a blob that is read as a whole, with all attempts and the waits between them. */
const WHOLE_PACE: Pace = { graceMs: 300_000, bytesPerSecond: 8 * 1024 };
/** Statuses of a registry that does not understand several ranges; it may understand a single one. */
const NO_SEVERAL: readonly number[] = [400, 416, 501];

export class BlobReader {
  readonly #api: RegistryApi;
  /** By source and digest, oldest first. */
  readonly #locations = new Map<string, { url: URL; mirror: string | undefined; until: number }>();
  /** Which mirrors brought bytes of a blob, by source and digest, oldest first. */
  readonly #mirrors = new Map<string, Set<string>>();
  /** How often a host was left out for a blob, by source and digest, oldest first. */
  readonly #doubts = new Map<string, number>();
  readonly #warned = new Set<string>();
  /** Registries that answer with one range at a time. */
  readonly #single = new Set<string>();
  readonly #fleet: (() => Promise<FleetDoor>) | undefined;
  /** It is open. */
  #door: FleetDoor | undefined;

  /** `fleet`: opens the door to it; absent where the node is of none. */
  constructor(api: RegistryApi, fleet?: () => Promise<FleetDoor>) {
    this.#api = api;
    this.#fleet = fleet;
  }

  /** Yields the bytes [start, end) of a blob, exactly as many. */
  range(
    source: Source,
    blob: BlobName,
    start: number,
    end: number,
    signal?: AbortSignal,
  ): AsyncGenerator<Buffer, void, undefined> {
    if (this.#fleet === undefined) return this.#range(source, blob, start, end, signal);
    return this.#ofFleet(source, blob, [[start, end]], signal);
  }

  /** Yields the bytes of all ranges: of the fleet, and what it does not bring of the registry. */
  async *#ofFleet(
    source: Source,
    blob: BlobName,
    ranges: readonly ByteRange[],
    signal: AbortSignal | undefined,
  ): AsyncGenerator<Buffer, void, undefined> {
    for (const [start, end] of ranges) checkRange(blob, start, end);
    this.#door ??= await this.#fleet?.();
    const door = this.#door;
    let left = ranges;
    if (door?.isAsked(source, blob) === true) left = yield* door.ranges(source, blob, ranges, signal);
    if (left.length === 0) return;
    const [[start, end]] = left as [ByteRange];
    const rest =
      left.length === 1
        ? this.#range(source, blob, start, end, signal)
        : this.#ranges(source, blob, left, signal);
    const places = left.values();
    let [at, until] = places.next().value as ByteRange;
    for await (const chunk of rest) {
      while (at === until) [at, until] = places.next().value as ByteRange;
      door?.compare(blob, at, chunk);
      at += chunk.length;
      yield chunk;
    }
  }

  async *#range(
    source: Source,
    blob: BlobName,
    start: number,
    end: number,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<Buffer, void, undefined> {
    checkRange(blob, start, end);
    const retries = new Retries(this.#api.retryContext(`blob ${blob.digest}`, signal));
    let position = start;
    while (position < end) {
      const before = position;
      let mirror: string | undefined;
      try {
        // A whole blob is requested without Range: proxies cache that.
        const isPart = position > 0 || end < blob.size;
        const range = isPart ? `bytes=${position}-${end - 1}` : undefined;
        const reply = await this.#open(source, blob, range, [], signal);
        mirror = reply.mirror;
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
        // The storage address may be at fault: the next attempt asks the registry again.
        this.#locations.delete(locationKey(source, blob));
        if (this.#blame(mirror, error, signal) && isIntegrity(error)) continue;
        if (position - before >= PROGRESS_BYTES) retries.progressed();
        await retries.failed(error).catch((last: unknown) => {
          throw withPosition(last, blob, position);
        });
      }
    }
  }

  /**
   * Yields the bytes of all ranges [start, end), in order, exactly as many; no chunk has bytes of two ranges. The
   * ranges ascend and do not overlap.
   */
  ranges(
    source: Source,
    blob: BlobName,
    ranges: readonly ByteRange[],
    signal?: AbortSignal,
  ): AsyncGenerator<Buffer, void, undefined> {
    if (this.#fleet === undefined) return this.#ranges(source, blob, ranges, signal);
    return this.#ofFleet(source, blob, ranges, signal);
  }

  async *#ranges(
    source: Source,
    blob: BlobName,
    ranges: readonly ByteRange[],
    signal: AbortSignal | undefined,
  ): AsyncGenerator<Buffer, void, undefined> {
    for (const [at, [start, end]] of ranges.entries()) {
      checkRange(blob, start, end);
      if (start < (ranges[at - 1]?.[1] ?? 0))
        throw new CofaError('invalid-argument', `ranges of blob ${blob.digest} overlap`);
    }
    const left = ranges.flatMap(
      ([start, end]): Array<[number, number]> => (start === end ? [] : [[start, end]]),
    );
    if (left.length > 1 && !this.#single.has(source.registry)) {
      try {
        yield* this.#together(source, blob, left, signal);
      } catch (error) {
        // Requests for one range each have their own ways to recover from any of these.
        if (!(error instanceof RequestFailure) || !error.retryable) throw error;
        if (error.code === 'integrity') this.#single.add(source.registry);
      }
    }
    yield* this.#oneByOne(source, blob, left, signal);
  }

  /** Yields a whole blob; throws `integrity` at its end where size or digest are not the promised ones. */
  async *stream(
    source: Source,
    blob: BlobName,
    signal?: AbortSignal,
  ): AsyncGenerator<Buffer, void, undefined> {
    try {
      yield* this.#checked(source, blob, signal);
      this.right(source, blob, [[0, blob.size]]);
    } catch (error) {
      if (isIntegrity(error)) this.doubt(source, blob);
      throw error;
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
    const key = locationKey(source, blob);
    let doubts = 0;
    const read = async () => {
      doubts = this.#doubts.get(key) ?? 0;
      const chunks: Buffer[] = [];
      const pieces = paced(this.#checked(source, blob, signal), `blob ${blob.digest}`, WHOLE_PACE);
      for await (const chunk of pieces) chunks.push(chunk);
      return chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks);
    };
    // Another reader, to whom the same host sent them, may have found them wrong meanwhile.
    const doubt = () => this.doubt(source, blob) || (this.#doubts.get(key) ?? 0) > doubts;
    const { value, reads } = await readUntilRight(read, doubt);
    if (reads === 1) this.right(source, blob, [[0, blob.size]]);
    else this.settle(blob);
    return value;
  }

  async *#checked(
    source: Source,
    blob: BlobName,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<Buffer, void, undefined> {
    const hash = new Digest();
    for await (const chunk of this.range(source, blob, 0, blob.size, signal)) {
      hash.update(chunk);
      yield chunk;
    }
    const digest = hash.end();
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

  /** As many of the ranges as one answer brings, from the first on; the rest stays in `left`. */
  async *#together(
    source: Source,
    blob: BlobName,
    left: Array<[number, number]>,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<Buffer, void, undefined> {
    const range = `bytes=${left.map(([start, end]) => `${start}-${end - 1}`).join(',')}`;
    const reply = await this.#open(source, blob, range, NO_SEVERAL, signal);
    const asked = left.length;
    let behind = 0;
    let isOver = false;
    try {
      if (reply.status !== 206) {
        this.#single.add(source.registry);
        if (reply.status !== 200) await discard(reply.body);
        return;
      }
      for await (const { at, bytes } of placed(reply, blob, asked)) {
        if (left.length === 0) behind += bytes.length;
        if (behind > DRAIN_BYTES) return;
        yield* takeFrom(left, at, bytes);
      }
      isOver = true;
    } catch (error) {
      throw bodyFailure(error, reply, signal);
    } finally {
      if (isOver) letEnd(reply.body);
      else reply.body.destroy();
    }
  }

  async *#oneByOne(
    source: Source,
    blob: BlobName,
    ranges: ReadonlyArray<readonly [number, number]>,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<Buffer, void, undefined> {
    const waiting = ranges.values();
    const begun: Array<{ body: AsyncGenerator<Buffer, void, undefined>; first: Promise<Step> }> = [];
    const begin = () => {
      const next = waiting.next();
      if (next.done === true) return;
      const body = this.#range(source, blob, ...next.value, signal);
      const first = body.next();
      // The loop awaits it when its turn comes.
      first.catch(() => {});
      begun.push({ body, first });
    };
    for (let count = 0; count < SIDE_BY_SIDE; count++) begin();
    try {
      for (let next = begun[0]; next !== undefined; next = begun[0]) {
        for (let step = await next.first; step.done !== true; step = await next.body.next()) yield step.value;
        begun.shift();
        begin();
      }
    } finally {
      for (const { body } of begun) body.return().catch(() => {});
    }
  }

  /** The reply to a request for these bytes: 206, or 200 with the whole blob; or one of the `expect` statuses. */
  async #open(
    source: Source,
    blob: BlobName,
    range: string | undefined,
    allowed: readonly number[],
    signal: AbortSignal | undefined,
  ): Promise<BlobReply> {
    const headers: Record<string, string> = { accept: '*/*', 'accept-encoding': 'identity' };
    if (range !== undefined) headers['range'] = range;
    const key = locationKey(source, blob);
    const direct = await this.#openDirect(key, headers, signal);
    if (direct !== undefined) return direct;
    const reply = await this.#api.request({
      registry: source.registry,
      method: 'GET',
      target: `/v2/${source.repository}/blobs/${blob.digest}`,
      scope: { repository: source.repository, push: false },
      headers,
      need: source.direct === true ? undefined : ['pull'],
      mirrorExpect: [200, 206, ...allowed],
      expect: [200, 206, 416, ...allowed],
      what: `blob ${blob.digest} of ${source.repository}`,
      signal,
    });
    if (reply.status === 416 && !allowed.includes(416)) {
      await discard(reply.body);
      throw new CofaError(
        'integrity',
        `${reply.url.host} has fewer bytes of blob ${blob.digest} than the ${blob.size} of its manifest (416 for ${range ?? 'all of it'})`,
        {
          hint: WRONG_BLOB,
        },
      );
    }
    if (reply.crossed) this.#remember(key, reply.url, reply.mirror);
    this.#noteMirror(key, reply.mirror);
    return reply;
  }

  async #openDirect(
    key: string,
    headers: Record<string, string>,
    signal: AbortSignal | undefined,
  ): Promise<BlobReply | undefined> {
    const known = this.#locations.get(key);
    if (known === undefined) return undefined;
    if (known.until > this.#api.settings.ambient.now()) {
      try {
        const reply = await this.#api.requestDirect(known.url, headers, signal);
        if (reply.status === 200 || reply.status === 206) return { ...reply, mirror: known.mirror };
        await discard(reply.body);
      } catch (error) {
        // In any of these cases the registry knows a better address, or says what is wrong.
        if (!(error instanceof RequestFailure)) throw error;
      }
    }
    this.#locations.delete(key);
    return undefined;
  }

  /**
   * The bytes of a blob are wrong: mirrors that brought any of them are not asked for a while, nor is the fleet for this blob. True
   * where one did.
   */
  doubt(source: Source, blob: Pick<BlobName, 'digest'>): boolean {
    const key = locationKey(source, blob);
    const isHelped = this.#leaveOut(key, blob);
    if (!isHelped) return false;
    const doubts = this.#doubts.get(key) ?? 0;
    this.#doubts.delete(key);
    this.#doubts.set(key, doubts + 1);
    if (this.#doubts.size > MAX_LOCATIONS) this.#doubts.delete(this.#doubts.keys().next().value as string);
    return true;
  }

  #leaveOut(key: string, blob: Pick<BlobName, 'digest'>): boolean {
    // Then the registry is not at fault, nor its mirrors.
    if (this.#door?.doubt(blob) === true) return true;
    this.#locations.delete(key);
    const mirrors = this.#mirrors.get(key);
    this.#mirrors.delete(key);
    for (const mirror of mirrors ?? []) this.#api.blame(mirror, 'wrong');
    return mirrors !== undefined;
  }

  /** These bytes of a blob were verified: what of them came from the fleet, this node gives to others. */
  right(source: Source, blob: BlobName, ranges: readonly ByteRange[]): void {
    this.#door?.right(source, blob, ranges);
  }

  /** The bytes that came behind a doubt are right: members of the fleet that sent others are told of. */
  settle(blob: Pick<BlobName, 'digest'>): void {
    this.#door?.settle(blob);
  }

  async close(): Promise<void> {
    await this.#door?.close();
  }

  #noteMirror(key: string, mirror: string | undefined): void {
    if (mirror === undefined) return;
    const mirrors = this.#mirrors.get(key) ?? new Set();
    this.#mirrors.delete(key);
    this.#mirrors.set(key, mirrors.add(mirror));
    if (this.#mirrors.size > MAX_LOCATIONS) this.#mirrors.delete(this.#mirrors.keys().next().value as string);
  }

  /** Notes that a mirror's answer broke off or was no answer to what was asked; true where it was a mirror's. */
  #blame(mirror: string | undefined, error: unknown, signal: AbortSignal | undefined): boolean {
    if (mirror === undefined || signal?.aborted === true) return false;
    this.#api.blame(mirror, isIntegrity(error) ? 'wrong' : 'broken');
    return true;
  }

  #remember(key: string, url: URL, mirror: string | undefined): void {
    this.#locations.set(key, { url, mirror, until: this.#api.settings.ambient.now() + LOCATION_MS });
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
    let isOver = false;
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
      for await (let chunk of bytesOf(reply)) {
        if (skip >= chunk.length) {
          skip -= chunk.length;
          continue;
        }
        chunk = chunk.subarray(skip, skip + wanted);
        skip = 0;
        wanted -= chunk.length;
        yield chunk;
        if (wanted === 0) break;
      }
      isOver = true;
    } catch (error) {
      throw bodyFailure(error, reply, signal);
    } finally {
      if (isOver) letEnd(reply.body);
      else reply.body.destroy();
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

/** `mirror`: the one that gave it; undefined: the registry. */
type BlobReply = Reply & { mirror: string | undefined };

const isIntegrity = (error: unknown): boolean => error instanceof CofaError && error.code === 'integrity';

type Step = IteratorResult<Buffer, void>;

function checkRange(blob: BlobName, start: number, end: number): void {
  checkName(blob);
  const isInside = Number.isSafeInteger(start) && Number.isSafeInteger(end) && start >= 0 && end <= blob.size;
  if (isInside && start <= end) return;
  throw new CofaError(
    'invalid-argument',
    `bytes ${start} to ${end} are not within blob ${blob.digest} (${blob.size} bytes)`,
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

function locationKey(source: Source, blob: Pick<BlobName, 'digest'>): string {
  return `${source.registry}/${source.repository}@${blob.digest}${source.direct === true ? ' direct' : ''}`;
}

function checkName(blob: BlobName): void {
  if (isDigest(blob.digest) && Number.isSafeInteger(blob.size) && blob.size >= 0) return;
  throw new CofaError('invalid-argument', 'a blob is named by its sha256 digest and its size in bytes');
}
