/**
 * The files that Node reads when it starts and runs a script: the script, and the files that it requires or imports by
 * a literal name. Names are resolved as Node does: relative files with and without endings, and packages in
 * `node_modules` by their package.json.
 */
import { type FoundFile, folderOf, type HintSearch } from './image-files.ts';

/** Debian has these built-in modules as files. */
const FIRST_FILES = [
  '/usr/share/nodejs/cjs-module-lexer/lexer.js',
  '/usr/share/nodejs/cjs-module-lexer/dist/lexer.js',
  '/usr/share/nodejs/acorn/dist/acorn.js',
  '/usr/share/nodejs/acorn-walk/dist/walk.js',
  '/usr/share/nodejs/undici/undici-fetch.js',
  '/etc/ssl/openssl.cnf',
];
const SYSTEM_FOLDERS = ['/usr/local/lib/node_modules', '/usr/share/nodejs', '/usr/lib/nodejs'];
const ENDINGS = ['', '.js', '.json', '.node', '.mjs', '.cjs'];
const MOST_FILES = 3_000;
const MOST_SOURCE = 512 * 1024;
const MOST_PACKAGE = 256 * 1024;
const MOST_NAMES = 500;
const MOST_DEPTH = 64;
/** Options whose value is a word of its own. */
const WITH_VALUE = new Set([
  '-r',
  '--require',
  '--import',
  '--loader',
  '--experimental-loader',
  '-C',
  '--conditions',
]);

export const isNode = (program: string): boolean => program === 'node' || program === 'nodejs';

export class NodeProgram {
  readonly #search: HintSearch;
  readonly #seen = new Set<string>();
  readonly #packages = new Map<string, Promise<Package | undefined>>();

  constructor(search: HintSearch) {
    this.#search = search;
  }

  start(): void {
    for (const path of FIRST_FILES) this.#search.wantPath(path);
  }

  /** Runs the command that stands behind the program's name. */
  async run(args: readonly string[], folder: string): Promise<void> {
    for (let at = 0; at < args.length; at++) {
      const word = args[at] as string;
      if (WITH_VALUE.has(word)) {
        at += 1;
        await this.#require(args[at] ?? '', folder);
      } else if (!word.startsWith('-')) {
        const path = word.startsWith('/') ? word : `${folder}/${word}`;
        const file = await this.#fileOf(path);
        if (file !== undefined) await this.#take(file);
        return;
      }
    }
  }

  /** Notes the file and all that it needs, in the order in which they need each other. */
  async #take(first: FoundFile): Promise<void> {
    const pending = [first];
    for (let file = pending.pop(); file !== undefined; file = pending.pop()) {
      if (this.#seen.has(file.path) || this.#seen.size >= MOST_FILES) continue;
      this.#seen.add(file.path);
      await this.#noteScope(folderOf(file.path));
      this.#search.want(file);
      if (!/\.[cm]?js$|\/[^.]+$/.test(file.path)) continue;
      const text = await this.#search.text(file, MOST_SOURCE);
      const found: FoundFile[] = [];
      for (const name of requiredBy(text ?? '')) {
        const next = await this.#resolve(name, folderOf(file.path));
        if (next !== undefined) found.push(next);
      }
      pending.push(...found.toReversed());
    }
  }

  async #require(name: string, folder: string): Promise<void> {
    const file = await this.#resolve(name, folder);
    if (file !== undefined) await this.#take(file);
  }

  /** Node looks for the package to which a file belongs. */
  async #noteScope(folder: string): Promise<void> {
    let at = folder;
    for (let depth = 0; depth < MOST_DEPTH && at !== '/'; depth++, at = folderOf(at))
      if ((await this.#packageAt(at)) !== undefined) return;
  }

  async #resolve(name: string, folder: string): Promise<FoundFile | undefined> {
    if (/^\.{0,2}\//.test(name) || name === '.' || name === '..')
      return await this.#fileOf(name.startsWith('/') ? name : `${folder}/${name}`);
    const [, pack, rest = ''] = /^((?:@[^/]+\/)?[^/]+)(\/.*)?$/.exec(name) ?? [];
    if (pack === undefined) return undefined;
    const folders = [];
    let at = folder;
    for (let depth = 0; depth < MOST_DEPTH; depth++, at = folderOf(at)) {
      folders.push(at === '/' ? '/node_modules' : `${at}/node_modules`);
      if (at === '/') break;
    }
    for (const modules of [...folders, ...SYSTEM_FOLDERS]) {
      const home = `${modules}/${pack}`;
      if (this.#search.files.find(home)?.kind !== 'dir') continue;
      const known = await this.#packageAt(home);
      const exported = known?.exports.get(rest === '' ? '.' : `.${rest}`);
      const path = exported === undefined ? `${home}${rest}` : `${home}/${exported}`;
      const file = await this.#fileOf(path);
      if (file !== undefined) return file;
    }
    return undefined;
  }

  /** As a file, with an ending, or as a folder. */
  async #fileOf(path: string): Promise<FoundFile | undefined> {
    for (const ending of ENDINGS) {
      const file = this.#search.files.find(`${path}${ending}`);
      if (file?.kind === 'file') return file;
      if (ending !== '' || file?.kind !== 'dir') continue;
      const main = (await this.#packageAt(file.path))?.main;
      if (main !== undefined) {
        const entry = [main, ...ENDINGS.slice(1).map((one) => main + one), `${main}/index.js`]
          .map((one) => this.#search.files.find(`${file.path}/${one}`))
          .find((one) => one?.kind === 'file');
        if (entry !== undefined) return entry;
      }
      for (const index of ['index.js', 'index.json', 'index.node', 'index.mjs']) {
        const entry = this.#search.files.find(`${file.path}/${index}`);
        if (entry?.kind === 'file') return entry;
      }
    }
    return undefined;
  }

  #packageAt(folder: string): Promise<Package | undefined> {
    let known = this.#packages.get(folder);
    if (known === undefined) {
      known = this.#readPackage(folder);
      this.#packages.set(folder, known);
    }
    return known;
  }

  async #readPackage(folder: string): Promise<Package | undefined> {
    const file = this.#search.files.find(`${folder}/package.json`);
    if (file?.kind !== 'file') return undefined;
    this.#search.want(file);
    return parsePackage((await this.#search.text(file, MOST_PACKAGE)) ?? '');
  }
}

interface Package {
  main: string | undefined;
  /** Files by the names under which they are imported: `.`, `./sub`. */
  exports: ReadonlyMap<string, string>;
}

/** Ignores malformed fields. */
export function parsePackage(text: string): Package {
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch {
    document = undefined;
  }
  const fields = isObject(document) ? document : {};
  const exports = new Map<string, string>();
  const given = fields['exports'];
  if (isObject(given) && Object.keys(given).every((key) => key.startsWith('.'))) {
    for (const [key, value] of Object.entries(given).slice(0, MOST_NAMES)) {
      const path = targetOf(value, 0);
      if (path !== undefined) exports.set(key, path);
    }
  } else {
    const path = targetOf(given, 0);
    if (path !== undefined) exports.set('.', path);
  }
  const main = fields['main'];
  return { main: typeof main === 'string' ? main : undefined, exports };
}

/** The first of the conditions that hold for a program that runs under Node. */
function targetOf(value: unknown, depth: number): string | undefined {
  if (typeof value === 'string') return value;
  if (depth > 8) return undefined;
  if (Array.isArray(value)) return targetOf(value[0], depth + 1);
  if (!isObject(value)) return undefined;
  for (const condition of ['node', 'require', 'import', 'default']) {
    const found = Object.hasOwn(value, condition) ? targetOf(value[condition], depth + 1) : undefined;
    if (found !== undefined) return found;
  }
  return undefined;
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const NAMES = [
  /\brequire\(\s*['"]([^'"\n]{1,256})['"]\s*\)/g,
  /\bfrom\s*['"]([^'"\n]{1,256})['"]/g,
  /\bimport\s*['"]([^'"\n]{1,256})['"]/g,
];

/** Names of modules that stand in the source, in order, each once. */
export function requiredBy(source: string): string[] {
  const found: Array<{ at: number; name: string }> = [];
  for (const pattern of NAMES) {
    for (const match of source.matchAll(pattern)) {
      if (found.length >= MOST_NAMES) break;
      found.push({ at: match.index, name: match[1] as string });
    }
  }
  return [...new Set(found.sort((a, b) => a.at - b.at).map(({ name }) => name))];
}
