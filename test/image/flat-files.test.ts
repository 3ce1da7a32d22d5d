/** Paths in a flat image lead where they would lead a process in its root. */
import { describe, expect, test } from 'vitest';
import { buildFlat } from '../../src/image/erofs.ts';
import { FlatFiles } from '../../src/image/flat-files.ts';
import { dir, entry, file, symlink, toc } from './toc-entries.ts';

const DIFF_ID = `sha256:${'1'.repeat(64)}`;

const files = new FlatFiles(
  buildFlat(
    [
      toc(
        dir('usr'),
        dir('usr/bin'),
        file('usr/bin/tool', 3_000, { mode: 0o755 }),
        dir('etc'),
        file('etc/note', 10, { mode: 0o644 }),
        symlink('bin', 'usr/bin'),
        symlink('usr/bin/abs', '/etc/note'),
        symlink('usr/bin/rel', '../../etc/../etc/note'),
        symlink('usr/bin/up', `${'../'.repeat(20)}etc/note`),
        symlink('loop', 'loop'),
        symlink('ping', 'pong'),
        symlink('pong', 'ping'),
        symlink('long', `${'./'.repeat(600)}etc/note`),
        symlink('gone', 'nowhere'),
        entry('sparse', 'file', {
          size: 9000,
          extents: [{ fileOffset: 4096, deviceOffset: 512, length: 4096 }],
          patches: [{ fileOffset: 8192, bytes: Buffer.alloc(808, 'p') }],
        }),
        entry('fifo', 'fifo'),
        dir('many'),
        ...Array.from({ length: 300 }, (_, i) => file(`many/name-${i}`, 1)),
      ),
    ],
    [{ diffId: DIFF_ID, size: 64 * 1024 }],
  ).metadata,
);

describe('a path', () => {
  test.each([
    ['/usr/bin/tool', '/usr/bin/tool'],
    ['/bin/tool', '/usr/bin/tool'],
    ['bin//./tool', '/usr/bin/tool'],
    ['/bin/abs', '/etc/note'],
    ['/bin/rel', '/etc/note'],
    ['/bin/up', '/etc/note'],
    ['/bin/../../../etc/note', '/etc/note'],
    ['/long', '/etc/note'],
    ['/', '/'],
    ['/bin', '/usr/bin'],
    ['/many/name-299', '/many/name-299'],
  ])('%s leads to %s', (path, real) => {
    expect(files.find(path)?.path).toBe(real);
  });

  test('is listed with all others but those of folders', () => {
    const all = [...files.paths()];
    expect(all).toHaveLength(new Set(all).size);
    expect(all).toHaveLength(313);
    expect(all).toEqual(expect.arrayContaining(['/usr/bin/tool', '/bin', '/loop', '/fifo', '/many/name-7']));
    expect(all).not.toContain('/many');
  });

  test.each(['/loop', '/ping', '/gone', '/etc/note/below', '/usr/none', `/${'loop/'.repeat(5_000)}`])(
    '%s leads nowhere',
    (path) => {
      expect(files.find(path)).toBeUndefined();
    },
  );

  test('says what is there', () => {
    expect(files.find('/bin/tool')).toMatchObject({ kind: 'file', size: 3_000, isExecutable: true });
    expect(files.find('/etc/note')).toMatchObject({ kind: 'file', size: 10, isExecutable: false });
    expect(files.find('/usr')?.kind).toBe('dir');
    expect(files.find('/fifo')?.kind).toBe('other');
    expect(files.list('/bin')).toEqual(['abs', 'rel', 'tool', 'up']);
    expect(files.list('/many')).toHaveLength(300);
    expect(files.list('/etc/note')).toEqual([]);
    expect(files.list('/none')).toEqual([]);
  });
});

test('file data are where the layer has them; holes are nowhere, and patches in the metadata', () => {
  const sparse = files.find('/sparse');
  const extents = sparse === undefined ? [] : [...files.extents(sparse)];
  const inLayer = extents.filter(({ device }) => device === 0);
  expect(inLayer.reduce((sum, { length }) => sum + length, 0)).toBe(4096);
  expect(inLayer[0]).toMatchObject({ at: 4096, from: 512 });
  expect(extents.some(({ device, at }) => device === undefined && at === 8192)).toBe(true);
  expect(extents.every(({ at }) => at >= 4096)).toBe(true);
  expect(files.devices).toEqual([DIFF_ID]);
});
