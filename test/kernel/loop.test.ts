import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, open, readFile, rename, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { loadMetadata, mountErofs } from '../../src/kernel/erofs.ts';
import {
  attachLoop,
  changeBacking,
  detachLoop,
  type LoopDevice,
  listLoops,
  loopReads,
} from '../../src/kernel/loop.ts';
import { isMounted, unmount } from '../../src/kernel/mount.ts';
import { setReadAhead } from '../../src/kernel/read-ahead.ts';
import { Cleanup } from '../support/temp.ts';

const MIB = 1 << 20;
let cleanup: Cleanup;
let folder: string;
beforeEach(async () => {
  cleanup = new Cleanup();
  folder = await cleanup.tempDir('loop');
});
afterEach(() => cleanup.run());

async function file(name: string, bytes: Buffer): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, bytes);
  return path;
}

async function attach(path: string, label = 'cofa-test', directIo = true): Promise<LoopDevice> {
  const loop = await attachLoop(path, { directIo, readOnly: true, label });
  cleanup.defer(() => detachLoop(loop));
  return loop;
}

async function readAll(path: string, size: number): Promise<Buffer> {
  const handle = await open(path, 'r');
  try {
    const bytes = Buffer.alloc(size);
    for (let at = 0; at < size; ) {
      const { bytesRead } = await handle.read(bytes, at, size - at, at);
      if (bytesRead === 0) return bytes.subarray(0, at);
      at += bytesRead;
    }
    return bytes;
  } finally {
    await handle.close();
  }
}

test('a loop shows its file, is read-only, does direct I/O, and is known by its label until it is detached', async () => {
  const bytes = randomBytes(MIB + 512);
  const path = await file('a', bytes);
  const label = 'cofa:'.padEnd(63, 'x');
  const loop = await attach(path, label);
  expect(await readAll(loop.path, MIB + 4096)).toEqual(bytes);
  expect((await listLoops()).find((entry) => entry.number === loop.number)).toEqual({
    ...loop,
    label,
    backingFile: path,
    directIo: true,
    readOnly: true,
    autoclear: false,
  });
  const block = `/sys/block/loop${loop.number}`;
  expect((await readFile(`${block}/queue/logical_block_size`, 'utf8')).trim()).toBe('512');
  await detachLoop(loop);
  expect((await listLoops()).some((entry) => entry.label === label)).toBe(false);
  await detachLoop(loop); // again: nothing to do
});

test('a label that the kernel would cut, or an empty one, is refused', async () => {
  const path = await file('a', Buffer.alloc(4096));
  for (const label of ['', 'x'.repeat(64), 'nul\0'])
    await expect(attachLoop(path, { directIo: true, readOnly: true, label })).rejects.toMatchObject({
      code: 'invalid-argument',
    });
  await expect(
    attachLoop(join(folder, 'none'), { directIo: true, readOnly: true, label: 'x' }),
  ).rejects.toMatchObject({ code: 'not-found', message: expect.stringContaining('ENOENT') });
});

test('the backing file is exchanged under readers without a wrong byte', async () => {
  const bytes = randomBytes(8 * MIB);
  const [first, second] = [await file('first', bytes), await file('second', bytes)];
  const loop = await attach(first);
  const device = await open(loop.path, 'r');
  const abort = new AbortController();
  const readers = [1, 2].map(async (seed) => {
    const buffer = Buffer.alloc(64 * 1024);
    for (let i = seed; !abort.signal.aborted; i += 7) {
      const offset = (i * 4096) % (bytes.length - buffer.length);
      await device.read(buffer, 0, buffer.length, offset);
      if (buffer.compare(bytes, offset, offset + buffer.length) !== 0)
        throw new Error(`wrong bytes at ${offset}`);
    }
  });
  try {
    for (let i = 0; i < 10; i++) await changeBacking(loop, i % 2 === 0 ? second : first);
  } finally {
    abort.abort();
    await Promise.all(readers);
    await device.close();
  }
  await changeBacking(loop, second);
  expect((await listLoops()).find((entry) => entry.number === loop.number)).toMatchObject({
    backingFile: second,
    directIo: true,
  });
});

test('an exchange for a file of another size is refused, and the loop stays as it was', async () => {
  const loop = await attach(await file('a', Buffer.alloc(MIB, 1)));
  const other = await file('b', Buffer.alloc(MIB, 2));
  await truncate(other, MIB - 512);
  await expect(changeBacking(loop, other)).rejects.toMatchObject({
    code: 'invalid-argument',
    message: expect.stringContaining('EINVAL'),
  });
  expect((await readAll(loop.path, MIB))[0]).toBe(1);
});

test('a loop that became another process’s is neither detached nor changed', async () => {
  const path = await file('a', Buffer.alloc(4096));
  const loop = await attach(path, 'theirs');
  const stale = { ...loop, label: 'mine' };
  await detachLoop(stale);
  await expect(changeBacking(stale, path)).rejects.toMatchObject({ code: 'not-found' });
  expect((await listLoops()).some((entry) => entry.label === 'theirs')).toBe(true);
});

test('detaching a loop that is open says busy; the kernel frees it with its last user', async () => {
  const loop = await attach(await file('a', Buffer.alloc(4096)), 'cofa-busy');
  const user = await open(loop.path, 'r');
  await expect(detachLoop(loop)).rejects.toMatchObject({ code: 'busy', message: `${loop.path} is in use` });
  await user.close();
  expect((await listLoops()).some((entry) => entry.label === 'cofa-busy')).toBe(false);
});

test('many processes take loops at the same time, one more removes free ones, and none fails or gets another one’s', async () => {
  const path = await file('shared', randomBytes(4096));
  const module = (name: string) =>
    JSON.stringify(fileURLToPath(new URL(`../../src/kernel/${name}`, import.meta.url)));
  const run = (script: string) => {
    const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', script], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    cleanup.defer(() => child.kill('SIGKILL'));
    return child;
  };
  const takes = `
    import { attachLoop, detachLoop } from ${module('loop.ts')};
    for (let i = 0; i < 8; i++) {
      const loops = await Promise.all([0, 1, 2, 3, 4].map((j) => attachLoop(${JSON.stringify(path)}, { directIo: true, readOnly: true, label: 'race-' + process.pid + '-' + i + j })));
      for (const loop of loops) await detachLoop(loop);
    }`;
  // The kernel knows some of its own from the beginning, and keeps those that are used. LOOP_CTL_REMOVE of linux/loop.h.
  const removes = `
    import { openSync, readdirSync } from 'node:fs';
    import { setImmediate } from 'node:timers/promises';
    import { declare } from ${module('libc.ts')};
    const ioctl = declare('ioctl', ['int', 'ulong', 'long']);
    const control = openSync('/dev/loop-control', 'r+');
    for (;; await setImmediate())
      for (const name of readdirSync('/sys/block')) {
        const number = Number(/^loop(\\d+)$/.exec(name)?.[1] ?? 0);
        if (number >= 8) ioctl(control, 0x4c81, number);
      }`;
  run(removes);
  const results = await Promise.all(
    Array.from({ length: 4 }, () => run(takes)).map(async (child) => {
      let errors = '';
      child.stderr.on('data', (chunk: Buffer) => (errors += chunk.toString()));
      const [code] = (await once(child, 'close')) as [number];
      return code === 0 ? '' : errors;
    }),
  );
  expect(results).toEqual(['', '', '', '']);
});

test('without a node for the loop device in /dev one is made', async () => {
  const path = await file('a', Buffer.alloc(4096, 7));
  const module = fileURLToPath(new URL('../../src/kernel/loop.ts', import.meta.url));
  const script = `
    import { readdirSync, readFileSync } from 'node:fs';
    import { attachLoop, detachLoop } from ${JSON.stringify(module)};
    if (readdirSync('/dev').some((name) => /^loop\\d/.test(name))) throw new Error('the empty /dev is not empty');
    const loop = await attachLoop(${JSON.stringify(path)}, { directIo: true, readOnly: true, label: 'no-node' });
    const first = readFileSync(loop.path)[0];
    await detachLoop(loop);
    console.log(first);`;
  // A mount namespace of its own, whose /dev holds the control node only; it ends with the process.
  const { stdout } = await promisify(execFile)('unshare', [
    '--mount',
    '--propagation',
    'private',
    'sh',
    '-c',
    'mkdir "$1" && mount -t tmpfs none "$1" && cp -a /dev/loop-control /dev/null /dev/urandom "$1" && mount --move "$1" /dev && exec "$2" --input-type=module-typescript -e "$3"',
    'sh',
    join(folder, 'dev'),
    process.execPath,
    script,
  ]);
  expect(stdout.trim()).toBe('7');
});

test('an EROFS image with its data on a second loop is mounted, read ahead is set, and loops can be exchanged under it', async () => {
  const tree = join(folder, 'tree');
  await mkdir(tree);
  const content = randomBytes(3 * MIB + 17);
  await writeFile(join(tree, 'data'), content);
  const [metadata, data] = [join(folder, 'metadata'), join(folder, 'data')];
  await writeFile(data, '');
  await promisify(execFile)('mkfs.erofs', [`--blobdev=${data}`, '--chunksize=4096', metadata, tree]);
  const loops = [await attach(metadata, 'meta'), await attach(data, 'data')] as const;
  const target = join(folder, 'mnt');
  await mkdir(target);
  await mountErofs({ metadata: loops[0], devices: [loops[1]], target });
  cleanup.defer(() => isMounted(target) && unmount(target));
  expect(await readFile(join(target, 'data'))).toEqual(content);
  await setReadAhead(loops[0], 512);
  expect((await readFile(`/sys/block/loop${loops[0].number}/queue/read_ahead_kb`, 'utf8')).trim()).toBe(
    '512',
  );

  // Another inode with the same bytes, as when a layer is complete.
  const copy = await file('copy', await readFile(data));
  await rename(data, join(folder, 'old'));
  await changeBacking(loops[1], copy);
  // Drops what the page cache holds of this file, so that it is read again.
  await promisify(execFile)('dd', [`if=${join(target, 'data')}`, 'iflag=nocache', 'count=0', 'status=none']);
  expect(await readFile(join(target, 'data'))).toEqual(content);

  await expect(detachLoop(loops[1])).rejects.toMatchObject({ code: 'busy' });
  await unmount(target);
  await detachLoop(loops[0]);
});

test('the metadata of a mounted EROFS image are read in a few large requests, not page by page', async () => {
  const tree = join(folder, 'tree');
  await mkdir(tree);
  const names = Array.from({ length: 3_000 }, (_, index) => `file-${index}`);
  for (const name of names) await writeFile(join(tree, name), 'x');
  const path = join(folder, 'metadata');
  // 96 bytes of inode and data, and a directory entry for each.
  await promisify(execFile)('mkfs.erofs', ['-E', 'force-inode-extended', path, tree]);
  const pages = (await stat(path)).size / 4096;
  const metadata = await attach(path, 'meta', false);
  const target = join(folder, 'mnt');
  await mkdir(target);
  // Counted since the kernel made the device, whatever it was used for.
  const before = (await loopReads(metadata.number)) ?? 0;
  await mountErofs({ metadata, devices: [], target });
  cleanup.defer(() => isMounted(target) && unmount(target));
  await loadMetadata(metadata);
  // Looks at every inode: what it needs is there, or waited for.
  await promisify(execFile)('find', [target, '-size', '+1000000k']);
  expect(((await loopReads(metadata.number)) ?? 0) - before).toBeLessThan(pages / 2);
});

test('a file that is no EROFS image gives a clear error and mounts nothing', async () => {
  const loop = await attach(await file('noise', randomBytes(MIB)));
  const target = join(folder, 'mnt');
  await mkdir(target);
  await expect(mountErofs({ metadata: loop, devices: [], target })).rejects.toMatchObject({
    code: 'unsupported',
    message: expect.stringMatching(new RegExp(`mount of ${loop.path} \\(erofs\\) at .*: EINVAL`)),
  });
  expect(isMounted(target)).toBe(false);
});

test('loops that are attached at once do not run for the same one: each its own, in about the time that they take in turn', async () => {
  const bytes = Array.from({ length: 48 }, () => randomBytes(4096));
  const files = await Promise.all(bytes.map((content, n) => file(`many-${n}`, content)));
  const timed = async (all: () => Promise<LoopDevice[]>): Promise<number> => {
    const began = performance.now();
    const loops = await all();
    const ms = performance.now() - began;
    expect(new Set(loops.map(({ number }) => number)).size).toBe(files.length);
    for (const [n, loop] of loops.entries()) expect(await readAll(loop.path, 4096)).toEqual(bytes[n]);
    await Promise.all(loops.map((loop) => detachLoop(loop)));
    return ms;
  };
  const inTurn = async () => {
    const loops: LoopDevice[] = [];
    for (const path of files) loops.push(await attach(path));
    return loops;
  };
  const turns: number[] = [];
  const onces: number[] = [];
  for (let round = 0; round < 3; round++) {
    turns.push(await timed(inTurn));
    onces.push(await timed(() => Promise.all(files.map((path) => attach(path)))));
  }
  // The best of each, since others use the machine. When all asked for the same free one it was fifty times as long.
  expect(Math.min(...onces) / Math.min(...turns)).toBeLessThan(5);
});
