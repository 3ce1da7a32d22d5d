/** Writers on one disk, and what they leave of it. */
import { mkdirSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { DiskRoom, LOG_ROOM } from '../../src/store/disk-room.ts';
import { runCommand } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';

let cleanup: Cleanup;
let disk = '';

beforeEach(async () => {
  cleanup = new Cleanup();
  disk = join(await cleanup.tempDir('room'), 'disk');
  mkdirSync(disk);
  await runCommand('mount', ['-t', 'tmpfs', '-o', 'size=12m', 'tmpfs', disk]);
  cleanup.defer(() => runCommand('umount', ['--', disk]));
});
afterEach(() => cleanup.run());

const free = () => {
  const { bavail, bsize } = statfsSync(disk);
  return bavail * bsize;
};

test('several write in turn until the room of the log is all that is left, within a block', () => {
  const size = 64 * 1024;
  const rooms = Array.from({ length: 4 }, () => new DiskRoom(disk));
  const block = Buffer.alloc(size, 1);
  const refused = new Set<DiskRoom>();
  for (let at = 0; refused.size < rooms.length; at++) {
    const room = rooms[at % rooms.length] as DiskRoom;
    try {
      room.take(size);
    } catch (error) {
      expect(error).toMatchObject({ code: 'no-space', message: expect.stringContaining(disk) });
      refused.add(room);
      continue;
    }
    writeFileSync(join(disk, String(at)), block);
    expect(free()).toBeGreaterThanOrEqual(LOG_ROOM);
  }
  expect(free()).toBeLessThan(LOG_ROOM + size);
});

test('what others write is seen within a MiB', () => {
  const room = new DiskRoom(disk);
  room.take(4096);
  writeFileSync(join(disk, 'others'), Buffer.alloc(11 << 20));
  let taken = 0;
  expect(() => {
    for (; taken < 2 << 20; taken += 4096) room.take(4096);
  }).toThrow('full');
  expect(taken).toBeLessThanOrEqual(1 << 20);
});
