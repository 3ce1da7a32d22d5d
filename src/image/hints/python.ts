/**
 * The files that CPython reads when it starts and runs a script: those of every start, then the script and the modules
 * that it imports, and the modules that these import. It looks for modules as the interpreter does (its folders,
 * packages before extensions before sources), and reads the `.pyc` of a module that has been compiled.
 */
import { type FoundFile, folderOf, type HintSearch, nameOf } from './image-files.ts';
import type { Libraries } from './libraries.ts';
import { importsOf, type PythonImport } from './python-source.ts';

/**
 * Imported before the first line of a script. Since 3.11 most are frozen into the interpreter; some are read all the
 * same.
 */
const FIRST_MODULES = [
  'encodings',
  'encodings.aliases',
  'encodings.utf_8',
  'codecs',
  'io',
  'abc',
  'site',
  'os',
  'stat',
  '_collections_abc',
  'posixpath',
  'genericpath',
  '_sitebuiltins',
  'sitecustomize',
  'usercustomize',
];
/** The C library reads them for the interpreter. */
const FIRST_FILES = [
  '/usr/lib/locale/C.utf8/LC_CTYPE',
  '/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache',
  '/usr/lib/aarch64-linux-gnu/gconv/gconv-modules.cache',
  '/etc/localtime',
];
/**
 * The imports of compiled modules are no text. These names count as imports where they stand by themselves among a
 * module's strings: modules of the standard library that bring much with them.
 */
const NAMED_IN_CODE = [
  'secrets',
  'hashlib',
  'ssl',
  'ctypes',
  'threading',
  'pickle',
  'json',
  'datetime',
  'decimal',
  'random',
];
const MOST_COMPILED = 4 << 20;
/** A name with dots among them is most often one of a module. */
const DOTTED = /\0([A-Za-z_]\w{0,60}(?:\.[A-Za-z_]\w{0,60}){1,6})(?=\0)/g;
const MOST_DOTTED = 256;
const MOST_MODULES = 4_000;
/** Those that are not there among them. */
const MOST_NAMES = 40_000;
const MOST_SOURCE = 1 << 20;
const MOST_DEPTH = 200;
const MOST_PTH = 64;
const MOST_PTH_BYTES = 65_536;

interface Module {
  /** Full name. */
  name: string;
  /** The package that its relative imports start from. */
  pack: string;
  /** Where submodules lie; packages alone have such folders. */
  folders: string[];
  source: FoundFile | undefined;
}

export function isPython(program: string): boolean {
  return /^python(?:\d+(?:\.\d+)?)?$/.test(program);
}

export class Python {
  readonly #search: HintSearch;
  readonly #libraries: Libraries;
  readonly #environment: ReadonlyMap<string, string>;
  readonly #modules = new Map<string, Promise<Module | undefined>>();
  readonly #names = new Map<string, ReadonlySet<string>>();
  #found = 0;
  #folders: string[] = [];
  #tag = '';

  constructor(search: HintSearch, libraries: Libraries, environment: ReadonlyMap<string, string>) {
    this.#search = search;
    this.#libraries = libraries;
    this.#environment = environment;
  }

  /** `program`: the interpreter, found at `path`. False: its library is not there. */
  async start(program: FoundFile, path: string): Promise<boolean> {
    const home = this.#homeOf(program);
    if (home === undefined) return false;
    const { prefix, version } = home;
    this.#tag = `cpython-${version.replace('.', '')}`;
    const stdlib = `${prefix}/lib/python${version}`;
    const venv = this.#venvOf(path);
    const sites = [
      ...(venv === undefined ? [] : [`${venv}/lib/python${version}/site-packages`]),
      `/usr/local/lib/python${version}/dist-packages`,
      `${prefix}/lib/python3/dist-packages`,
      `${stdlib}/site-packages`,
    ].filter((folder) => this.#search.files.find(folder)?.kind === 'dir');
    const given = (this.#environment.get('PYTHONPATH') ?? '').split(':').filter((one) => one.startsWith('/'));
    this.#folders = [...given, stdlib, `${stdlib}/lib-dynload`, ...sites];
    for (const file of FIRST_FILES) this.#search.wantPath(file);
    if (venv !== undefined) this.#search.wantPath(`${venv}/pyvenv.cfg`);
    for (const name of FIRST_MODULES) await this.#import(name, 0);
    for (const folder of sites) await this.#readPaths(folder);
    return true;
  }

  /** Runs the command that stands behind the interpreter's name. */
  async run(args: readonly string[], folder: string): Promise<void> {
    for (let at = 0; at < args.length; at++) {
      const word = args[at] as string;
      if (word === '-m') {
        await this.#runModule(args[at + 1] ?? '', folder);
        return;
      }
      if (word === '-c') {
        await this.#importAll(importsOf(args[at + 1] ?? '', true), '', 0);
        return;
      }
      if (word === '-W' || word === '-X') at += 1;
      else if (!word.startsWith('-')) {
        await this.#runScript(word.startsWith('/') ? word : `${folder}/${word}`);
        return;
      }
    }
  }

  async #runModule(name: string, folder: string): Promise<void> {
    this.#folders.unshift(folder);
    await this.#import('runpy', 0);
    const module = await this.#import(name, 0);
    if (module === undefined) return;
    const main = module.folders.length > 0 ? await this.#import(`${name}.__main__`, 0) : module;
    if (main?.source !== undefined) await this.#runSource(main.source, main.pack);
  }

  async #runScript(path: string): Promise<void> {
    const file = this.#search.files.find(path);
    if (file === undefined) return;
    if (file.kind === 'dir') {
      this.#folders.unshift(file.path);
      await this.#runScript(`${file.path}/__main__.py`);
      return;
    }
    this.#folders.unshift(folderOf(file.path));
    this.#search.want(file);
    await this.#runSource(file, '');
  }

  async #runSource(file: FoundFile, pack: string): Promise<void> {
    const text = await this.#search.text(file, MOST_SOURCE);
    if (text !== undefined) await this.#importAll(importsOf(text, true), pack, 0);
  }

  /** Where the standard library lies: beside the interpreter, as getpath.py looks for it. */
  #homeOf(program: FoundFile): { prefix: string; version: string } | undefined {
    const exact = /^python(3\.\d+)$/.exec(nameOf(program.path))?.[1];
    for (let prefix = folderOf(folderOf(program.path)); ; prefix = folderOf(prefix)) {
      const base = prefix === '/' ? '' : prefix;
      const versions =
        exact === undefined
          ? this.#search.files.list(`${base}/lib`).flatMap((name) => /^python(3\.\d+)$/.exec(name)?.[1] ?? [])
          : [exact];
      for (const version of versions.slice(0, 8))
        if (this.#search.files.find(`${base}/lib/python${version}/os.py`) !== undefined)
          return { prefix: base, version };
      if (prefix === '/') return undefined;
    }
  }

  #venvOf(path: string): string | undefined {
    const folder = folderOf(folderOf(path));
    return this.#search.files.find(`${folder}/pyvenv.cfg`) === undefined ? undefined : folder;
  }

  /** `.pth` files name further folders, and modules to import. */
  async #readPaths(folder: string): Promise<void> {
    const names = this.#search.files.list(folder).filter((name) => name.endsWith('.pth'));
    for (const name of names.slice(0, MOST_PTH)) {
      const file = this.#search.files.find(`${folder}/${name}`);
      if (file?.kind !== 'file') continue;
      this.#search.want(file);
      const text = (await this.#search.text(file, MOST_PTH_BYTES)) ?? '';
      for (const line of text.split('\n')) {
        if (/^import\s/.test(line)) await this.#importAll(importsOf(line), '', 0);
        else if (line.trim() !== '' && !line.startsWith('#')) {
          const path = line.startsWith('/') ? line.trim() : `${folder}/${line.trim()}`;
          if (this.#folders.length < MOST_PTH && this.#search.files.find(path)?.kind === 'dir')
            this.#folders.push(path);
        }
      }
    }
  }

  async #importAll(imports: readonly PythonImport[], pack: string, depth: number): Promise<void> {
    for (const { level, module, names } of imports) {
      const parts = level === 0 ? [] : pack.split('.').filter((part) => part !== '');
      if (level > 1) parts.splice(Math.max(0, parts.length - level + 1));
      const name = [...parts, ...(module === '' ? [] : [module])].join('.');
      const found = name === '' ? undefined : await this.#import(name, depth);
      // A name that is imported from a package may be a module of it.
      if (names === undefined || found === undefined || found.folders.length === 0) continue;
      for (const one of names) await this.#import(`${name}.${one}`, depth);
    }
  }

  /** Imports a module and those above it; undefined: it is not there, or part of the interpreter. */
  async #import(name: string, depth: number): Promise<Module | undefined> {
    let module: Module | undefined;
    const parts = name.split('.');
    for (let count = 1; count <= parts.length; count++) {
      const full = parts.slice(0, count).join('.');
      const above = module;
      const known = this.#modules.get(full);
      if (known !== undefined) module = await known;
      else {
        if (this.#modules.size >= MOST_NAMES || this.#found >= MOST_MODULES || depth > MOST_DEPTH)
          return undefined;
        const folders = count === 1 ? this.#folders : (above?.folders ?? []);
        const found = this.#find(full, parts[count - 1] as string, folders);
        // Noted before its own imports are followed: modules may import each other.
        this.#modules.set(full, Promise.resolve(found?.module));
        module = found?.module;
        if (found !== undefined) this.#found += 1;
        if (found !== undefined) await this.#take(found.module, found.file, depth);
      }
      if (module === undefined) return undefined;
    }
    return module;
  }

  async #take(module: Module, file: FoundFile, depth: number): Promise<void> {
    if (module.source === undefined) {
      if (file.path.endsWith('.so')) {
        await this.#libraries.load(file, file.path);
        await this.#importNamed(file, depth);
      } else this.#search.want(file);
      return;
    }
    this.#search.want(file);
    const text = await this.#search.text(module.source, MOST_SOURCE);
    if (text !== undefined) await this.#importAll(importsOf(text), module.pack, depth + 1);
  }

  async #importNamed(file: FoundFile, depth: number): Promise<void> {
    // Those of the standard library are C, and import little.
    if (file.size > MOST_COMPILED || file.path.includes('/lib-dynload/')) return;
    const bytes = await this.#search.read(file, 0, file.size);
    for (const name of NAMED_IN_CODE)
      if (bytes.includes(`\0${name}\0`, 0, 'latin1')) await this.#import(name, depth + 1);
    for (const name of dottedNames(bytes)) await this.#import(name, depth + 1);
  }

  /** `file`: what is read of it. */
  #find(
    name: string,
    last: string,
    folders: readonly string[],
  ): { module: Module; file: FoundFile } | undefined {
    for (const folder of folders) {
      const names = this.#namesIn(folder);
      if (names.has(last)) {
        const below = `${folder}/${last}`;
        const source = this.#search.files.find(`${below}/__init__.py`);
        if (source?.kind === 'file') {
          const module = { name, pack: name, folders: [below], source };
          return { module, file: this.#compiled(below, '__init__', source) };
        }
      }
      const pack = name.slice(0, Math.max(0, name.lastIndexOf('.')));
      for (const ending of [`.${this.#tag}`, '.abi3', '']) {
        const extension = [...this.#extensions(names, last, ending)][0];
        const file = extension === undefined ? undefined : this.#search.files.find(`${folder}/${extension}`);
        if (file?.kind === 'file') return { module: { name, pack, folders: [], source: undefined }, file };
      }
      if (names.has(`${last}.py`)) {
        const source = this.#search.files.find(`${folder}/${last}.py`);
        if (source?.kind === 'file')
          return { module: { name, pack, folders: [], source }, file: this.#compiled(folder, last, source) };
      }
      if (names.has(`${last}.pyc`)) {
        const file = this.#search.files.find(`${folder}/${last}.pyc`);
        if (file?.kind === 'file') return { module: { name, pack, folders: [], source: undefined }, file };
      }
    }
    return undefined;
  }

  *#extensions(names: ReadonlySet<string>, last: string, ending: string): IterableIterator<string> {
    if (ending === '' || ending === '.abi3') {
      if (names.has(`${last}${ending}.so`)) yield `${last}${ending}.so`;
      return;
    }
    for (const machine of [
      '-x86_64-linux-gnu',
      '-aarch64-linux-gnu',
      '-x86_64-linux-musl',
      '-aarch64-linux-musl',
      '',
    ])
      if (names.has(`${last}${ending}${machine}.so`)) yield `${last}${ending}${machine}.so`;
  }

  #compiled(folder: string, name: string, source: FoundFile): FoundFile {
    const file = this.#search.files.find(`${folder}/__pycache__/${name}.${this.#tag}.pyc`);
    return file?.kind === 'file' ? file : source;
  }

  #namesIn(folder: string): ReadonlySet<string> {
    let names = this.#names.get(folder);
    if (names === undefined) {
      names = new Set(this.#search.files.list(folder));
      this.#names.set(folder, names);
    }
    return names;
  }
}

function dottedNames(bytes: Buffer): Set<string> {
  const names = new Set<string>();
  for (const [, name = ''] of bytes.toString('latin1').matchAll(DOTTED)) {
    if (names.size >= MOST_DOTTED) break;
    names.add(name);
  }
  return names;
}
