/**
 * zsh and fish of Debian, unpacked and not installed (debs.ts). Each looks for its own files below /usr, so it is told where
 * they are: what a machine has of these shells plays no part.
 */
import { cpSync, existsSync, readdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { RELEASE } from '../../ops/images/apt.ts';
import { unpackedDebs } from '../../ops/images/debs.ts';
import type { Cleanup } from './temp.ts';

export interface ShellProgram {
  program: string;
  env: NodeJS.ProcessEnv;
}

/** zsh with its completion system, and no file of settings but what `folder`, its ZDOTDIR, has. */
export async function debiansZsh(folder: string): Promise<ShellProgram> {
  // The static one brings its modules in itself; zsh-common has the functions.
  const { root } = await unpackedDebs(
    { release: RELEASE, packages: ['zsh-static', 'zsh-common'] },
    { onProgress: console.log },
  );
  const functions = join(root, 'usr/share/zsh/functions');
  const folders = readdirSync(functions, { withFileTypes: true, recursive: true })
    .filter((one) => one.isDirectory())
    .map((one) => join(one.parentPath, one.name));
  const env = { ...process.env, TERM: 'xterm', ZDOTDIR: folder, HOME: folder };
  return { program: join(root, 'bin/zsh-static'), env: { ...env, FPATH: [functions, ...folders].join(':') } };
}

/** fish with its own functions, and an empty home. */
export async function debiansFish(cleanup: Cleanup): Promise<ShellProgram> {
  const { root } = await unpackedDebs(
    { release: RELEASE, packages: ['fish', 'fish-common', 'libpcre2-32-0'] },
    { onProgress: console.log },
  );
  // It takes share and etc beside its own bin, where both are there.
  const beside = await cleanup.tempDir('fish');
  cpSync(join(root, 'usr/bin/fish'), join(beside, 'bin/fish'), { recursive: true });
  symlinkSync(join(root, 'usr/share'), join(beside, 'share'));
  symlinkSync(join(root, 'etc'), join(beside, 'etc'));
  const libraries = readdirSync(join(root, 'usr/lib'))
    .map((name) => join(root, 'usr/lib', name))
    .filter((path) => existsSync(join(path, 'libpcre2-32.so.0')));
  const env = { ...process.env, TERM: 'xterm', HOME: beside, XDG_CONFIG_HOME: beside };
  const own = { XDG_DATA_HOME: beside, XDG_CACHE_HOME: beside, XDG_RUNTIME_DIR: beside };
  return { program: join(beside, 'bin/fish'), env: { ...env, ...own, LD_LIBRARY_PATH: libraries.join(':') } };
}
