/** Archives whose names and links try to leave the image: all stay inside the mount. */
import { existsSync, lstatSync, readdirSync, readlinkSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { pushLayout } from '../../ops/images/layout.ts';
import { buildImage } from '../images/nasty.ts';
import { TarBytes } from '../images/tar-bytes.ts';
import { type Engine, errorOf, mountImage, startEngine } from '../support/engine.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';
import { readPieces } from './fault-image.ts';

const cleanup = new Cleanup();
let directory = '';
let registry: RegistryServer;
let engine: Engine;

beforeAll(async () => {
  directory = await cleanup.tempDir('paths');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  engine = await startEngine({ workers: 1 });
  cleanup.defer(() => engine.stop());
});
afterAll(() => cleanup.run());

async function push(name: string, tars: Buffer[]): Promise<string> {
  const layout = await buildImage(join(directory, name), tars, 'gzip');
  await pushLayout(layout, registry.host, name, '1');
  return `${registry.host}/${name}:1`;
}

/** Everything below the test's folder but what the services write there. */
const around = () => readdirSync(directory).sort();
const content = (path: string, bytes: string) => readPieces(path, Buffer.from(bytes));

describe('names that try to leave the image', () => {
  it.each(['sidecar', 'node'] as const)(
    'dots and absolute paths end at its root (index by %s)',
    async (origin) => {
      const tar = new TarBytes().dir('etc/').file('../above', 'a').file('../../../../above-all', 'b');
      tar.file('etc/../../beside', 'c').file('/absolute', 'd').file('/../etc/./../mixed', 'e');
      tar.dir('..').dir('/').file('etc/name', 'image').hardlink('linked', '../../etc/name');
      tar.file('etc/origin', origin);
      const ref = await push(`dots-${origin}`, [tar.bytes()]);
      if (origin === 'sidecar') expect((await engine.cli(['index', ref])).code).toBe(0);
      const dir = join(directory, `dots-${origin}`, 'mnt');
      const before = around();
      expect(await mountImage(engine, ref, dir)).toMatchObject({ origin });
      expect(readdirSync(dir).sort()).toEqual(
        ['above', 'above-all', 'absolute', 'beside', 'etc', 'linked', 'mixed'].sort(),
      );
      expect(await content(join(dir, 'above'), 'a')).toEqual(['ok']);
      expect(await content(join(dir, 'linked'), 'image')).toEqual(['ok']);
      expect(lstatSync(join(dir, 'linked')).ino).toBe(lstatSync(join(dir, 'etc/name')).ino);
      expect(around()).toEqual(before);
      for (const name of ['above', 'above-all', 'beside', 'absolute', 'mixed']) {
        expect(existsSync(`/${name}`)).toBe(false);
        expect(existsSync(join(dir, '..', name))).toBe(false);
      }
      expect((await engine.cli(['unmount', dir])).code).toBe(0);
    },
  );

  it('links that lead out are stored as they are, and nothing is written or read through them', async () => {
    const outside = join(directory, 'outside');
    await mkdir(outside);
    const lower = new TarBytes().symlink('out', outside).symlink('up', '../../../../../..');
    lower.symlink('passwd', '/etc/passwd').dir('deep/').symlink('deep/out', `../..${outside}`);
    const upper = new TarBytes().file('out/owned', 'x').file('deep/out/owned', 'y').file('up/tmp/owned', 'z');
    upper.file('passwd', 'of the image\n');
    const ref = await push('links', [lower.bytes(), upper.bytes()]);
    const dir = join(directory, 'links', 'mnt');
    const mounted = await engine.cli(['mount', '--json', '--no-prefetch', ref, dir]);
    if (mounted.code === 0) {
      expect(await content(join(dir, 'passwd'), 'of the image\n')).toEqual(['ok']);
      for (const name of ['out', 'up', 'deep/out']) {
        // Replaced by a folder of the image or kept as a link: in neither case the file is outside.
        if (lstatSync(join(dir, name)).isSymbolicLink()) expect(readlinkSync(join(dir, name))).not.toBe('');
        else expect(lstatSync(join(dir, name)).isDirectory()).toBe(true);
      }
      expect((await engine.cli(['unmount', dir])).code).toBe(0);
    } else {
      expect(['integrity', 'unsupported']).toContain(errorOf(mounted).code);
    }
    expect(readdirSync(outside)).toEqual([]);
    expect(existsSync('/tmp/owned')).toBe(false);
  });

  it.each([
    ['a hard link to a file of the host', (tar: TarBytes) => tar.hardlink('shadow', '/etc/shadow')],
    [
      'a hard link through a symlink',
      (tar: TarBytes) => tar.symlink('e', '/etc').hardlink('shadow', 'e/shadow'),
    ],
    ['a hard link out by dots', (tar: TarBytes) => tar.hardlink('shadow', '../../../etc/shadow')],
  ])('%s is refused: the image has no such file', async (what, build) => {
    const ref = await push(`hard-${what.length}`, [build(new TarBytes().dir('etc/')).bytes()]);
    const dir = join(directory, `mnt-hard-${what.length}`);
    for (const args of [
      ['index', '--json', ref],
      ['mount', '--json', ref, dir],
    ]) {
      const result = await engine.cli(args);
      expect([args[0], result.code]).toEqual([args[0], 6]);
      expect(['integrity', 'unsupported']).toContain(errorOf(result).code);
      expect(errorOf(result).message).toContain('shadow');
    }
    expect(existsSync(dir)).toBe(false);
  });
});
