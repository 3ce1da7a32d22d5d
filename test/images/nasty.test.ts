import { execFileSync } from 'node:child_process';
import { lstatSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { pushLayout } from '../../ops/images/layout.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { type Containerd, startContainerd } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';
import { assertSameTree, diffTrees, printable, readTree } from '../support/tree.ts';
import { unpackWithContainerd, unpackWithUmoci } from '../support/unpack.ts';
import { buildImage, crossLinkLayers, gnuLayer, nastyLayers, noise, type Variant } from './nasty.ts';

const cleanup = new Cleanup();
let directory: string;
let registry: RegistryServer;
let containerd: Containerd;

beforeAll(async () => {
  directory = await cleanup.tempDir('nasty');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  containerd = await startContainerd();
  cleanup.defer(() => containerd.stop());
});
afterAll(() => cleanup.run());

async function push(name: string, tars: Buffer[], variant: Variant): Promise<string> {
  const layout = await buildImage(join(directory, `build-${name}-${variant}`), tars, variant);
  await pushLayout(layout, registry.host, name, variant);
  return `${registry.host}/${name}:${variant}`;
}

async function byContainerd(reference: string, name: string) {
  const { root, unmount } = await unpackWithContainerd(containerd, reference, join(directory, name));
  const tree = await readTree(root);
  await unmount();
  return tree;
}

describe('the nasty image', () => {
  test('means to umoci and to containerd the same, up to what the table in README.md says', async () => {
    const umoci = await readTree(
      await unpackWithUmoci(await push('nasty', nastyLayers(), 'plain'), join(directory, 'u')),
    );
    const other = await byContainerd(await push('nasty', nastyLayers(), 'gzip'), 'c');
    const differences = diffTrees(umoci, other).map(
      ({ path, field }) => `${printable(path) || '.'} ${field}`,
    );
    const linked = ['link/odd', 'link/one', 'link/sub/four'];
    expect(differences).toEqual([
      '. mtime',
      'copied/to nlink',
      'implicit mtime',
      'implicit/parents mtime',
      ...linked.flatMap((name) => ['mode', 'uid', 'mtime', 'nlink'].map((field) => `${name} ${field}`)),
      'nested/opaque/within mtime',
      'time/before-1970 mtime',
      'usr mtime',
      'usr/share mtime',
      'usr/share/implicit mode',
      'usr/share/implicit mtime',
      'xattr/dir xattrs',
      'xattr/empty xattrs',
      'xattr/symlink xattrs',
    ]);
    const names = new Set(umoci.nodes.map((node) => printable(node.path)));
    expect(names.size).toBeGreaterThan(3100);
    for (const name of ['late', 'many/0-0', 'gone/file', 'gone/returns', 'copied/from', 'link/two'])
      expect(names).not.toContain(name);
  }, 240_000);

  test.each(['docker', 'zstd', 'members'] as const)(
    'means the same compressed as %s',
    async (variant) => {
      const gzip = await byContainerd(await push('nasty', nastyLayers(), 'gzip'), `c-gzip-${variant}`);
      const other = await byContainerd(await push('nasty', nastyLayers(), variant), `c-${variant}`);
      // Folders without entries carry the moment of unpacking.
      assertSameTree(gzip, other, { ignore: ({ field }, node) => field === 'mtime' && node.type === 'dir' });
    },
    240_000,
  );

  test('links across layers are umoci’s to unpack', async () => {
    const root = await unpackWithUmoci(await push('cross', crossLinkLayers(), 'plain'), join(directory, 'x'));
    expect(lstatSync(join(root, 'new/three')).nlink).toBe(3);
    expect(readFileSync(join(root, 'c/again'), 'utf8')).toBe('new');
  });

  test('its old GNU sparse files are what GNU tar makes of them', () => {
    const root = join(directory, 'gnu');
    mkdirSync(root);
    writeFileSync(`${root}.tar`, gnuLayer());
    execFileSync('tar', ['-xf', `${root}.tar`, '-C', root]);
    const unaligned = readFileSync(join(root, 'sparse/unaligned'));
    expect(unaligned.length).toBe(300_001);
    expect(unaligned.subarray(100_007, 149_671).equals(noise(49_664, 44))).toBe(true);
    const many = readFileSync(join(root, 'sparse/many'));
    expect(many.subarray(39 * 8192 + 4096, 39 * 8192 + 4608).equals(noise(512, 89))).toBe(true);
    expect(many.subarray(0, 4096).every((byte) => byte === 0)).toBe(true);
  });

  test('is the same at each call', () => {
    expect(nastyLayers().map((tar) => tar.length)).toEqual(nastyLayers().map((tar) => tar.length));
    expect(Buffer.concat(nastyLayers()).equals(Buffer.concat(nastyLayers()))).toBe(true);
  });
});
