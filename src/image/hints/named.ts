/**
 * Files that texts name, of languages that have no reader of their own here: what stands behind `require`, `use`,
 * `#include` and the like (names-in-text.ts) is looked for among the files of the image, and what is found is read in turn. A
 * name leads to a file beside the text, in a folder where names led before, or, where it says enough, to the only place in
 * the image that it can mean.
 *
 * A module may have a compiled part: a library of its name in a folder of its name, as Perl has it.
 */
import { type FoundFile, folderOf, type HintSearch, nameOf } from './image-files.ts';
import type { Libraries } from './libraries.ts';
import { namesIn, snakeCase } from './names-in-text.ts';

const MOST_TEXT = 512 * 1024;
const MOST_FILES = 3_000;
/** Files of the image whose names are looked at. */
const MOST_PATHS = 300_000;
const MOST_ROOTS = 64;
/** Places that a name may have; one that has more says too little. */
const MOST_PLACES = 3;
/** Endings of one language; a file of any other one names files of its own ending. */
const KIN: readonly (readonly string[])[] = [
  ['.pm', '.pl', '.al', '.ph', '.t'],
  ['.h', '.hpp', '.hh', '.hxx', '.tcc', '.ipp', '.c', '.cc', '.cpp', '.cxx', '.C', ''],
];
/** Of programs' own texts, which often have no ending, the language is not known. */
const OF_PROGRAMS = new Set(['', '.sh']);

export class NamedFiles {
  readonly #search: HintSearch;
  readonly #libraries: Libraries;
  readonly #seen = new Set<string>();
  /** By their names without ending. */
  #index: Map<string, string[]> | undefined;
  /** Folders in which names were found, the latest first. */
  #roots: string[] = [];

  constructor(search: HintSearch, libraries: Libraries) {
    this.#search = search;
    this.#libraries = libraries;
  }

  /** Notes the text and all that it names, in the order in which they name each other. */
  async follow(first: FoundFile): Promise<void> {
    const pending = [first];
    for (let file = pending.pop(); file !== undefined; file = pending.pop()) {
      if (this.#seen.has(file.path) || this.#seen.size >= MOST_FILES) continue;
      this.#seen.add(file.path);
      this.#search.want(file);
      const text = await this.#search.text(file, MOST_TEXT);
      if (text === undefined || text.includes('\0')) continue;
      const found: FoundFile[] = [];
      for (const { name, isSure } of namesIn(text)) {
        const next = this.#resolve(name, isSure, file.path);
        if (next === undefined) continue;
        if (next.path.endsWith('.so')) await this.#libraries.load(next, next.path);
        else {
          found.push(next);
          await this.#loadCompanion(next.path);
        }
      }
      pending.push(...found.toReversed());
    }
  }

  /** Beside the text or in a folder of its name; else where names led before; else where it can mean only one file. */
  #resolve(name: string, isSure: boolean, from: string): FoundFile | undefined {
    const endings = endingsFor(from);
    const forms = formsOf(name);
    const near = [folderOf(from), withoutEnding(from), ...(isSure ? this.#roots : [])];
    for (const form of forms) {
      if (form.startsWith('/')) return this.#at(form, endings);
      for (const folder of near) {
        const file = this.#at(`${folder}/${form}`, endings);
        if (file !== undefined) return file;
      }
    }
    if (!isSure) return undefined;
    for (const form of forms) {
      const file = this.#anywhere(form, endings, from);
      if (file !== undefined) return file;
    }
    return undefined;
  }

  /** The path as it stands, or with an ending. */
  #at(path: string, endings: readonly string[]): FoundFile | undefined {
    const whole = endings.includes(endingOf(path)) ? [path] : [];
    const longer = endings.filter((ending) => ending !== '').map((ending) => path + ending);
    for (const one of [...whole, ...longer]) {
      const file = this.#search.files.find(one);
      if (file?.kind === 'file') return file;
    }
    return undefined;
  }

  #anywhere(form: string, endings: readonly string[], from: string): FoundFile | undefined {
    const relative = form.replace(/^(?:\.{1,2}\/)+/, '');
    const name = nameOf(`/${relative}`);
    const places = [...new Set([withoutEnding(name), name])].flatMap((stem) => this.#named(stem));
    for (const ending of endings) {
      const tails = [`/${relative}${ending}`, ...(endingOf(name) === ending ? [`/${relative}`] : [])];
      const found = places.filter((path) => tails.some((tail) => path.endsWith(tail)));
      if (found.length > MOST_PLACES && !relative.includes('/')) continue;
      const [best] = found.toSorted((a, b) => shared(b, from) - shared(a, from));
      const file = best === undefined ? undefined : this.#search.files.find(best);
      if (best === undefined || file?.kind !== 'file') continue;
      this.#learn(best.slice(0, best.lastIndexOf(`/${relative}`)));
      return file;
    }
    return undefined;
  }

  /** Paths of files by their names without ending. */
  #named(stem: string): readonly string[] {
    this.#index ??= indexOf(this.#search.files.paths());
    return this.#index.get(stem) ?? [];
  }

  #learn(root: string): void {
    this.#roots = [root, ...this.#roots.filter((other) => other !== root)].slice(0, MOST_ROOTS);
  }

  /** The compiled part of a module; where several have its name, the one in folders like the module's. */
  async #loadCompanion(path: string): Promise<void> {
    const module = withoutEnding(path);
    const own = `/${nameOf(module)}/${nameOf(module)}.so`;
    const found = this.#named(nameOf(module)).filter((one) => one.endsWith(own));
    const upper = nameOf(folderOf(module));
    const best = found.length === 1 ? found[0] : found.find((one) => one.endsWith(`/${upper}${own}`));
    const file = best === undefined ? undefined : this.#search.files.find(best);
    if (best !== undefined && file?.kind === 'file') await this.#libraries.load(file, best);
  }
}

/** A name as it stands, with its dots as slashes, and as the names of constants become names of files. */
function formsOf(name: string): string[] {
  const dotted = !name.includes('/') && name.includes('.') && !name.startsWith('.');
  const forms = [name, ...(dotted ? [name.replaceAll('.', '/')] : [])];
  const snake = snakeCase(name);
  return snake === name || name.includes('.') ? forms : [...forms, snake];
}

function endingsFor(path: string): readonly string[] {
  const own = endingOf(path);
  const kin = KIN.find((one) => one.includes(own) && own !== '');
  if (kin !== undefined) return [...kin, '.so'];
  return OF_PROGRAMS.has(own) ? ['', '.sh'] : [own, '.so'];
}

function indexOf(paths: Iterable<string>): Map<string, string[]> {
  const index = new Map<string, string[]>();
  let left = MOST_PATHS;
  for (const path of paths) {
    if (--left < 0) break;
    const stem = withoutEnding(nameOf(path));
    const known = index.get(stem);
    if (known === undefined) index.set(stem, [path]);
    else known.push(path);
  }
  return index;
}

const endingOf = (path: string): string => /[^/](\.[A-Za-z]\w{0,5})$/.exec(path)?.[1] ?? '';
const withoutEnding = (path: string): string => path.slice(0, path.length - endingOf(path).length);

/** Characters that two paths have in common at their beginnings. */
function shared(one: string, other: string): number {
  let at = 0;
  while (at < one.length && one[at] === other[at]) at += 1;
  return at;
}
