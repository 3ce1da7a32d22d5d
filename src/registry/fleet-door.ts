/**
 * Blobs from the fleet: the way from a process that reads blobs to the member of the fleet on this node (src/fleet), over a
 * unix socket for root alone. The member knows the others; this end knows the registry, asks it for a token where a home
 * wants to see one, and asks it for all that the fleet does not bring.
 *
 * What comes is as little proven as what a registry sends: the process that uses it verifies it. Where it was right the member
 * hears so, and gives it to others. The last pieces are kept until then: where they were wrong, the bytes are read from the registry,
 * and each piece that differs is told to the member with the name of the one who sent it.
 */
import type { BlobSource } from '../../schemas/fetch.ts';
import { isFleetChallenge } from '../../schemas/check-fleet.ts';
import {
  bytesOfPiece,
  type FleetChallenge,
  type FleetHold,
  type FleetWrong,
  MAX_ASKED,
  PIECE_BYTES,
  PIECE_HEADERS,
  PIECE_STATUS,
  piecesOfBytes,
} from '../../schemas/fleet.ts';
import type { Source } from './api.ts';
import type { BlobName, ByteRange } from './blob-reader.ts';
import { Pool } from './undici-parts.ts';

export interface FleetDoorOptions {
  /** Of the member's. */
  socket: string;
  /**
   * The registry's token of this node's own pull, as it stands behind `Bearer`; undefined where there is none that may be
   * handed over. Errors: the registry's.
   */
  token: (source: Source, digest: string, signal: AbortSignal | undefined) => Promise<string | undefined>;
  /** Bytes of a blob from the registry itself, by this node's own right. Errors: the registry's. */
  read: (source: Source, blob: BlobName, range: ByteRange, signal: AbortSignal) => Promise<Buffer>;
  /** ms. */
  now: () => number;
}

/** Pieces on their way for one reader. */
const AHEAD = 4;
/** What is smaller costs a registry less than the question to a home costs the reader. */
const LEAST_BYTES = 64 << 10;
/** Pieces that are kept until they are verified: those on their way for some jobs, and the one that is decoded. */
const KEPT = 12;
/** Pieces of one blob that are compared with the registry's. */
const MOST_SUSPECTED = 24;
/** A blob of which wrong bytes came is read from the registry for so long, ms. */
const DIRECT_MS = 60_000;
/** A repository whose registry gives no token that could be handed over: no other process of the fleet is told to bring one, ms. */
const OWN_MS = 600_000;
/** Questions for one piece: with a token, with a proof for each member that has it. */
const ROUNDS = 6;
/** Where this process read something from the registry: no member to name. */
const SELF = '';
/** No member answered: nor will it at once, ms. */
const AWAY_MS = 1_000;
const ANSWER_MS = 20_000;
const MOST = 1_024;

interface Part {
  index: number;
  /** Of the piece. */
  from: number;
  to: number;
}

interface Kept {
  source: BlobSource;
  index: number;
  /** Of the blob. */
  at: number;
  bytes: Buffer;
  from: string;
}

interface Suspects {
  until: number;
  pieces: Kept[];
  /** By member, a piece that differed from what the registry sent, and its first byte that did, of the blob. */
  liars: Map<string, { piece: Kept; differs: number }>;
}

type Answer = { bytes: Buffer; from: string } | { status: number; challenge?: FleetChallenge };

/** What a process comes with. */
interface Shown {
  token: string | undefined;
  noToken: boolean;
}

export class FleetDoor {
  readonly #options: FleetDoorOptions;
  readonly #pool: InstanceType<typeof Pool>;
  readonly #kept: Kept[] = [];
  /** Pieces that the fleet brought and that no one has verified yet: digest and index, oldest first. */
  readonly #unverified = new Map<string, BlobSource>();
  /** By digest, oldest first. */
  readonly #suspects = new Map<string, Suspects>();
  /** Repositories that a home wants a token for, or that have none: until when. */
  readonly #private = new Map<string, number>();
  readonly #own = new Map<string, number>();
  /** Proofs that are being read, by nonce. */
  readonly #proving = new Map<string, Promise<void>>();
  #awayUntil = 0;

  constructor(options: FleetDoorOptions) {
    this.#options = options;
    this.#pool = new Pool('http://fleet', {
      socketPath: options.socket,
      connections: 16,
      pipelining: 1,
      headersTimeout: ANSWER_MS,
      bodyTimeout: ANSWER_MS,
    });
  }

  /** Whether the fleet is worth asking for the blob. */
  isAsked(source: Source, blob: BlobName): boolean {
    if (source.direct === true || blob.size < LEAST_BYTES) return false;
    const now = this.#options.now();
    return now >= this.#awayUntil && now >= (this.#suspects.get(blob.digest)?.until ?? 0);
  }

  /**
   * Yields the bytes of the ranges, in order, no chunk with bytes of two, as long as the fleet brings them. Returns what is
   * left. Errors: the signal's reason.
   */
  async *ranges(
    source: Source,
    blob: BlobName,
    ranges: readonly ByteRange[],
    signal: AbortSignal | undefined,
  ): AsyncGenerator<Buffer, ByteRange[], undefined> {
    const parts = ranges.flatMap(([start, end]) => partsOf(start, end));
    const left = (at: number): ByteRange[] => {
      const part = parts[at];
      if (part === undefined) return [];
      const from = part.index * PIECE_BYTES + part.from;
      return ranges.flatMap(([start, end]): ByteRange[] =>
        end <= from ? [] : [[Math.max(start, from), end]],
      );
    };
    const leave = new AbortController();
    const stop = signal === undefined ? leave.signal : AbortSignal.any([signal, leave.signal]);
    const coming: Array<Promise<Answer>> = [];
    const begin = (part: Part | undefined) => {
      if (part === undefined) return;
      const answer = this.#part(source, blob, part, stop);
      // The loop awaits it when its turn comes.
      answer.catch(() => {});
      coming.push(answer);
    };
    try {
      for (const part of parts.slice(0, AHEAD)) begin(part);
      for (const [at, part] of parts.entries()) {
        const answer = await (coming.shift() as Promise<Answer>);
        if ('status' in answer) return left(at);
        if (answer.from !== SELF)
          this.#keep({
            source: blobOf(source, blob),
            index: part.index,
            at: part.index * PIECE_BYTES + part.from,
            ...answer,
          });
        begin(parts[at + AHEAD]);
        yield answer.bytes;
      }
      return [];
    } finally {
      leave.abort();
    }
  }

  /** Bytes of a blob were wrong. True where the fleet brought any: the registry is asked from now on, and what it sends compared. */
  doubt({ digest }: Pick<BlobName, 'digest'>): boolean {
    for (const [key, source] of this.#unverified) if (source.digest === digest) this.#unverified.delete(key);
    const pieces = this.#kept.filter((one) => one.source.digest === digest);
    if (pieces.length === 0) return false;
    for (let at = this.#kept.length - 1; at >= 0; at--)
      if (this.#kept[at]?.source.digest === digest) this.#kept.splice(at, 1);
    // Another job may have doubted the blob just now: whom it suspects is still to be found out.
    const known = this.#suspects.get(digest);
    // Of others not even the registry's bytes were right, or no reader came again.
    for (const other of this.#suspects.values()) if (other !== known) other.pieces = [];
    remember(this.#suspects, digest, {
      until: this.#options.now() + DIRECT_MS,
      pieces: [...(known?.pieces ?? []), ...pieces].slice(-MOST_SUSPECTED),
      liars: known?.liars ?? new Map(),
    });
    return true;
  }

  /** What the registry sends of a blob, from `at` on. */
  compare({ digest }: Pick<BlobName, 'digest'>, at: number, chunk: Buffer): void {
    const suspects = this.#suspects.get(digest);
    if (suspects === undefined) return;
    // What the registry sent before may have been spoilt on its way: its newest bytes count.
    for (const [member, { piece, differs }] of suspects.liars)
      if (chunk[differs - at] === piece.bytes[differs - piece.at]) suspects.liars.delete(member);
    for (const piece of suspects.pieces) {
      if (suspects.liars.has(piece.from)) continue;
      const differs = firstDifference(piece, at, chunk);
      if (differs !== undefined) suspects.liars.set(piece.from, { piece, differs });
    }
  }

  /** The registry's bytes were right: those who sent others are told to the member. */
  settle({ digest }: Pick<BlobName, 'digest'>): void {
    const suspects = this.#suspects.get(digest);
    if (suspects === undefined) return;
    suspects.pieces = [];
    for (const member of suspects.liars.keys()) this.#name(suspects, member);
  }

  /** These bytes were verified: what of them the fleet brought the member may give to others. */
  right(source: Source, blob: BlobName, ranges: readonly ByteRange[]): void {
    const indexes = new Set<number>();
    for (const [start, end] of ranges) {
      const [first, count] = piecesOfBytes(start, end);
      for (let index = first; index < first + count; index++)
        if (this.#unverified.delete(`${blob.digest} ${index}`)) indexes.add(index);
    }
    const rising = [...indexes].sort((a, b) => a - b);
    for (let at = 0; at < rising.length; at += MAX_ASKED)
      this.#tell('right', {
        v: 1,
        source: blobOf(source, blob),
        pieces: rising.slice(at, at + MAX_ASKED),
      });
    // The job that doubted them may have been stopped: whichever reads them after it names those who lied.
    const suspects = this.#suspects.get(blob.digest);
    if (suspects === undefined) return;
    for (const [member, { differs }] of suspects.liars)
      if (ranges.some(([start, end]) => differs >= start && differs < end)) this.#name(suspects, member);
  }

  #name(suspects: Suspects, member: string): void {
    const liar = suspects.liars.get(member);
    if (liar === undefined) return;
    suspects.liars.delete(member);
    suspects.pieces = suspects.pieces.filter(({ from }) => from !== member);
    const { source, index } = liar.piece;
    this.#tell('wrong', { v: 1, source, index, member });
  }

  #tell(what: 'wrong' | 'right', said: FleetWrong | FleetHold): void {
    const body = JSON.stringify(said);
    void this.#pool
      .request({ path: `/v1/${what}`, method: 'POST', body, headers: { 'content-type': 'application/json' } })
      .then(({ body: answer }) => answer.dump())
      .catch(() => {});
  }

  async close(): Promise<void> {
    await this.#pool.destroy().catch(() => {});
  }

  #keep(kept: Kept): void {
    remember(this.#unverified, `${kept.source.digest} ${kept.index}`, kept.source);
    this.#kept.push(kept);
    if (this.#kept.length > KEPT) this.#kept.shift();
  }

  async #part(source: Source, blob: BlobName, part: Part, signal: AbortSignal): Promise<Answer> {
    try {
      let shown = await this.#shown(source, blob, signal);
      for (let round = 0; round < ROUNDS; round++) {
        const answer = await this.#ask(source, blob, part, shown, signal);
        if (!('status' in answer)) return answer;
        const { status, challenge } = answer;
        if (status === PIECE_STATUS.fetch) return await this.#fetch(source, blob, part, signal);
        if (status === PIECE_STATUS.prove && challenge !== undefined)
          await this.#prove(source, blob, part, challenge, signal);
        else if (status === PIECE_STATUS.bring && shown.token === undefined && !shown.noToken)
          shown = await this.#bring(source, blob, signal);
        else return answer;
      }
      return { status: PIECE_STATUS.none };
    } catch (error) {
      signal.throwIfAborted();
      // The registry says what is wrong with it, or with our right, to the one who asks it next.
      if (isConnecting(error)) this.#awayUntil = this.#options.now() + AWAY_MS;
      return { status: PIECE_STATUS.none };
    }
  }

  /** What homes wanted to see lately. */
  async #shown(source: Source, { digest }: BlobName, signal: AbortSignal): Promise<Shown> {
    const now = this.#options.now();
    const repository = repositoryOf(source);
    if ((this.#own.get(repository) ?? 0) > now) return { token: undefined, noToken: true };
    const isPrivate = (this.#private.get(repository) ?? 0) > now;
    return {
      token: isPrivate ? await this.#options.token(source, digest, signal) : undefined,
      noToken: false,
    };
  }

  /** A home does not know whether this node may have the blob. */
  async #bring(source: Source, { digest }: BlobName, signal: AbortSignal): Promise<Shown> {
    const token = await this.#options.token(source, digest, signal);
    const until = this.#options.now() + OWN_MS;
    remember(token === undefined ? this.#own : this.#private, repositoryOf(source), until);
    return { token, noToken: token === undefined };
  }

  /** No member has it: this process reads it from the registry, by its own right, and offers it. Errors: the registry's. */
  async #fetch(source: Source, blob: BlobName, part: Part, signal: AbortSignal): Promise<Answer> {
    let bytes: Buffer = Buffer.alloc(0);
    try {
      bytes = await this.#options.read(source, blob, bytesOfPiece(part.index, blob.size), signal);
    } finally {
      // Also where it failed: others wait.
      void this.#put(source, blob, part, {}, bytes).catch(() => {});
    }
    return { bytes: bytes.subarray(part.from, part.to), from: SELF };
  }

  /** A member wants to see that the registry gives the blob to this node. Errors: the registry's. */
  async #prove(
    source: Source,
    blob: BlobName,
    part: Part,
    { nonce, from, to }: FleetChallenge,
    signal: AbortSignal,
  ): Promise<void> {
    const prove = async () => {
      const bytes = await this.#options.read(source, blob, [from, to], signal);
      await this.#put(source, blob, part, { [PIECE_HEADERS.nonce]: nonce }, bytes);
    };
    const proving = this.#proving.get(nonce) ?? prove();
    this.#proving.set(nonce, proving);
    try {
      await proving;
    } finally {
      this.#proving.delete(nonce);
    }
  }

  async #put(
    source: Source,
    blob: BlobName,
    { index }: Part,
    headers: Record<string, string>,
    body: Buffer,
  ): Promise<void> {
    const { body: answer } = await this.#pool.request({
      path: `/v1/piece/${blob.digest}/${index}`,
      method: 'PUT',
      headers: { ...headersOf(source, blob), ...headers },
      body,
    });
    await answer.dump();
  }

  async #ask(
    source: Source,
    blob: BlobName,
    { index, from, to }: Part,
    { token, noToken }: Shown,
    signal: AbortSignal,
  ): Promise<Answer> {
    const { statusCode, headers, body } = await this.#pool.request({
      path: `/v1/piece/${blob.digest}/${index}`,
      method: 'GET',
      headers: {
        ...headersOf(source, blob),
        range: `bytes=${from}-${to - 1}`,
        ...(token === undefined ? {} : { [PIECE_HEADERS.token]: token }),
        ...(noToken ? { [PIECE_HEADERS.noToken]: '1' } : {}),
      },
      signal,
    });
    if (statusCode === PIECE_STATUS.prove) {
      const said: unknown = await body.json();
      return isFleetChallenge(said) ? { status: statusCode, challenge: said } : { status: PIECE_STATUS.none };
    }
    if (statusCode !== 200 && statusCode !== 206) {
      await body.dump();
      return { status: statusCode };
    }
    const chunks: Buffer[] = [];
    let length = 0;
    for await (const chunk of body as AsyncIterable<Buffer>) {
      chunks.push(chunk);
      length += chunk.length;
      if (length > to - from) break;
    }
    if (length !== to - from) return { status: PIECE_STATUS.none };
    const from_ = headers[PIECE_HEADERS.from];
    return { bytes: Buffer.concat(chunks), from: typeof from_ === 'string' ? from_ : '' };
  }
}

/** The first byte of the blob that both have, and that differs: an offset in the blob. `chunk` begins at `at`. */
function firstDifference({ at: start, bytes }: Kept, at: number, chunk: Buffer): number | undefined {
  const [first, end] = [Math.max(at, start), Math.min(at + chunk.length, start + bytes.length)];
  if (first >= end) return undefined;
  const ours = chunk.subarray(first - at, end - at);
  const theirs = bytes.subarray(first - start, end - start);
  if (ours.equals(theirs)) return undefined;
  return first + ours.findIndex((byte, offset) => byte !== theirs[offset]);
}

/** The bytes `[start, end)` of a blob as parts of pieces. */
function partsOf(start: number, end: number): Part[] {
  const parts: Part[] = [];
  for (let at = start; at < end; ) {
    const index = Math.floor(at / PIECE_BYTES);
    const [first, last] = bytesOfPiece(index, end);
    parts.push({ index, from: at - first, to: last - first });
    at = last;
  }
  return parts;
}

const blobOf = ({ registry, repository }: Source, { digest, size }: BlobName): BlobSource => ({
  registry,
  repository,
  digest,
  size,
});

const headersOf = (source: Source, { size }: BlobName) => ({
  [PIECE_HEADERS.registry]: source.registry,
  [PIECE_HEADERS.repository]: source.repository,
  [PIECE_HEADERS.size]: String(size),
  [PIECE_HEADERS.class]: source.isPrefetch === true ? 'prefetch' : 'demand',
});

const repositoryOf = ({ registry, repository }: Source): string => `${registry}/${repository}`;

function remember<Value>(map: Map<string, Value>, key: string, value: Value): void {
  map.delete(key);
  map.set(key, value);
  if (map.size > MOST) map.delete(map.keys().next().value as string);
}

/** No process listens on the socket. */
const isConnecting = (error: unknown): boolean =>
  ['ENOENT', 'ECONNREFUSED', 'EACCES'].includes(String((error as { code?: unknown } | null)?.code));
