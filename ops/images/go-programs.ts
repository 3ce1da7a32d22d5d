/**
 * Programs that tests and benchmarks take for judges and rivals, and that Debian does not have: built with Go from their
 * sources, once a machine, and kept in the cache. Go checks the sources against its checksum database.
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';

export interface GoPrograms {
  /** In messages, and of the folder in the cache. */
  name: string;
  version: string;
  /** Go packages of one module; the last part of each is the name of its program. */
  packages: readonly string[];
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

/** Folder of the programs; undefined where there is no Go, or the build fails: `onProgress` hears why. */
export async function builtWithGo(
  { name, version, packages }: GoPrograms,
  { cache, onProgress = () => {} }: GoOptions = {},
): Promise<string | undefined> {
  const kept = cache ?? process.env.COFA_CACHE ?? '/var/cache/cofa/images';
  const folder = join(kept, `${name}-${version}`);
  if (existsSync(folder)) return folder;
  const env = { ...process.env, PATH: `${process.env.PATH}${delimiter}${GO}` };
  const hasGo = await run('go', ['version'], { env }).catch(() => undefined);
  if (hasGo === undefined) {
    onProgress(`no ${name} ${version}: it is built with Go, and this machine has none`);
    return undefined;
  }
  onProgress(`building ${name} ${version}: some minutes, once`);
  await mkdir(kept, { recursive: true });
  const draft = await mkdtemp(join(kept, 'go-'));
  try {
    const sources = packages.map((one) => `${one}@${version}`);
    await run('nice', ['go', 'install', ...sources], {
      env: { ...env, GOBIN: draft },
      timeout: BUILD_MS,
      maxBuffer: 64 << 20,
    });
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
