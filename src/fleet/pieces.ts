/**
 * Pieces that this member has: those that came just now in memory, those that it keeps on the disk (piece-store.ts). A piece that
 * came for a reader of this node is kept, and told to others, once the reader has verified what it used of it; one that a home
 * fetches is kept at once. Where the disk takes none it is here for a moment, which is long enough for those who ask together.
 */
import { createHash } from 'node:crypto';
import type { Logger } from 'pino';
import { toErrorRecord } from '../../schemas/errors.ts';
import type { PieceStore } from './piece-store.ts';
import { Turns } from './turns.ts';

export interface HeldPiece {
  bytes: Buffer;
  /** `registry`, or the member that gave it. */
  from: string;
}

export interface PiecesOptions {
  store: Pick<PieceStore, 'read' | 'write' | 'forget' | 'has' | 'originOf'>;
  /** A piece that was kept is no more. */
  onLost: (key: string) => void;
  log: Logger;
}

/** In memory. */
const MOST_FRESH = 48;
/** Dropped pieces that are compared with what the registry sends next. */
const MOST_DROPPED = 1_024;
/** Of these, those that are read from the disk at a time. */
const READS = 4;

export interface Fresh extends HeldPiece {
  /** Others may have it. */
  isKept: boolean;
}

export class Pieces {
  readonly #options: PiecesOptions;
  /** By key, the one that came last at the end. */
  readonly #fresh = new Map<string, Fresh>();
  /** By key: what the disk has yet to do with a piece, one thing after the other, and the last of it. */
  readonly #disk = new Map<string, { last: 'write' | 'drop'; done: Promise<unknown> }>();
  readonly #reads = new Turns(READS, MOST_DROPPED);
  /** By key: SHA-256 of what was dropped. */
  readonly #dropped = new Map<string, Promise<string | undefined>>();

  constructor(options: PiecesOptions) {
    this.#options = options;
  }

  /** Came for a reader, who has not verified it yet. */
  came(key: string, piece: HeldPiece): void {
    if (this.#fresh.get(key)?.isKept === true) return;
    this.#put(key, { ...piece, isKept: false });
  }

  /** One that came a moment ago, verified or not. */
  fresh(key: string): Fresh | undefined {
    return this.#fresh.get(key);
  }

  /** It was verified, or this member is its home: it is kept from now on. False: it is not here any more. */
  keep(key: string, piece: HeldPiece | undefined = this.#fresh.get(key)): boolean {
    if (piece === undefined) return false;
    this.#put(key, { ...piece, isKept: true });
    void this.#write(key, piece);
    return true;
  }

  /** A piece that is kept; undefined where it is not here, or not with so many bytes. */
  async read(key: string, length: number): Promise<HeldPiece | undefined> {
    const fresh = this.#fresh.get(key);
    if (fresh?.isKept === true) return fresh.bytes.length === length ? fresh : undefined;
    const { store } = this.#options;
    const from = store.originOf(key);
    const bytes = await store.read(key, length);
    return bytes === undefined || from === undefined ? undefined : { bytes, from };
  }

  /** Keeps it no longer, nor in memory. What a registry sends for it next is compared with it (`differs`). */
  drop(key: string): void {
    const fresh = this.#fresh.get(key);
    this.#fresh.delete(key);
    const { store } = this.#options;
    const gone = this.#onDisk(key, 'drop', async () => {
      const bytes = fresh?.isKept === true ? fresh.bytes : await this.#readDropped(key);
      await store.forget(key).catch(() => {});
      return bytes === undefined ? undefined : hashOf(bytes);
    });
    this.#dropped.set(key, gone);
    if (this.#dropped.size > MOST_DROPPED) this.#dropped.delete(this.#dropped.keys().next().value as string);
  }

  async #readDropped(key: string): Promise<Buffer | undefined> {
    const release = await this.#reads.take('demand').catch(() => undefined);
    // Of too many at once not all are compared.
    if (release === undefined) return undefined;
    return await this.#options.store
      .read(key)
      .catch(() => undefined)
      .finally(release);
  }

  /** Keeps it no longer, nor reads it: of all that a liar gave there may be gigabytes. */
  forget(key: string): void {
    this.#fresh.delete(key);
    void this.#onDisk(key, 'drop', () => this.#options.store.forget(key).catch(() => {}));
  }

  /** Whether a piece that was dropped had other bytes than these. */
  async differs(key: string, bytes: Buffer): Promise<boolean> {
    const dropped = this.#dropped.get(key);
    if (dropped === undefined) return false;
    this.#dropped.delete(key);
    const hash = await dropped;
    return hash !== undefined && hash !== hashOf(bytes);
  }

  /** The disk has lost it. */
  lost(key: string): void {
    if (this.#fresh.get(key)?.isKept === true || this.#disk.has(key)) return;
    this.#options.onLost(key);
  }

  async #write(key: string, { bytes, from }: HeldPiece): Promise<void> {
    if (this.#disk.get(key)?.last === 'write') return;
    const { store, log } = this.#options;
    await this.#onDisk(key, 'write', () =>
      store.write(key, bytes, from).catch((error: unknown) => {
        log.debug({ error: toErrorRecord(error) }, 'a piece is not kept on the disk');
      }),
    );
    if (!store.has(key)) this.lost(key);
  }

  /** Begins `act`, which throws nothing, when what the disk does with the piece has ended: a write that ends later would bring back what was dropped. */
  async #onDisk<T>(key: string, last: 'write' | 'drop', act: () => Promise<T>): Promise<T> {
    const before = this.#disk.get(key)?.done;
    const done = before === undefined ? act() : before.then(act);
    const entry = { last, done };
    this.#disk.set(key, entry);
    try {
      return await done;
    } finally {
      if (this.#disk.get(key) === entry) this.#disk.delete(key);
    }
  }

  #put(key: string, piece: Fresh): void {
    this.#fresh.delete(key);
    this.#fresh.set(key, piece);
    if (this.#fresh.size <= MOST_FRESH) return;
    const [oldest, { isKept }] = this.#fresh.entries().next().value as [string, Fresh];
    this.#fresh.delete(oldest);
    if (isKept && !this.#options.store.has(oldest)) this.lost(oldest);
  }
}

const hashOf = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
