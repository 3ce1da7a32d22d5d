/** Versions of cofa before this one, from the repository's history, for tests of what becomes of their state and readers. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';

const CHECKOUT = join(import.meta.dirname, '../..');

/** The last commit of each. */
const VERSIONS = { '0.1.0': '5381c11' } as const;

/**
 * A checkout of that version, with the packages of this one. Kept in $COFA_CACHE. Undefined where the history does not
 * reach so far: `onProgress` hears that.
 */
export function olderCofa(
  version: keyof typeof VERSIONS,
  options: { cache?: string; onProgress?: (line: string) => void } = {},
): string | undefined {
  const commit = VERSIONS[version];
  const cache = options.cache ?? process.env.COFA_CACHE ?? '/var/cache/cofa/images';
  const folder = join(cache, `cofa-${version}-${commit}`);
  if (!existsSync(folder)) {
    try {
      execFileSync('git', ['cat-file', '-e', `${commit}^{tree}`], { cwd: CHECKOUT, stdio: 'ignore' });
    } catch {
      options.onProgress?.(`no cofa ${version} here: this checkout has no commit ${commit}`);
      return undefined;
    }
    mkdirSync(cache, { recursive: true });
    const draft = mkdtempSync(join(cache, 'cofa-new-'));
    try {
      execFileSync('sh', ['-c', `git archive ${commit} | tar -x -C "$1"`, 'sh', draft], { cwd: CHECKOUT });
      if (!existsSync(folder)) renameSync(draft, folder);
    } finally {
      rmSync(draft, { recursive: true, force: true });
    }
  }
  const modules = join(folder, 'node_modules');
  rmSync(modules, { force: true });
  symlinkSync(join(CHECKOUT, 'node_modules'), modules);
  return folder;
}
