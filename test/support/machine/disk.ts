/**
 * The disk of a simulated machine: files in a tree, and what a power cut leaves of them.
 *
 * As with ext4: changes of names (create, rename, remove) take effect in order, and an fsync of any file makes all of
 * them before it durable. A power cut keeps some first part of the others. Data are durable once their file was synced.
 * Unsynced data are lost, kept or torn, sector by sector of 512 bytes; in a layer device block by block.
 */
import type { Random } from '../random.ts';

/** Content of a block of a layer device. */
export const HOLE = 0;
export const RIGHT = 1;
export const GARBAGE = 2;
/** As an attacker's span table says, and not as the layer has it. */
export const FORGED = 3;

export class SimFile {
  readonly number: number;
  path = '';
  /** bytes; a device has none of these */
  content: Buffer = Buffer.alloc(0);
  /** A layer device: what each block of 64 KiB holds. */
  blocks: Uint8Array | undefined;
  size = 0;
  durable: { content: Buffer; blocks: Uint8Array | undefined; size: number } = {
    content: Buffer.alloc(0),
    blocks: undefined,
    size: 0,
  };

  constructor(number: number) {
    this.number = number;
  }

  sync(): void {
    this.durable = {
      content: Buffer.from(this.content),
      blocks: this.blocks?.slice(),
      size: this.size,
    };
  }

  isSynced(block: number): boolean {
    return this.durable.blocks?.[block] === this.blocks?.[block];
  }

  /** Cuts the power: keeps what is durable, and some of the rest. */
  cut(random: Random): void {
    const { durable } = this;
    if (this.blocks !== undefined) {
      const before = durable.blocks ?? new Uint8Array(this.blocks.length);
      for (const [block, tag] of this.blocks.entries()) {
        const old = before[block] ?? HOLE;
        if (old !== tag) this.blocks[block] = random.pick([old, tag, tag === HOLE ? old : GARBAGE]);
      }
      if (durable.blocks === undefined && random.chance(0.5)) {
        this.blocks = undefined;
        this.size = durable.size;
      }
    } else if (!durable.content.equals(this.content)) {
      const torn = Buffer.from(random.chance(0.5) ? this.content : durable.content);
      for (let at = 0; at < torn.length; at += 512) {
        const source = random.chance(0.5) ? this.content : durable.content;
        torn.fill(0, at, Math.min(at + 512, torn.length));
        if (at < source.length) source.copy(torn, at, at, Math.min(at + 512, source.length));
      }
      this.content = torn;
      this.size = torn.length;
    }
    this.sync();
  }
}

export const BLOCK = 65_536;

type Change = { path: string; file: SimFile | 'folder' | undefined };

export class SimDisk {
  /** Full paths; folders are there as such. */
  readonly #names = new Map<string, SimFile | 'folder'>([['/', 'folder']]);
  #durable = new Map<string, SimFile | 'folder'>(this.#names);
  #journal: Change[] = [];
  #next = 1;

  get(path: string): SimFile | 'folder' | undefined {
    return this.#names.get(path);
  }

  file(path: string): SimFile | undefined {
    const found = this.#names.get(path);
    return found === 'folder' ? undefined : found;
  }

  /** Files whose path begins so. */
  *files(prefix: string): IterableIterator<[string, SimFile]> {
    for (const [path, file] of this.#names)
      if (file !== 'folder' && path.startsWith(prefix)) yield [path, file];
  }

  children(path: string): string[] {
    const prefix = path === '/' ? '/' : `${path}/`;
    const names = new Set<string>();
    for (const name of this.#names.keys())
      if (name.startsWith(prefix) && name !== path)
        names.add(name.slice(prefix.length).split('/')[0] as string);
    return [...names];
  }

  put(path: string, file: SimFile | 'folder'): void {
    if (file !== 'folder') file.path = path;
    this.#change({ path, file });
  }

  create(path: string): SimFile {
    const file = new SimFile(this.#next++);
    this.put(path, file);
    return file;
  }

  remove(path: string): void {
    this.#change({ path, file: undefined });
  }

  /** Data and names are on the disk when it returns. */
  sync(file: SimFile): void {
    file.sync();
    this.syncNames();
  }

  syncNames(): void {
    for (const change of this.#journal) apply(this.#durable, change);
    this.#journal = [];
  }

  cut(random: Random): void {
    const kept = random.int(0, this.#journal.length);
    for (const change of this.#journal.slice(0, kept)) apply(this.#durable, change);
    this.#journal = [];
    this.#names.clear();
    for (const [path, file] of this.#durable) this.#names.set(path, file);
    for (const file of new Set(this.#names.values())) if (file !== 'folder') file.cut(random);
    this.#durable = new Map(this.#names);
  }

  #change(change: Change): void {
    apply(this.#names, change);
    this.#journal.push(change);
  }
}

function apply(names: Map<string, SimFile | 'folder'>, { path, file }: Change): void {
  if (file === undefined) names.delete(path);
  else names.set(path, file);
}
