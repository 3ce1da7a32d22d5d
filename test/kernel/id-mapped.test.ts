import { chownSync, mkdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { canMapIds, mountMapped } from '../../src/kernel/id-mapped.ts';
import { findMount, unmount } from '../../src/kernel/mount.ts';
import { Cleanup } from '../support/temp.ts';

const range = (container: number, host: number, size: number) => ({ container, host, size });

test('a folder is shown with the owners of the maps, read-only', async () => {
  const cleanup = new Cleanup();
  try {
    const work = await cleanup.tempDir('ids');
    const [source, target] = [join(work, 'source'), join(work, 'target')];
    for (const folder of [source, target]) mkdirSync(folder);
    for (const [name, uid, gid] of [
      ['root', 0, 0],
      ['user', 1000, 5],
      ['beyond', 70_000, 6],
    ] as const) {
      writeFileSync(join(source, name), name);
      chownSync(join(source, name), uid, gid);
    }
    const maps = { uid: [range(0, 100_000, 65_536)], gid: [range(0, 7, 1), range(1, 200_001, 9)] };
    await mountMapped({ source, target, maps });
    cleanup.defer(() => unmount(target));
    const owner = (name: string) => {
      const { uid, gid } = statSync(join(target, name));
      return `${uid} ${gid}`;
    };
    expect(owner('root')).toBe('100000 7');
    expect(owner('user')).toBe('101000 200005');
    expect(owner('beyond')).toBe('65534 200006');
    expect(statSync(join(source, 'user')).uid).toBe(1000);
    expect(() => writeFileSync(join(target, 'new'), '')).toThrow('EROFS');
    expect(findMount(target)?.options).toContain('idmapped');
  } finally {
    await cleanup.run();
  }
});

test('what cannot be is said, and nothing is mounted', async () => {
  const cleanup = new Cleanup();
  try {
    const target = await cleanup.tempDir('ids');
    const some = { uid: [range(0, 1, 1)], gid: [range(0, 1, 1)] };
    const mapped = (source: string, maps = some) => mountMapped({ source, target, maps });
    await expect(mapped('/proc')).rejects.toMatchObject({ code: 'unsupported' });
    await expect(mapped('/nonexistent')).rejects.toMatchObject({ code: 'not-found' });
    const overlapping = { ...some, uid: [range(0, 1, 2), range(1, 9, 2)] };
    await expect(mapped(target, overlapping)).rejects.toMatchObject({ code: 'invalid-argument' });
    expect(findMount(target)).toBeUndefined();
  } finally {
    await cleanup.run();
  }
});

test('a disk can be mounted with other owners, /proc cannot', async () => {
  const cleanup = new Cleanup();
  try {
    expect(await canMapIds(await cleanup.tempDir('ids'))).toBe(true);
    expect(await canMapIds('/proc')).toBe(false);
    await expect(canMapIds('/nonexistent')).rejects.toMatchObject({ code: 'not-found' });
  } finally {
    await cleanup.run();
  }
});
