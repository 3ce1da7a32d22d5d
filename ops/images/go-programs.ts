/**
 * Programs that tests and benchmarks take for judges and rivals, and that Debian does not have: built with Go from their
 * sources, once a machine, and kept in the cache. Go checks the sources against its checksum database.
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, delimiter, join } from 'node:path';
import { promisify } from 'node:util';

export interface GoPrograms {
  /** In messages, and of the folder in the cache. */
  name: string;
  version: string;
  /** Go packages of one module; the last part of each is the name of its program. */
  packages: readonly string[];
  /** Of `go install`. */
  flags?: readonly string[];
  /** Go alone: no C compiler, and no libraries of the machine. */
  withoutC?: boolean;
  /** Packages that are nothing but tests: folders of a module, each of which becomes a program of its last part's name. */
  suites?: { module: string; folders: readonly string[] };
  /**
   * Programs of a module that `go install` refuses, since its go.mod replaces or excludes others, or has another name
   * (`goMod`, with a sum of that name beside it): its folders. `absent`: a module that only its tests want, from a folder of
   * its repository, and the tests' helpers that stand beside the programs and import it. `c`: programs of it that are written in
   * C, with the folder of each one's sources; they take a C compiler.
   */
  folders?: {
    module: string;
    folders: readonly string[];
    absent?: { module: string; importers: readonly string[] };
    goMod?: `${string}.mod`;
    c?: ReadonlyArray<{ name: string; folder: string }>;
  };
  /** The packages are of a module whose go.mod wants folders of its repository: which modules these folders became. */
  staged?: Staged;
}

/**
 * Kubernetes publishes its folder `staging/src/k8s.io/api` as the module k8s.io/api, with a version of its own; SOCI's
 * programs are a module in a folder of the module that they want.
 */
export interface Staged {
  module: string;
  /** Of the module; that of the programs by default. */
  moduleVersion?: string;
  /** Of the folders' modules. */
  version: string;
  /** Programs by the name that Go gives them, and the one that people know. */
  names?: Readonly<Record<string, string>>;
}

export interface GoOptions {
  /** Where they are kept; $COFA_CACHE, else /var/cache/cofa/images. */
  cache?: string;
  /** Called with one line for each step, and with the reason where there are none. */
  onProgress?: (line: string) => void;
}

/** A build takes some five minutes of two processors, ms. */
export const BUILD_MS = 30 * 60_000;

/** Where Go's own packages install it. */
const GO = '/usr/local/go/bin';
const run = promisify(execFile);

const goEnvironment = () => ({ ...process.env, PATH: `${process.env.PATH}${delimiter}${GO}` });

/** Whether Go is at hand. */
export async function hasGo(): Promise<boolean> {
  return await run('go', ['version'], { env: goEnvironment() }).then(
    () => true,
    () => false,
  );
}

/** Folder of the programs where they were built before. */
export function goFolder({ name, version }: GoPrograms, cache = cacheFolder()): string | undefined {
  const folder = join(cache, `${name}-${version}`);
  return existsSync(folder) ? folder : undefined;
}

const cacheFolder = (): string => process.env.COFA_CACHE ?? '/var/cache/cofa/images';

/** Folder of the programs; undefined where there is no Go, or the build fails: `onProgress` hears why. */
export async function builtWithGo(
  programs: GoPrograms,
  { cache: kept = cacheFolder(), onProgress = () => {} }: GoOptions = {},
): Promise<string | undefined> {
  const { name, version } = programs;
  const there = goFolder(programs, kept);
  if (there !== undefined) return there;
  const folder = join(kept, `${name}-${version}`);
  const env = goEnvironment();
  if (!(await hasGo())) {
    onProgress(`no ${name} ${version}: it is built with Go, and this machine has none`);
    return undefined;
  }
  onProgress(`building ${name} ${version}: some minutes, once`);
  await mkdir(kept, { recursive: true });
  const draft = await mkdtemp(join(kept, 'go-'));
  try {
    await build(programs, draft, env);
    // Of two builds at the same time either is as good.
    await rename(draft, folder).catch((error: unknown) => {
      if (!existsSync(folder)) throw error;
    });
    return folder;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    onProgress(`no ${name} ${version}: its build failed: ${reason}`);
    return undefined;
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
}

async function build(
  { version, packages, suites, folders, staged, flags = [], withoutC = false }: GoPrograms,
  into: string,
  base: NodeJS.ProcessEnv,
): Promise<void> {
  const env = withoutC ? { ...base, CGO_ENABLED: '0' } : base;
  if (staged !== undefined) return await buildStaged({ version, packages, flags, staged, env, into });
  const limits = { timeout: BUILD_MS, maxBuffer: 64 << 20 };
  const sources = packages.map((one) => `${one}@${version}`);
  if (sources.length > 0)
    await run('nice', ['go', 'install', ...flags, ...sources], { ...limits, env: { ...env, GOBIN: into } });
  const copied = suites ?? folders;
  if (copied === undefined) return;
  const download = ['mod', 'download', '-json', `${copied.module}@${version}`];
  const { stdout } = await run('go', download, { ...limits, env, cwd: into });
  const { Dir } = JSON.parse(stdout) as { Dir: string };
  // Where Go keeps modules nothing may be written.
  const copy = await mkdtemp(join(tmpdir(), 'cofa-go-'));
  try {
    await cp(Dir, copy, { recursive: true });
    await run('chmod', ['-R', 'u+w', copy]);
    const inCopy = { ...limits, env, cwd: copy };
    const goMod = folders?.goMod;
    if (goMod !== undefined) {
      await rename(join(copy, goMod), join(copy, 'go.mod'));
      await rename(join(copy, goMod.replace(/\.mod$/, '.sum')), join(copy, 'go.sum'));
      // A list of modules that are not in it.
      await rm(join(copy, 'vendor'), { recursive: true, force: true });
    }
    const absent = folders?.absent;
    if (absent !== undefined) {
      const { module, importers } = absent;
      await run('go', ['mod', 'edit', `-dropreplace=${module}@v0.0.0`, `-droprequire=${module}`], inCopy);
      for (const file of importers) await rm(join(copy, file));
    }
    const build = suites === undefined ? ['build', ...flags] : ['test', '-c'];
    for (const folder of copied.folders)
      await run('nice', ['go', ...build, '-o', join(into, basename(folder)), `./${folder}`], inCopy);
    for (const { name, folder } of folders?.c ?? []) {
      const sources = (await readdir(join(copy, folder))).filter((file) => file.endsWith('.c'));
      const paths = sources.map((file) => join(folder, file));
      await run('cc', ['-std=c99', '-O2', '-o', join(into, name), ...paths], inCopy);
    }
  } finally {
    await rm(copy, { recursive: true, force: true });
  }
}

/**
 * Such a module cannot be installed by its name. So it is built from a module that wants all that it wants, and finds what
 * stands in its folders by their own versions.
 */
async function buildStaged(o: {
  version: string;
  packages: readonly string[];
  flags: readonly string[];
  staged: Staged;
  env: NodeJS.ProcessEnv;
  into: string;
}): Promise<void> {
  const { packages, flags, staged, into } = o;
  const { module, moduleVersion: version = o.version, version: parts, names = {} } = staged;
  const folder = await mkdtemp(join(tmpdir(), 'cofa-go-'));
  const limits = { timeout: BUILD_MS, maxBuffer: 64 << 20, cwd: folder };
  // go.sum is written as modules come, each of them checked against Go's checksum database.
  const env = { ...o.env, GOFLAGS: '-mod=mod' };
  try {
    const { stdout } = await run('go', ['mod', 'download', '-json', `${module}@${version}`], {
      ...limits,
      env,
    });
    const { GoMod } = JSON.parse(stdout) as { GoMod: string };
    await writeFile(
      join(folder, 'go.mod'),
      stagedModule(await readFile(GoMod, 'utf8'), { module, version, parts }),
    );
    await run('nice', ['go', 'build', ...flags, '-o', `${into}/`, ...packages], { ...limits, env });
    for (const [built, name] of Object.entries(names)) await rename(join(into, built), join(into, name));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** A go.mod: of a module that builds `module` of that version, from its own go.mod. */
export function stagedModule(
  text: string,
  { module, version, parts }: { module: string; version: string; parts: string },
): string {
  const own = text
    .replace(/^module .*$/m, 'module judge')
    .replaceAll(
      /^(\s*(?:replace )?(\S+)(?: \S+)? => )\.\.?\/\S*$/gm,
      (_, line: string, name: string) => `${line}${name} ${parts}`,
    );
  return `${own.trimEnd()}\n\nrequire ${module} ${version}\n`;
}
