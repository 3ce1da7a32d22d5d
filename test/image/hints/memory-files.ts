/** Files of an image in memory, with symlinks. */
import type { FoundFile, ImageFiles } from '../../../src/image/hints/image-files.ts';

export type MemoryTree = Record<string, string | Buffer | { link: string }>;

/** `tree`: by absolute path; folders are there by what lies in them. Files below a folder named `bin` are programs. */
export class MemoryFiles implements ImageFiles {
  readonly reads: Array<{ path: string; at: number; length: number }> = [];
  readonly #tree: MemoryTree;
  readonly #folders = new Map<string, Set<string>>([['/', new Set()]]);

  constructor(tree: MemoryTree) {
    this.#tree = tree;
    for (const path of Object.keys(tree)) {
      const parts = path.split('/').slice(1);
      for (let count = 0; count < parts.length; count++) {
        const folder = `/${parts.slice(0, count).join('/')}`;
        const names = this.#folders.get(folder) ?? new Set();
        names.add(parts[count] as string);
        this.#folders.set(folder, names);
      }
    }
  }

  find(path: string): FoundFile | undefined {
    let left = path.split('/').filter((part) => part !== '' && part !== '.');
    let at = '/';
    for (let steps = 0; left.length > 0; steps++) {
      if (steps > 1000) return undefined;
      const part = left.shift() as string;
      if (part === '..') {
        at = at.slice(0, at.lastIndexOf('/')) || '/';
        continue;
      }
      const next = `${at === '/' ? '' : at}/${part}`;
      const entry = this.#tree[next];
      if (entry === undefined && !this.#folders.has(next)) return undefined;
      if (typeof entry === 'object' && !Buffer.isBuffer(entry)) {
        if (entry.link.startsWith('/')) at = '/';
        left = [...entry.link.split('/').filter((one) => one !== '' && one !== '.'), ...left];
      } else at = next;
    }
    const bytes = this.#bytes(at);
    return {
      path: at,
      kind: bytes === undefined ? 'dir' : 'file',
      size: bytes?.length ?? 0,
      isExecutable: /\/s?bin\/[^/]+$/.test(at),
      nid: 0,
    };
  }

  list(path: string): string[] {
    return [...(this.#folders.get(this.find(path)?.path ?? '') ?? [])].sort();
  }

  paths(): string[] {
    return Object.keys(this.#tree);
  }

  async read(file: FoundFile, at: number, length: number): Promise<Buffer> {
    this.reads.push({ path: file.path, at, length });
    return this.#bytes(file.path)?.subarray(at, at + length) ?? Buffer.alloc(0);
  }

  #bytes(path: string): Buffer | undefined {
    const entry = this.#tree[path];
    if (typeof entry === 'string') return Buffer.from(entry, 'latin1');
    return Buffer.isBuffer(entry) ? entry : undefined;
  }
}
