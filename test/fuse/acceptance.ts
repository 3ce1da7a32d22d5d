/** The one suite that every FUSE transport passes. */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { writeSync } from 'node:fs';
import { appendFile, mkdir, open, readdir, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { ColdRead, DeviceFile } from '../../src/fuse/transport.ts';
import { BLOCK_ABSENT, BLOCK_FETCHING, inodeOf } from '../../src/fuse/transport.ts';
import { mountErofs } from '../../src/kernel/erofs.ts';
import { changeBacking } from '../../src/kernel/loop.ts';
import { isMounted, unmount } from '../../src/kernel/mount.ts';
import { allOk, readPieces, startReadJob } from './read-job.ts';
import { BLOCK, type Layer, randomPieces, type Serve, TestBed } from './test-bed.ts';

const MIB = 1 << 20;
const EIO = 5;
const never: ColdRead = () => {
  throw new Error('a read of present blocks came out as cold');
};

export function acceptance(transportName: string, serve: Serve): void {
  describe(`${transportName}: acceptance`, () => {
    let bed: TestBed;
    beforeEach(async () => {
      bed = await new TestBed(serve).start();
    });
    afterEach(() => bed.end());

    test('present blocks: right bytes at any offset and length, at the end and past it', async () => {
      const layer = await bed.layer(5 * MIB + 512);
      layer.fetch();
      const { transport, target } = await bed.serve(never);
      transport.add(layer.file);
      const { size } = layer.file;
      const edges = [
        { offset: 0, length: 1 },
        { offset: BLOCK - 1, length: 2 },
        { offset: size - 1, length: 1 },
        { offset: size - 1, length: 4096 },
        { offset: size, length: 4096 },
        { offset: size + BLOCK, length: 10 },
        { offset: 0, length: size + 5 },
      ];
      for (const direct of [false, true]) {
        const pieces = [...edges, ...randomPieces(150, size)];
        const { results } = await readPieces({
          path: join(target, layer.file.name),
          truth: layer.truth,
          pieces,
          parallel: 8,
          direct,
        });
        expect(results).toEqual(allOk(pieces.length));
      }
      expect(await stat(join(target, layer.file.name))).toMatchObject({ size, nlink: 1 });
    });

    test('absent blocks: reads wait until they are fetched, ask for ranges within the file, and get right bytes', async () => {
      const layer = await bed.layer(3 * MIB + 1024);
      const asked: Array<[DeviceFile, number, number]> = [];
      const { transport, target } = await bed.serve((file, offset, length, answer) => {
        asked.push([file, offset, length]);
        setTimeout(() => {
          layer.fetch(offset, length);
          answer(0);
        }, 5);
      });
      transport.add(layer.file);
      const pieces = randomPieces(80, layer.file.size);
      const job = {
        path: join(target, layer.file.name),
        truth: layer.truth,
        pieces,
        parallel: 16,
        direct: true,
      };
      expect((await readPieces(job)).results).toEqual(allOk(pieces.length));
      expect(asked.length).toBeGreaterThan(0);
      for (const [file, offset, length] of asked) {
        expect(file).toBe(layer.file);
        expect(length).toBeGreaterThan(0);
        expect(offset).toBeGreaterThanOrEqual(0);
        expect(offset + length).toBeLessThanOrEqual(layer.file.size);
      }
      const counters = transport.counters();
      expect(counters.misses).toBe(asked.length);
      expect(counters.hits + counters.misses).toBe(counters.reads);
      expect(counters.errors).toBe(0);
      expect(transport.counters(layer.file.inode)).toEqual(counters);
    });

    test('the order of first reads is noted, present or absent, and starts over when the clock says so', async () => {
      const layer = await bed.layer(8 * BLOCK);
      layer.fetch(0, 4 * BLOCK);
      const clock = new Int32Array(new SharedArrayBuffer(8));
      const ticks = new Uint32Array(new SharedArrayBuffer(8 * 4));
      const { transport, target } = await bed.serve((_, offset, length, answer) => {
        layer.fetch(offset, length);
        answer(0);
      });
      const firstReads = {
        clock: clock.buffer as SharedArrayBuffer,
        ticks: ticks.buffer as SharedArrayBuffer,
      };
      transport.add({ ...layer.file, firstReads });
      const path = join(target, layer.file.name);
      const read = async (...blocks: number[]) => {
        const pieces = blocks.map((block) => ({ offset: block * BLOCK, length: 512 }));
        const job = { path, truth: layer.truth, pieces, parallel: 1, direct: true };
        expect((await readPieces(job)).results).toEqual(allOk(blocks.length));
      };
      const order = () =>
        [...ticks.keys()]
          .filter((block) => (ticks[block] as number) > (clock[1] as number))
          .sort((a, b) => (ticks[a] as number) - (ticks[b] as number));
      await read(6, 1, 6, 0, 7, 1);
      expect(order()).toEqual([6, 1, 0, 7]);
      clock[1] = clock[0] as number;
      expect(order()).toEqual([]);
      await read(7, 2, 6);
      expect(order()).toEqual([7, 2, 6]);
    });

    test('blocks that are punched while they are read: no reader gets the bytes behind them', async () => {
      const layer = await bed.layer(2 * MIB);
      layer.fetch();
      let leaving = false;
      const waiting: Array<() => void> = [];
      const { transport, target } = await bed.serve((_, offset, length, answer) => {
        const load = () => {
          layer.fetch(offset, length);
          answer(0);
        };
        if (leaving) waiting.push(load);
        else load();
      });
      transport.add(layer.file);
      const pieces = randomPieces(3_000, layer.file.size);
      const path = join(target, layer.file.name);
      const job = startReadJob({ path, truth: layer.truth, pieces, parallel: 16, direct: true });
      const done = job.report.finally(() => (reading = false));
      let reading = true;
      let evictions = 0;
      const poison = Buffer.alloc(layer.file.size, 0xdd);
      while (reading) {
        leaving = true;
        for (let block = 0; block < layer.blockCount; block++) layer.mark(block, BLOCK_ABSENT);
        await transport.quiesce();
        writeSync(layer.file.fd, poison, 0, poison.length, 0);
        leaving = false;
        for (const load of waiting.splice(0)) load();
        evictions += 1;
        await sleep(2);
      }
      expect((await done).results).toEqual(allOk(pieces.length));
      expect(evictions).toBeGreaterThan(20);
    });

    test('each block has the time of its last read', async () => {
      const layer = await bed.layer(8 * BLOCK);
      layer.fetch(0, 4 * BLOCK);
      const uses = new Uint32Array(new SharedArrayBuffer(4 * 9));
      const { transport, target } = await bed.serve((_, offset, length, answer) => {
        layer.fetch(offset, length);
        answer(0);
      });
      transport.add({ ...layer.file, uses: uses.buffer as SharedArrayBuffer });
      const path = join(target, layer.file.name);
      for (const [time, offset, length] of [
        [5, 0, 3 * BLOCK],
        [6, 2 * BLOCK - 512, 1024],
        [7, 7 * BLOCK, BLOCK],
      ] as const) {
        uses[0] = time;
        const job = { path, truth: layer.truth, pieces: [{ offset, length }], parallel: 1, direct: true };
        expect((await readPieces(job)).results).toEqual(['ok']);
      }
      expect([...uses]).toEqual([7, 5, 6, 6, 0, 0, 0, 0, 7]);
    });

    test('a block that is being fetched is not present yet', async () => {
      const layer = await bed.layer(BLOCK);
      layer.mark(0, BLOCK_FETCHING);
      const { transport, target } = await bed.serve((_, offset, length, answer) => {
        layer.fetch(offset, length);
        answer(0); // from within the call
        answer(EIO); // too late to matter
      });
      transport.add(layer.file);
      const pieces = [{ offset: 0, length: BLOCK }];
      const job = { path: join(target, layer.file.name), truth: layer.truth, pieces, parallel: 1 };
      expect((await readPieces(job)).results).toEqual(['ok']);
      expect(transport.counters()).toMatchObject({ hits: 0, errors: 0, bytes: BLOCK });
    });

    test('an error answer is EIO on exactly that read, and the next try may succeed', async () => {
      const layer = await bed.layer(16 * BLOCK);
      let broken = 7;
      const { transport, target } = await bed.serve((_, offset, length, answer) => {
        const [first, last] = [Math.floor(offset / BLOCK), Math.floor((offset + length - 1) / BLOCK)];
        if (first <= broken && broken <= last) return answer(EIO);
        layer.fetch(offset, length);
        return answer(0);
      });
      transport.add(layer.file);
      const pieces = Array.from({ length: 16 }, (_, block) => ({ offset: block * BLOCK + 10, length: 5000 }));
      const job = {
        path: join(target, layer.file.name),
        truth: layer.truth,
        pieces,
        parallel: 16,
        direct: true,
      };
      const expected = allOk(16);
      expected[7] = 'EIO';
      expect((await readPieces(job)).results).toEqual(expected);
      expect(transport.counters().errors).toBe(1);
      broken = -1;
      expect((await readPieces(job)).results).toEqual(allOk(16));
    });

    test('an answer that claims too much gives EIO, never zeros', async () => {
      const layer = await bed.layer(4 * BLOCK);
      const { transport, target } = await bed.serve((_, _offset, _length, answer) => answer(0));
      transport.add(layer.file);
      const pieces = [{ offset: 0, length: 100 }];
      const job = {
        path: join(target, layer.file.name),
        truth: layer.truth,
        pieces,
        parallel: 1,
        direct: true,
      };
      expect((await readPieces(job)).results).toEqual(['EIO']);
    });

    test('a device file shorter than it claims gives EIO behind its end', async () => {
      const layer = await bed.layer(4 * BLOCK);
      layer.fetch();
      await truncate(layer.device, 3 * BLOCK);
      const { transport, target } = await bed.serve(never);
      transport.add(layer.file);
      const pieces = [0, 1, 2, 3].map((block) => ({ offset: block * BLOCK, length: 512 }));
      const job = {
        path: join(target, layer.file.name),
        truth: layer.truth,
        pieces,
        parallel: 1,
        direct: true,
      };
      expect((await readPieces(job)).results).toEqual(['ok', 'ok', 'ok', 'EIO']);
    });

    test('a file whose last sector is not whole is padded with zeros', async () => {
      const layer = await bed.layer(BLOCK + 512);
      layer.fetch();
      await truncate(layer.device, BLOCK + 500);
      await truncate(layer.truth, BLOCK + 500);
      await appendFile(layer.truth, Buffer.alloc(12));
      const { transport, target } = await bed.serve(never);
      transport.add(layer.file);
      const pieces = [{ offset: BLOCK - 100, length: 700 }];
      const job = {
        path: join(target, layer.file.name),
        truth: layer.truth,
        pieces,
        parallel: 1,
        direct: true,
      };
      expect((await readPieces(job)).results).toEqual(['ok']);
    });

    test('offsets beyond four gigabytes', async () => {
      const layer = await bed.layer(2 * BLOCK);
      const size = 5 * 2 ** 30 + 512;
      const [device, truth] = [join(bed.folder, 'big.device'), join(bed.folder, 'big.truth')];
      const marks = [2 ** 31 - 3, 2 ** 32 - 3, 2 ** 32 + 12345, size - 100];
      for (const path of [device, truth]) {
        await writeFile(path, '');
        await truncate(path, size);
        const handle = await open(path, 'r+');
        for (const mark of marks) await handle.write(Buffer.from(`mark ${mark}`), 0, undefined, mark);
        await handle.close();
      }
      const handle = await open(device, 'r');
      bed.cleanup.defer(() => handle.close());
      const blocks = new SharedArrayBuffer(Math.ceil(size / BLOCK));
      new Uint8Array(blocks).fill(2);
      const { transport, target } = await bed.serve(never);
      transport.add({ ...layer.file, size, fd: handle.fd, blocks });
      const pieces = marks.map((mark) => ({ offset: mark - 20, length: 64 }));
      const job = { path: join(target, layer.file.name), truth, pieces, parallel: 1, direct: true };
      expect((await readPieces(job)).results).toEqual(allOk(marks.length));
    });

    test('files are added and removed while mounted; readers of a removed one get EIO', async () => {
      const [stays, doomed] = [await bed.layer(8 * BLOCK), await bed.layer(8 * BLOCK)];
      stays.fetch();
      const { transport, target } = await bed.serve(() => {}); // never answers
      const path = (layer: Layer) => join(target, layer.file.name);
      await expect(open(path(doomed), 'r')).rejects.toMatchObject({ code: 'ENOENT' });
      transport.add(stays.file);
      transport.add(doomed.file);
      transport.add(doomed.file); // again: no difference
      expect((await readdir(target)).toSorted()).toEqual([stays.file.name, doomed.file.name].toSorted());

      const pieces = [{ offset: 0, length: 4096 }];
      const waiting = startReadJob({ path: path(doomed), pieces, parallel: 1, direct: true });
      bed.cleanup.defer(waiting.kill);
      await until(() => transport.counters(doomed.file.inode).misses === 1);
      transport.remove(doomed.file.inode);
      expect((await waiting.report).results).toEqual(['EIO']);
      await until(async () => (await readdir(target)).length === 1);
      await untilRejected(() => open(path(doomed), 'r'), 'ENOENT');
      expect(transport.counters(doomed.file.inode).reads).toBe(0);
      expect(transport.counters()).toMatchObject({ misses: 1, errors: 1 });

      const job = { path: path(stays), truth: stays.truth, pieces, parallel: 1, direct: true };
      expect((await readPieces(job)).results).toEqual(['ok']);
      doomed.fetch();
      transport.add(doomed.file);
      expect((await readPieces({ ...job, path: path(doomed), truth: doomed.truth })).results).toEqual(['ok']);
    });

    test('a file stays readable when the caller closes his descriptor', async () => {
      const layer = await bed.layer(2 * BLOCK);
      layer.fetch();
      const { transport, target } = await bed.serve(never);
      const handle = await open(layer.device, 'r');
      transport.add({ ...layer.file, fd: handle.fd });
      await handle.close();
      const pieces = [{ offset: 5, length: BLOCK }];
      const job = {
        path: join(target, layer.file.name),
        truth: layer.truth,
        pieces,
        parallel: 1,
        direct: true,
      };
      expect((await readPieces(job)).results).toEqual(['ok']);
    });

    test('contradictory device files are refused', async () => {
      const { file } = await bed.layer(2 * BLOCK);
      const { transport } = await bed.serve(never);
      const bad: Array<Partial<DeviceFile>> = [
        { name: '../x' },
        { inode: 1 },
        { inode: 2 ** 60 },
        { size: 1000 },
        { size: -512 },
        { blockSize: 1000 },
        { blocks: new SharedArrayBuffer(1) },
      ];
      for (const part of bad)
        expect(() => transport.add({ ...file, ...part })).toThrow(
          expect.objectContaining({ code: 'invalid-argument' }),
        );
      transport.add(file);
      const other = 'f'.repeat(64);
      expect(() => transport.add({ ...file, name: other })).toThrow(
        expect.objectContaining({ code: 'conflict' }),
      );
    });

    test('a thousand files are listed and each gives its own bytes', async () => {
      const bytes = randomBytes(4 * MIB);
      const layer = await bed.layer(bytes);
      layer.fetch();
      const { transport, target } = await bed.serve(never);
      const names: string[] = [];
      for (let i = 0; i < 1000; i++) {
        const name = `${i.toString(16).padStart(4, '0')}${layer.file.name.slice(4)}`;
        names.push(name);
        transport.add({ ...layer.file, name, inode: inodeOf(name), size: 512 * (1 + (i % 50)) });
      }
      expect((await readdir(target)).toSorted()).toEqual(names.toSorted());
      for (const i of [0, 1, 499, 998, 999]) {
        const got = await readFile(join(target, names[i] as string));
        expect(got).toEqual(bytes.subarray(0, 512 * (1 + (i % 50))));
      }
    });

    test('stop while reads wait: they get an error, and nothing hangs', async () => {
      const layer = await bed.layer(16 * BLOCK);
      const { transport, target, close } = await bed.serve(() => {});
      transport.add(layer.file);
      const pieces = Array.from({ length: 8 }, (_, i) => ({ offset: i * BLOCK, length: 4096 }));
      const job = startReadJob({ path: join(target, layer.file.name), pieces, parallel: 8, direct: true });
      bed.cleanup.defer(job.kill);
      await until(() => transport.counters().misses === 8);
      await transport.stop();
      await transport.stop(); // again: no difference
      expect(await transport.ended).toBeUndefined();
      await close();
      expect((await job.report).results).toEqual(pieces.map(() => 'EIO')); // an abort would give another errno
      expect(isMounted(target)).toBe(false);
    });

    test('a loop is moved to the device file under readers; then the server ends and reads go on', async () => {
      const layer = await bed.layer(32 * MIB);
      const { transport, target, close } = await bed.serve((_, offset, length, answer) => {
        setTimeout(() => {
          layer.fetch(offset, length);
          answer(0);
        }, 2);
      });
      transport.add(layer.file);
      const loop = await bed.loop(join(target, layer.file.name));
      const pieces = Array.from({ length: layer.blockCount }, (_, i) => ({
        offset: i * BLOCK,
        length: BLOCK,
      }));
      const shuffled = pieces.toSorted((a, b) => ((a.offset * 7919) % 523) - ((b.offset * 7919) % 523));
      const job = startReadJob({ path: loop.path, truth: layer.truth, pieces: shuffled, parallel: 4 });
      bed.cleanup.defer(job.kill);
      await until(() => transport.counters().misses > 50);
      layer.fetch(); // the rest arrives
      await changeBacking(loop, layer.device);
      await transport.stop();
      await close();
      expect((await job.report).results).toEqual(allOk(pieces.length));
      const again = await readPieces({ path: loop.path, truth: layer.truth, pieces, parallel: 4 });
      expect(again.results).toEqual(allOk(pieces.length));
    });

    test('EROFS over loops over it: every file right, cold, by parallel readers', async () => {
      const tree = join(bed.folder, 'tree');
      await mkdir(tree);
      const names = Array.from({ length: 16 }, (_, i) => `file${i}`);
      for (const [i, name] of names.entries()) await writeFile(join(tree, name), randomBytes(1 + i * 29_973));
      const [metadata, data] = [join(bed.folder, 'metadata'), join(bed.folder, 'data')];
      await writeFile(data, '');
      await promisify(execFile)('mkfs.erofs', [`--blobdev=${data}`, '--chunksize=4096', metadata, tree]);
      const layer = await bed.layer(await readFile(data));
      const { transport, target } = await bed.serve((_, offset, length, answer) => {
        setTimeout(() => {
          layer.fetch(offset, length);
          answer(0);
        }, 3);
      });
      transport.add(layer.file);
      const loops = [await bed.loop(metadata), await bed.loop(join(target, layer.file.name))] as const;
      const root = join(bed.folder, 'root');
      await mkdir(root);
      await mountErofs({ metadata: loops[0], devices: [loops[1]], target: root });
      bed.cleanup.defer(() => isMounted(root) && unmount(root));
      const jobs = names.map(async (name) => {
        const { size } = await stat(join(tree, name));
        const pieces = randomPieces(3, size);
        const job = { path: join(root, name), truth: join(tree, name), pieces, parallel: 3 };
        return (await readPieces(job)).results;
      });
      // A few processes at a time are enough for parallel reads, and kind to a small machine.
      const results: string[][] = [];
      for (let i = 0; i < jobs.length; i += 4) results.push(...(await Promise.all(jobs.slice(i, i + 4))));
      expect(results.flat()).toEqual(allOk(names.length * 3));
      expect(transport.counters().misses).toBeGreaterThan(0);
    });
  });
}

/** Polls, as a test has no other way to see into the kernel; the deadline is the test bed's. */
export async function until(condition: () => boolean | Promise<boolean>, ms = 20_000): Promise<void> {
  for (let waited = 0; !(await condition()); waited += 5) {
    if (waited > ms) throw new Error(`not within ${ms} ms: ${condition}`);
    await sleep(5);
  }
}

async function untilRejected(
  attempt: () => Promise<{ close(): Promise<void> }>,
  code: string,
): Promise<void> {
  await until(async () => {
    try {
      await (await attempt()).close();
      return false;
    } catch (error) {
      return (error as NodeJS.ErrnoException).code === code;
    }
  });
}
