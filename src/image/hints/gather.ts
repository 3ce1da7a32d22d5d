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
  folderOf,
  HINT_LIMITS,
  type HintLimits,
  HintSearch,
  type ImageFiles,
  nameOf,
  type Wanted,
} from './image-files.ts';
import { helpersOf } from './helpers.ts';
import { isJava, runJava, startJava, wantArchivesBeside } from './java.ts';
import { Libraries } from './libraries.ts';
import { NamedFiles } from './named.ts';
import { isNode, NodeProgram } from './node.ts';
import { startInitdb } from './postgres.ts';
import { isPython, Python } from './python.ts';
import { scriptOf } from './shell-source.ts';

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
const MOST_RUNS = 512;
const MOST_SCRIPT = 256 * 1024;
const MOST_HEAD = 256;
/** Files beside the command, and arguments of a program. */
const MOST_TEXTS = 64;
/** The runtime reads them when it starts the container, for the user that it runs as. */
const FIRST_FILES = ['/etc/passwd', '/etc/group'];
/** The C library reads them for programs of any kind: names of users and hosts, the time, with UTF-8 tables of characters. */
const C_FILES = ['/etc/nsswitch.conf', '/etc/host.conf', '/etc/localtime'];
const UTF8_FILES = [
  '/usr/lib/locale/C.utf8/LC_CTYPE',
  '/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache',
  '/usr/lib/aarch64-linux-gnu/gconv/gconv-modules.cache',
];
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
    await gatherer.followFolder();
    gatherer.libraries.finish();
  } catch (error) {
    if (!(error instanceof EnoughHints)) throw error;
  }
  return search.wanted;
}

class Gatherer {
  readonly libraries: Libraries;
  readonly #named: NamedFiles;
  readonly #search: HintSearch;
  readonly #environment: ReadonlyMap<string, string>;
  readonly #folder: string;
  #path: string[];
  /** Those that were run, and with which words. */
  readonly #programs = new Set<string>();
  readonly #runs = new Set<string>();
  /** As scripts know them. */
  readonly #variables: Map<string, string>;
  /** The script whose lines are being read. */
  #script: FoundFile | undefined;
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
    this.#variables = new Map(pairs);
    this.libraries = new Libraries(search, this.#environment);
    this.#named = new NamedFiles(search, this.libraries);
    this.#path = (this.#environment.get('PATH') ?? DEFAULT_PATH).split(':').slice(0, MOST_PATH);
    for (const path of FIRST_FILES) search.wantPath(path);
    const locale = ['LC_ALL', 'LC_CTYPE', 'LANG'].map((name) => this.#environment.get(name) ?? '').join();
    if (/utf-?8/i.test(locale)) for (const path of UTF8_FILES) search.wantPath(path);
    for (const path of C_FILES) search.wantPath(path);
  }

  /**
   * `isNamed`: the words are the image's own, so another command of the same program reads the same for the program.
   */
  async run(words: readonly string[], depth: number, isNamed: boolean): Promise<void> {
    const [name, ...args] = words;
    if (name === undefined || depth > MOST_DEPTH) return;
    const found = this.#program(name);
    if (found === undefined || !this.#isNew(found.file, args)) return;
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
      if (this.#script !== undefined) wantArchivesBeside(this.#search, this.#script);
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
      await this.#runHelpers(file, depth);
      await this.#follow(args);
    }
  }

  /** Programs that it names, and texts among its arguments: of these nothing else is known. */
  async #runHelpers(program: FoundFile, depth: number): Promise<void> {
    const helpers = await helpersOf(this.#search, program, (name) => this.#program(name)?.path);
    for (const path of helpers) await this.run([path], depth + 1, false);
  }

  /** Texts among the arguments of a program that nothing is known of, and what these name. */
  async #follow(args: readonly string[]): Promise<void> {
    for (const word of args.slice(0, MOST_TEXTS)) {
      if (word.startsWith('-') || word === '') continue;
      const file = this.#search.files.find(word.startsWith('/') ? word : `${this.#folder}/${word}`);
      if (file?.kind !== 'file' || file.size > MOST_SCRIPT) continue;
      this.#search.program = '';
      await this.#named.follow(file);
    }
  }

  /** What lies beside the command, and what it names, where that is little. */
  async followFolder(): Promise<void> {
    if (this.#folder === '/') return;
    const files = this.#search.files
      .list(this.#folder)
      .slice(0, MOST_TEXTS)
      .map((name) => this.#search.files.find(`${this.#folder}/${name}`))
      .filter((file) => file?.kind === 'file');
    if (files.reduce((sum, file) => sum + (file?.size ?? 0), 0) > MOST_SCRIPT) return;
    this.#search.program = '';
    for (const file of files) if (file !== undefined) await this.#named.follow(file);
  }

  /** `args`: behind the shell's name. */
  async #runShell(args: readonly string[], depth: number): Promise<void> {
    for (let at = 0; at < args.length; at++) {
      const word = args[at] as string;
      if (/^-[a-z]*c[a-z]*$/.test(word)) {
        await this.#runLines(args[at + 1] ?? '', undefined, args.slice(at + 3), depth);
        return;
      }
      if (word.startsWith('-') || word.startsWith('+')) continue;
      const path = word.startsWith('/') ? word : `${this.#folder}/${word}`;
      await this.#runScript(path, args.slice(at + 1), depth);
      return;
    }
  }

  async #runScript(path: string, rest: readonly string[], depth: number): Promise<void> {
    const file = this.#search.files.find(path);
    if (file?.kind !== 'file') return;
    this.#search.want(file);
    const text = await this.#search.text(file, MOST_SCRIPT);
    if (text !== undefined) await this.#runLines(text, file, rest, depth);
  }

  /** `script`: the file that the lines stand in; `rest`: the arguments that it was given. */
  async #runLines(
    text: string,
    script: FoundFile | undefined,
    rest: readonly string[],
    depth: number,
  ): Promise<void> {
    const before = [this.#path, this.#script] as const;
    this.#script = script ?? this.#script;
    for (const name of scriptOf(text, this.#variables).sourced) await this.#source(name, rest, depth + 1);
    // Again: those have set variables.
    const { commands, path, mentioned } = scriptOf(text, this.#variables);
    this.#path = [...path, ...this.#path].slice(0, MOST_PATH);
    for (const { words, isArguments } of commands)
      await this.run(isArguments ? [...words, ...rest] : words, depth + 1, isArguments && words.length === 0);
    for (const name of mentioned) await this.run([name], depth + 1, false);
    [this.#path, this.#script] = before;
  }

  /** A script that another one reads into itself lies beside it where only its name is known. */
  async #source(name: string, rest: readonly string[], depth: number): Promise<void> {
    if (depth > MOST_DEPTH) return;
    const beside = this.#script === undefined ? this.#folder : folderOf(this.#script.path);
    await this.#runScript(name.startsWith('/') ? name : `${beside}/${name}`, rest, depth);
  }

  /** Whether that was not run before; a bound for all that is run. */
  #isNew(file: FoundFile, args: readonly string[]): boolean {
    const run = [file.path, ...args].join('\0');
    if (this.#runs.has(run) || this.#runs.size >= MOST_RUNS) return false;
    if (!this.#programs.has(file.path) && this.#programs.size >= MOST_PROGRAMS) return false;
    this.#programs.add(file.path);
    this.#runs.add(run);
    return true;
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
