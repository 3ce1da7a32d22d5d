/**
 * The libraries that a program is loaded with, as ld.so finds them: DT_NEEDED, breadth first, along RPATH or RUNPATH
 * with $ORIGIN, LD_LIBRARY_PATH, the folders of ld.so.conf and the default ones. It does not read the cache of
 * ldconfig, which lists what these folders hold.
 *
 * Sources: ld.so(8); for musl its ldso/dynlink.c, whose folders are among the default ones.
 */
import { type Elf, joined, type Part, readElf } from './elf.ts';
import { type FoundFile, folderOf, type HintSearch, nameOf } from './image-files.ts';

const DEFAULT_FOLDERS = ['/lib64', '/usr/lib64', '/lib', '/usr/lib', '/usr/local/lib'];
const MOST_CONFIGURATIONS = 64;
const MOST_CONFIGURATION_BYTES = 65_536;
const MOST_FOLDERS = 128;
const MOST_LIBRARIES = 1_024;
const CACHE = '/etc/ld.so.cache';

/** Files up to this size are mapped and then read nearly whole, bytes. */
const SMALL = 1 << 20;
/**
 * A process reads all mapped parts soon, up to this size: the loader's first steps and their data lie all over them.
 */
const WHOLE = 5 << 20;
/** The part to hint at where the loader's tables are unknown. */
const FRONT = 2 << 20;
/** Bytes of one library's tables to hint at, at most. */
const MOST_TABLES = 192 << 20;
const MOST_WRITABLE = 32 << 20;
/**
 * Around a missing page of a mapped file the kernel reads as much as its readahead (src/supervisor/images/attachment.ts).
 */
const AROUND = 64 << 10;
/** Of libraries that the program itself is linked with a process reads nearly all in the end, up to this size. */
const WHOLE_LATER = 48 << 20;

/** Libraries, and what they read when they are loaded. */
const READ_BY = [['libcrypto.so', '/etc/ssl/openssl.cnf']] as const;

interface Loaded {
  file: FoundFile;
  elf: Elf;
  /** Where $ORIGIN is. */
  origins: string[];
  by: Loaded | undefined;
}

export class Libraries {
  readonly #search: HintSearch;
  readonly #environment: ReadonlyMap<string, string>;
  readonly #loaded = new Set<string>();
  readonly #elfs = new Map<string, Elf | undefined>();
  #folders: Promise<string[]> | undefined;
  /** Parts of large files that a start reads later. */
  readonly #later: Array<{ file: FoundFile; parts: Part[]; program: string }> = [];

  constructor(search: HintSearch, environment: ReadonlyMap<string, string>) {
    this.#search = search;
    this.#environment = environment;
  }

  /** Notes the program or library, its interpreter and its libraries. False: it is no ELF file. */
  async load(file: FoundFile, path: string): Promise<boolean> {
    const elf = await this.#elfOf(file);
    if (elf === undefined) return false;
    const root: Loaded = { file, elf, origins: originsOf(file, path), by: undefined };
    if (this.#loaded.has(file.path)) return true;
    this.#loaded.add(file.path);
    // The kernel reads the program's head, and the loader runs before the rest is read.
    const isProgram = elf.interpreter !== undefined;
    if (isProgram) this.#search.want(file, 0, 4096);
    if (elf.interpreter !== undefined) this.#search.wantPath(elf.interpreter);
    this.#search.wantPath(CACHE);
    const pending = [root];
    for (const next of pending) {
      if (next !== root || !isProgram)
        await this.#wantLibrary(next.file, next.elf, next === root || (isProgram && next.by === root));
      for (const name of next.elf.needed) {
        if (this.#loaded.size >= MOST_LIBRARIES) break;
        const found = await this.#findLibrary(name, next);
        if (found === undefined || this.#loaded.has(found.file.path)) continue;
        this.#loaded.add(found.file.path);
        pending.push(found);
      }
    }
    if (isProgram) await this.#wantLibrary(file, elf, true);
    return true;
  }

  /** Notes the parts that were left for later. */
  finish(): void {
    const { program } = this.#search;
    for (const { file, parts, program: whose } of this.#later.splice(0)) {
      this.#search.program = whose;
      for (const [from, to] of parts) this.#search.want(file, from, to);
    }
    this.#search.program = program;
  }

  async #wantLibrary(file: FoundFile, elf: Elf, isDirect: boolean): Promise<void> {
    for (const [library, path] of READ_BY)
      if (nameOf(file.path).startsWith(library)) this.#search.wantPath(path);
    if (file.size <= SMALL) {
      this.#search.want(file);
      return;
    }
    const { segments, tables } = elf;
    this.#search.want(file, 0, tables.length === 0 ? FRONT : AROUND);
    let left = MOST_TABLES;
    for (const [from, to] of tables) {
      const end = Math.min(to, from + left);
      if (end > from) this.#search.want(file, from, end + AROUND);
      left -= end - from;
    }
    for (const { offset, size, isWritable } of segments)
      if (isWritable && size <= MOST_WRITABLE)
        this.#search.want(file, offset - AROUND, offset + size + AROUND);
    if (file.size <= WHOLE) {
      for (const [from, to] of usedParts(elf)) this.#search.want(file, from, to);
      return;
    }
    for (const [from, to] of around(await elf.initializers())) this.#search.want(file, from, to);
    // Of libraries that only libraries are linked with, a start reads parts here and there.
    if (!isDirect) return;
    const code = segments.reduce((sum, { size, isCode }) => sum + (isCode ? size : 0), 0);
    // Of a library that holds mostly data, a start reads parts here and there.
    const isMostlyCode = code * 3 >= file.size;
    if (isMostlyCode && file.size <= WHOLE_LATER)
      this.#later.push({ file, parts: usedParts(elf), program: this.#search.program });
  }

  async #findLibrary(name: string, by: Loaded): Promise<Loaded | undefined> {
    const folders = name.includes('/') ? [''] : await this.#foldersFor(by);
    for (const folder of folders) {
      const path = folder === '' ? name : `${folder}/${name}`;
      const file = this.#search.files.find(path);
      if (file?.kind !== 'file') continue;
      const elf = await this.#elfOf(file);
      if (elf?.kind === by.elf.kind) return { file, elf, origins: originsOf(file, path), by };
    }
    return undefined;
  }

  async #foldersFor(by: Loaded): Promise<string[]> {
    const folders: string[] = [];
    const add = (list: string | undefined, origins: readonly string[]) => {
      for (const part of list?.split(':') ?? []) {
        if (folders.length >= MOST_FOLDERS) return;
        if (!/\$\{?ORIGIN\}?/.test(part)) {
          if (part !== '') folders.push(part);
          continue;
        }
        for (const origin of origins) folders.push(part.replaceAll(/\$\{?ORIGIN\}?/g, origin));
      }
    };
    if (by.elf.runpath === undefined) {
      let depth = 0;
      for (let one: Loaded | undefined = by; one !== undefined && depth < 16; one = one.by, depth++)
        if (one.elf.runpath === undefined) add(one.elf.rpath, one.origins);
    }
    add(this.#environment.get('LD_LIBRARY_PATH'), []);
    add(by.elf.runpath, by.origins);
    this.#folders ??= this.#systemFolders();
    return [...folders, ...(await this.#folders)];
  }

  async #systemFolders(): Promise<string[]> {
    const folders: string[] = [];
    const pending = ['/etc/ld.so.conf'];
    for (const path of pending) {
      const file = this.#search.files.find(path);
      if (file?.kind !== 'file') continue;
      const text = await this.#search.text(file, MOST_CONFIGURATION_BYTES);
      for (const line of text?.split('\n') ?? []) {
        const words = line.replace(/#.*/, '').trim();
        if (words === '' || folders.length >= MOST_FOLDERS) continue;
        const included = /^include\s+(\S+)$/.exec(words)?.[1];
        if (included === undefined) folders.push(words.replace(/[=\s].*$/, ''));
        else if (pending.length < MOST_CONFIGURATIONS)
          pending.push(...this.#matching(included, folderOf(path)));
      }
    }
    return [...folders, ...this.#multiarch(), ...DEFAULT_FOLDERS];
  }

  /** `/etc/ld.so.conf.d/*.conf` and the like: only the last part may be a pattern. */
  #matching(pattern: string, base: string): string[] {
    const path = pattern.startsWith('/') ? pattern : `${base}/${pattern}`;
    const [before, after, more] = nameOf(path).split('*');
    if (after === undefined) return [path];
    if (before === undefined || more !== undefined) return [];
    return this.#search.files
      .list(folderOf(path))
      .filter((name) => name.startsWith(before) && name.endsWith(after))
      .slice(0, MOST_CONFIGURATIONS)
      .map((name) => `${folderOf(path)}/${name}`);
  }

  /** Debian's built-in folders. */
  #multiarch(): string[] {
    const names = this.#search.files
      .list('/usr/lib')
      .filter((name) => /^[a-z0-9_]+-linux-[a-z0-9_]+$/.test(name));
    return names.slice(0, 8).flatMap((name) => [`/lib/${name}`, `/usr/lib/${name}`]);
  }

  async #elfOf(file: FoundFile): Promise<Elf | undefined> {
    if (this.#elfs.has(file.path)) return this.#elfs.get(file.path);
    const elf = await readElf(this.#search, file);
    this.#elfs.set(file.path, elf);
    return elf;
  }
}

/** The parts of a file that the kernel reads for these places, which rise. */
const around = (places: readonly number[]): Part[] =>
  joined(places.map((place): Part => [place - AROUND, place + AROUND]));

/** The mapped parts of a file, without the tables of exceptions. */
function usedParts({ segments, unwinding }: Elf): Part[] {
  return segments.map(({ offset, size }) => {
    const hasTables = unwinding !== undefined && offset <= unwinding && unwinding < offset + size;
    return [offset, hasTables ? unwinding : offset + size];
  });
}

/** The folder where it was found, and the one where it lies. */
function originsOf(file: FoundFile, path: string): string[] {
  return [...new Set([folderOf(path), folderOf(file.path)])];
}
