/**
 * cosign, which tests take for a judge of signatures: built with Go from its source, once a machine, and kept in the cache.
 * Go checks the source against its checksum database.
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';

export const COSIGN_VERSION = 'v3.1.3';
const SOURCE = `github.com/sigstore/cosign/v3/cmd/cosign@${COSIGN_VERSION}`;
/** Where Go's own packages install it. */
const GO = '/usr/local/go/bin';
/** The build takes some five minutes of two processors, ms. */
export const BUILD_MS = 30 * 60_000;

export interface CosignOptions {
  /** Where it is kept; $COFA_CACHE, else /var/cache/cofa/images. */
  cache?: string;
  /** Called with one line for each step, and with the reason where there is none. */
  onProgress?: (line: string) => void;
}

const run = promisify(execFile);

/** Path of the program; undefined where there is no Go, or the build fails: `onProgress` hears why. */
export async function builtCosign({
  cache,
  onProgress = () => {},
}: CosignOptions = {}): Promise<string | undefined> {
  const folder = cache ?? process.env.COFA_CACHE ?? '/var/cache/cofa/images';
  const program = join(folder, `cosign-${COSIGN_VERSION}`, 'cosign');
  if (existsSync(program)) return program;
  const env = { ...process.env, PATH: `${process.env.PATH}${delimiter}${GO}` };
  const hasGo = await run('go', ['version'], { env }).catch(() => undefined);
  if (hasGo === undefined) {
    onProgress('no cosign: it is built with Go, and this machine has none');
    return undefined;
  }
  onProgress(`building cosign ${COSIGN_VERSION}: some minutes, once`);
  await mkdir(folder, { recursive: true });
  const draft = await mkdtemp(join(folder, 'build-'));
  try {
    await run('nice', ['go', 'install', SOURCE], { env: { ...env, GOBIN: draft }, timeout: BUILD_MS });
    // Of two builds at the same time either is as good.
    await rename(draft, join(folder, `cosign-${COSIGN_VERSION}`)).catch((error: unknown) => {
      if (!existsSync(program)) throw error;
    });
    return program;
  } catch (error) {
    onProgress(`no cosign: its build failed: ${error instanceof Error ? error.message : String(error)}`);
    return undefined;
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
}
