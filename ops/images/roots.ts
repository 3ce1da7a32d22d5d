/** Folders with a Debian in them, for trials of what a release installs. Made by mmdebstrap, once a machine. */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { acquireSettings, sourcesOf } from './apt.ts';
import type { BuildOptions } from './debian.ts';

const run = promisify(execFile);

/**
 * Folder with the smallest Debian of a release, and packages besides; it must not be changed. Undefined where it cannot be made:
 * `onProgress` hears why.
 */
export async function debianRoot(
  release: string,
  packages: readonly string[],
  options: BuildOptions = {},
): Promise<string | undefined> {
  const cache = options.cache ?? process.env.COFA_CACHE ?? '/var/cache/cofa/images';
  const key = createHash('sha256').update(packages.join()).digest('hex').slice(0, 12);
  const folder = join(cache, `root-${release}-${key}`);
  if (existsSync(folder)) return folder;
  await mkdir(cache, { recursive: true });
  const scratch = await mkdtemp(join(cache, 'root-new-'));
  try {
    const { list, sources } = sourcesOf(release);
    const files: string[] = [];
    for (const [name, text] of [
      ['root.list', list],
      ['root.sources', sources],
    ] as const) {
      if (text.trim() === '') continue;
      await writeFile(join(scratch, name), text);
      files.push(join(scratch, name));
    }
    options.onProgress?.(`an empty Debian ${release}, with ${packages.join(' ')}`);
    const settings = acquireSettings().map((line) => `--aptopt=${line.replace(/;$/, '')}`);
    const root = join(scratch, 'root');
    const wanted = `--include=${packages.join(',')}`;
    const args = [
      '--quiet',
      '--variant=minbase',
      '--format=directory',
      wanted,
      ...settings,
      release,
      root,
      ...files,
    ];
    await run('mmdebstrap', args, {
      timeout: 900_000,
      maxBuffer: 64 << 20,
      env: { ...process.env, LC_ALL: 'C.UTF-8', TMPDIR: scratch },
    });
    await rename(root, folder).catch((error: unknown) => {
      if (!existsSync(folder)) throw error;
    });
    return folder;
  } catch (error) {
    options.onProgress?.(
      `no Debian ${release} here: ${error instanceof Error ? error.message.slice(0, 500) : String(error)}`,
    );
    return undefined;
  } finally {
    await run('rm', ['-rf', '--one-file-system', '--', scratch]);
  }
}
