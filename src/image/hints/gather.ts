/**
 * Which files a start of an image is likely to read, and in which order, judged by the image alone: follows its command
 * as the kernel, the loader and the usual interpreters would.
 *
 *     command ─▶ on PATH ─▶ "#!" ─▶ interpreter        shell: the commands that it names
 *                   └─▶ ELF ─▶ loader, libraries       python, node, java: what they start with, the program and what it imports
 *
 * It only decides what is fetched first: a wrong guess costs bytes, a missing one a round trip. So it reads what it
 * can, and ignores what it does not understand.
 */
import {
  EnoughHints,
  type FoundFile,
  HINT_LIMITS,
  type HintLimits,
  HintSearch,
  type ImageFiles,
  nameOf,
  type Wanted,
} from './image-files.ts';
import { isJava, runJava, startJava } from './java.ts';
import { Libraries } from './libraries.ts';
import { isNode, NodeProgram } from './node.ts';
import { startInitdb } from './postgres.ts';
import { isPython, Python } from './python.ts';
import { commandsOf } from './shell-source.ts';

/** Of an image's configuration. */
export interface HintCommand {
  entrypoint: readonly string[];
  cmd: readonly string[];
  /** `NAME=value` */
  env: readonly string[];
  folder: string;
}

export interface GatherOptions {
  limits?: HintLimits;
  /** Whether the time is over: what the search has found until then counts. */
  isOver?: () => boolean;
}

const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const MOST_PATH = 64;
/** Programs that start programs. */
const MOST_DEPTH = 6;
const MOST_PROGRAMS = 48;
const MOST_SCRIPT = 256 * 1024;
const MOST_HEAD = 256;
/** The runtime reads them when it starts the container, for the user that it runs as. */
const FIRST_FILES = ['/etc/passwd', '/etc/group'];
const SHELLS = new Set(['sh', 'bash', 'dash', 'ash', 'ksh', 'zsh']);
/** Programs that run the program named by their arguments. */
const WRAPPERS = new Set(
  'tini dumb-init catatonit gosu su-exec setpriv setsid nice ionice nohup timeout stdbuf chroot catchsegv sudo runuser xvfb-run'.split(
    ' ',
  ),
);
/** Programs that start others, from the same folder, which no argument names. */
const OTHERS: Readonly<Record<string, readonly string[]>> = { initdb: ['postgres'], pg_ctl: ['postgres'] };

/** The files that the image's command is likely to read. Errors: those of `files.read`. */
export async function gatherHints(
  files: ImageFiles,
  command: HintCommand,
  { limits = HINT_LIMITS, isOver = () => false }: GatherOptions = {},
): Promise<Wanted[]> {
  const search = new HintSearch(files, limits, isOver);
  const gatherer = new Gatherer(search, command);
  try {
    await gatherer.run([...command.entrypoint, ...command.cmd], 0, true);
    gatherer.libraries.finish();
  } catch (error) {
    if (!(error instanceof EnoughHints)) throw error;
  }
  return search.wanted;
}

class Gatherer {
  readonly libraries: Libraries;
  readonly #search: HintSearch;
  readonly #environment: ReadonlyMap<string, string>;
  readonly #folder: string;
  #path: string[];
  #programs = 0;
  /** Interpreters that have been started, by their path. */
  readonly #pythons = new Map<string, Python>();
  #node: NodeProgram | undefined;
  readonly #javas = new Map<string, string>();

  constructor(search: HintSearch, { env, folder }: HintCommand) {
    this.#search = search;
    this.#folder = folder.startsWith('/') ? folder : `/${folder}`;
    const pairs = env.map((one): [string, string] => [
      one.slice(0, Math.max(0, one.indexOf('='))),
      one.slice(one.indexOf('=') + 1),
    ]);
    this.#environment = new Map(pairs);
    this.libraries = new Libraries(search, this.#environment);
    this.#path = (this.#environment.get('PATH') ?? DEFAULT_PATH).split(':').slice(0, MOST_PATH);
    for (const path of FIRST_FILES) search.wantPath(path);
    const locale = ['LC_ALL', 'LC_CTYPE', 'LANG'].map((name) => this.#environment.get(name) ?? '').join();
    if (/utf-?8/i.test(locale)) search.wantPath('/usr/lib/locale/C.utf8/LC_CTYPE');
  }

  /**
   * `isNamed`: the words are the image's own, so another command of the same program reads the same for the program.
   */
  async run(words: readonly string[], depth: number, isNamed: boolean): Promise<void> {
    const [name, ...args] = words;
    if (name === undefined || depth > MOST_DEPTH || ++this.#programs > MOST_PROGRAMS) return;
    const found = this.#program(name);
    if (found === undefined) return;
    const { file, path } = found;
    const before = this.#search.program;
    if (isNamed) this.#search.program = name;
    const head = (await this.#search.read(file, 0, MOST_HEAD)).toString('latin1');
    if (head.startsWith('#!')) {
      this.#search.want(file);
      const line = (head.split('\n', 1)[0] as string).slice(2).trim();
      const [interpreter = '', option] = line.split(/[ \t]+(.*)/s, 2);
      const given = option === undefined || option === '' ? [] : [option];
      // A process that runs the script runs its interpreter.
      await this.run([interpreter, ...given, path, ...args], depth + 1, false);
    } else if (await this.libraries.load(file, path)) {
      await this.#interpret(nameOf(file.path), nameOf(path), found, args, depth);
    } else if (file.isExecutable && !head.includes('\0')) {
      // A file without "#!" is run by a shell.
      this.#search.want(file);
      await this.#runShell([path, ...args], depth);
    }
    this.#search.program = before;
  }

  /** An interpreter's own reads count for its program, the reads of its arguments for this command alone. */
  async #interpret(
    real: string,
    called: string,
    { file, path }: { file: FoundFile; path: string },
    args: readonly string[],
    depth: number,
  ): Promise<void> {
    if (isPython(real) || isPython(called)) {
      let python = this.#pythons.get(file.path);
      if (python === undefined) {
        python = new Python(this.#search, this.libraries, this.#environment);
        this.#pythons.set(file.path, python);
        if (!(await python.start(file, path))) return;
      }
      this.#search.program = '';
      await python.run(args, this.#folder);
    } else if (isNode(real) || isNode(called)) {
      this.#node ??= new NodeProgram(this.#search);
      this.#node.start();
      this.#search.program = '';
      await this.#node.run(args, this.#folder);
    } else if (isJava(real)) {
      const lib = this.#javas.get(file.path) ?? (await startJava(this.#search, this.libraries, file));
      if (lib === undefined) return;
      this.#javas.set(file.path, lib);
      this.#search.program = '';
      await runJava(this.#search, this.libraries, lib, args, this.#folder);
    } else if (SHELLS.has(called) || SHELLS.has(real)) {
      await this.#runShell(args, depth);
    } else if (called === 'env' || real === 'env') {
      await this.run(afterEnv(args), depth + 1, true);
    } else if (WRAPPERS.has(called)) {
      const at = args.findIndex((word, index) => !word.startsWith('-') && this.#isProgram(args, index));
      if (at >= 0) await this.run(args.slice(at), depth + 1, true);
    } else {
      const folder = path.slice(0, path.lastIndexOf('/'));
      for (const other of OTHERS[called] ?? []) await this.run([`${folder}/${other}`], depth + 1, false);
      if (called === 'initdb') await startInitdb(this.#search, file);
    }
  }

  /** `args`: behind the shell's name. */
  async #runShell(args: readonly string[], depth: number): Promise<void> {
    let text: string | undefined;
    let rest: readonly string[] = [];
    for (let at = 0; at < args.length && text === undefined; at++) {
      const word = args[at] as string;
      if (/^-[a-z]*c[a-z]*$/.test(word)) {
        text = args[at + 1] ?? '';
        rest = args.slice(at + 3);
      } else if (!word.startsWith('-') && !word.startsWith('+')) {
        const file = this.#search.files.find(word.startsWith('/') ? word : `${this.#folder}/${word}`);
        if (file?.kind !== 'file') return;
        this.#search.want(file);
        text = await this.#search.text(file, MOST_SCRIPT);
        rest = args.slice(at + 1);
      }
    }
    if (text === undefined) return;
    const { commands, path } = commandsOf(text);
    const before = this.#path;
    this.#path = [...path, ...before].slice(0, MOST_PATH);
    for (const { words, isArguments } of commands)
      await this.run(isArguments ? [...words, ...rest] : words, depth + 1, isArguments && words.length === 0);
    this.#path = before;
  }

  #isProgram(words: readonly string[], at: number): boolean {
    const word = words[at] as string;
    return words[at - 1] === '--' || this.#program(word) !== undefined;
  }

  #program(name: string): { file: FoundFile; path: string } | undefined {
    const paths = name.includes('/')
      ? [name.startsWith('/') ? name : `${this.#folder}/${name}`]
      : this.#path.map((folder) => `${folder}/${name}`);
    for (const path of paths) {
      const file = this.#search.files.find(path);
      if (file?.kind === 'file' && file.isExecutable) return { file, path };
    }
    return undefined;
  }
}

/** The command behind `env`'s own words. */
function afterEnv(args: readonly string[]): readonly string[] {
  for (let at = 0; at < args.length; at++) {
    const word = args[at] as string;
    const split = /^(?:-S|--split-string=)\s*(.+)$/s.exec(word)?.[1];
    if (split !== undefined) return [...split.trim().split(/\s+/), ...args.slice(at + 1)];
    if (word === '-S') return [...(args[at + 1] ?? '').trim().split(/\s+/), ...args.slice(at + 2)];
    if (word === '-u' || word === '-C') at += 1;
    else if (!word.startsWith('-') && !word.includes('=')) return args.slice(at);
  }
  return [];
}
