/**
 * What the search for hints needs of an image: its files, as a process in its root sees them, and bounds for its reads.
 */
import type { FoundFile } from '../flat-files.ts';

export type { FoundFile } from '../flat-files.ts';

/** Paths and names are bytes in latin1. */
export interface ImageFiles {
  /** Follows symlinks. Undefined: nothing is there. */
  find(path: string): FoundFile | undefined;
  /** Names in a folder; none where it is no folder. */
  list(path: string): readonly string[];
  /** Of everything that is no folder, symlinks among them. */
  paths(): Iterable<string>;
  /** As many bytes as there are from `at` on, `length` at most. */
  read(file: FoundFile, at: number, length: number): Promise<Buffer>;
}

/** The search ends at these bounds. */
export interface HintLimits {
  /** Bytes of files that it reads. */
  readBytes: number;
  /** Reads. */
  reads: number;
  /** Raw bytes that it hints at. */
  bytes: number;
  files: number;
}

export const HINT_LIMITS: HintLimits = {
  readBytes: 128 << 20,
  reads: 20_000,
  bytes: 960 << 20,
  files: 8_192,
};

/** Thrown at the bounds of a search: what it has found until then counts. */
export class EnoughHints extends Error {}

/** Part of a file that a start is likely to read. */
export interface Wanted {
  file: FoundFile;
  /** bytes */
  from: number;
  to: number;
  /**
   * Program that reads it, whatever its arguments are, as the command names it; '': only the image's own command does.
   */
  program: string;
}

/** What the search has found so far; counts its reads. */
export class HintSearch {
  readonly files: ImageFiles;
  readonly wanted: Wanted[] = [];
  /** Whose files are being found; see `Wanted`. */
  program = '';
  readonly #limits: HintLimits;
  readonly #isOver: () => boolean;
  readonly #known = new Map<string, Array<readonly [from: number, to: number]>>();
  #bytes = 0;
  #reads = 0;
  #readBytes = 0;

  /** `isOver`: whether the time is over. */
  constructor(files: ImageFiles, limits: HintLimits, isOver: () => boolean) {
    this.files = files;
    this.#limits = limits;
    this.#isOver = isOver;
  }

  /** Notes that a start reads [from, to) of the file; notes each part once. */
  want(file: FoundFile, from = 0, to = file.size): void {
    if (file.kind !== 'file') return;
    const begin = Math.max(0, from);
    const end = Math.min(to, file.size);
    if (begin >= end) return;
    const known = this.#known.get(file.path) ?? [];
    if (known.some(([first, last]) => first <= begin && end <= last)) return;
    const { bytes, files } = this.#limits;
    if (this.#bytes + end - begin > bytes || this.wanted.length >= files) throw new EnoughHints();
    this.#bytes += end - begin;
    this.#known.set(file.path, [...known, [begin, end]]);
    this.wanted.push({ file, from: begin, to: end, program: this.program });
  }

  /** The same for the file that a path leads to. Returns whether there is one. */
  wantPath(path: string): boolean {
    const file = this.files.find(path);
    if (file?.kind !== 'file') return false;
    this.want(file);
    return true;
  }

  /** Bytes of a file. Throws EnoughHints at the limits. */
  async read(file: FoundFile, at: number, length: number): Promise<Buffer> {
    this.#reads += 1;
    const bytes = Math.max(0, Math.min(length, file.size - at));
    this.#readBytes += bytes;
    if (this.#reads > this.#limits.reads || this.#readBytes > this.#limits.readBytes || this.#isOver())
      throw new EnoughHints();
    return bytes === 0 || file.kind !== 'file' ? Buffer.alloc(0) : await this.files.read(file, at, bytes);
  }

  /** A whole file as latin1 text; undefined where it is longer than `most` bytes. */
  async text(file: FoundFile, most: number): Promise<string | undefined> {
    return file.size > most ? undefined : (await this.read(file, 0, file.size)).toString('latin1');
  }
}

/** The folder that a path lies in. */
export const folderOf = (path: string): string => path.slice(0, path.lastIndexOf('/')) || '/';
export const nameOf = (path: string): string => path.slice(path.lastIndexOf('/') + 1);
