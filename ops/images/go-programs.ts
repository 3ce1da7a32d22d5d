/**
 * Programs that tests and benchmarks take for judges and rivals, and that Debian does not have: built with Go from their
 * sources, once a machine, and kept in the cache. Go checks the sources against its checksum database.
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
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
  { version, packages, suites, flags = [], withoutC = false }: GoPrograms,
  into: string,
  base: NodeJS.ProcessEnv,
): Promise<void> {
  const env = withoutC ? { ...base, CGO_ENABLED: '0' } : base;
  const limits = { timeout: BUILD_MS, maxBuffer: 64 << 20 };
  const sources = packages.map((one) => `${one}@${version}`);
  if (sources.length > 0)
    await run('nice', ['go', 'install', ...flags, ...sources], { ...limits, env: { ...env, GOBIN: into } });
  if (suites === undefined) return;
  const download = ['mod', 'download', '-json', `${suites.module}@${version}`];
  const { stdout } = await run('go', download, { ...limits, env, cwd: into });
  const { Dir } = JSON.parse(stdout) as { Dir: string };
  // Where Go keeps modules nothing may be written.
  const copy = await mkdtemp(join(tmpdir(), 'cofa-go-'));
  try {
    await cp(Dir, copy, { recursive: true });
    await run('chmod', ['-R', 'u+w', copy]);
    for (const folder of suites.folders) {
      const program = join(into, basename(folder));
      await run('nice', ['go', 'test', '-c', '-o', program, `./${folder}`], { ...limits, env, cwd: copy });
    }
  } finally {
    await rm(copy, { recursive: true, force: true });
  }
}
