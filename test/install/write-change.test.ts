/** How files of other programs are written: who may read them stays as it was, and a name that is a link stays one. */
import { chmod, lstat, mkdir, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { read, writeChange } from '../../src/cli/install.ts';
import { planInstall, planUninstall } from '../../src/install/plans.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
let etc: string;
let paths: { containerd: string; docker: string; unit: undefined };
beforeEach(async () => {
  etc = await cleanup.tempDir('etc');
  paths = { containerd: join(etc, 'config.toml'), docker: join(etc, 'daemon.json'), unit: undefined };
});
afterEach(() => cleanup.run());

const modeOf = async (path: string) => ((await stat(path)).mode & 0o7777).toString(8);

async function install(): Promise<void> {
  const order = { target: 'docker', paths, read, root: '/r', socket: '/r/s', unit: () => '' } as const;
  for (const change of planInstall(order)) await writeChange(change);
}

async function uninstall(): Promise<void> {
  for (const change of planUninstall({ targets: ['docker'], paths, read })) await writeChange(change);
}

test('the copy of a daemon.json that is a secret is one, too', async () => {
  await writeFile(paths.docker, '{"proxies":{"http-proxy":"http://user:password@proxy"}}');
  await chmod(paths.docker, 0o600);
  await install();
  expect(await readFile(`${paths.docker}.before-cofa`, 'utf8')).toContain('password');
  expect(await modeOf(`${paths.docker}.before-cofa`)).toBe('600');
  expect(await modeOf(paths.docker)).toBe('600');
  expect(await modeOf(paths.containerd)).toBe('644');
});

test('a link to a file stays a link', async () => {
  await mkdir(join(etc, 'managed'));
  const target = join(etc, 'managed/daemon.json');
  await writeFile(target, '{}');
  await symlink('managed/daemon.json', paths.docker);
  await install();
  expect((await lstat(paths.docker)).isSymbolicLink()).toBe(true);
  expect(await readFile(target, 'utf8')).toContain('cofa');
});

test('an install of what was half taken back by hand keeps the copy of before', async () => {
  await writeFile(paths.docker, '{"storage-driver":"overlay2"}');
  await install();
  await writeFile(paths.docker, '{"storage-driver":"cofa","features":{"containerd-snapshotter":false}}');
  await install();
  await uninstall();
  expect(JSON.parse(await readFile(paths.docker, 'utf8'))).toEqual({ 'storage-driver': 'overlay2' });
});
