import { execFile } from 'node:child_process';
import { closeSync, openSync, writeSync } from 'node:fs';
import { mkdir, readFile, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { SpanTables } from '../../src/fetch/fetch-job.ts';
import { type BlockCheck, checkBlocks } from '../../src/fetch/scrub-job.ts';
import { indexLayer } from '../../src/image/index-layer.ts';
import type { SpanTable } from '../../src/image/span-table.ts';
import { deviceSize } from '../../src/store/device.ts';
import { Layout, writeWhole } from '../../src/store/layout.ts';
import { inPieces, layerTar } from '../image/layer-blobs.ts';
import { Cleanup } from '../support/temp.ts';

const run = promisify(execFile);
const BLOCK = 65_536;
const tar = layerTar(77, 40.3 * BLOCK);
let cleanup: Cleanup;
let table: SpanTable;

beforeEach(async () => {
  cleanup = new Cleanup();
  table = (await indexLayer(inPieces(tar))).spans;
});
afterEach(() => cleanup.run());

/** A store below `root` with the layer's device and its span table. */
async function store(root: string): Promise<Layout> {
  const layout = new Layout(root);
  await mkdir(dirname(layout.device(table.diffId)), { recursive: true });
  await mkdir(dirname(layout.spans(table.blobDigest)), { recursive: true });
  await writeWhole(layout.spans(table.blobDigest), table.encode());
  await writeFile(layout.device(table.diffId), tar);
  await truncate(layout.device(table.diffId), deviceSize(tar.length));
  return layout;
}

const check = (layout: Layout, ranges: BlockCheck['ranges']) =>
  checkBlocks(
    { layer: table.diffId, blob: table.blobDigest, ranges },
    { layout, tables: new SpanTables(layout), signal: new AbortController().signal },
  );

function flip(path: string, offset: number, byte: number): void {
  const file = openSync(path, 'r+');
  writeSync(file, Buffer.from([byte]), 0, 1, offset);
  closeSync(file);
}

describe('blocks of a device against the span table', () => {
  test('one byte is enough, in the first, a middle and the last block; what was not asked for is not looked at', async () => {
    const layout = await store(await cleanup.tempDir('scrub-job'));
    const last = table.blockCount - 1;
    expect(await check(layout, [[0, table.blockCount]])).toEqual([]);
    for (const at of [0, 17 * BLOCK + 5, 18 * BLOCK, tar.length - 1])
      flip(layout.device(table.diffId), at, (tar[at] as number) ^ 1);
    expect(await check(layout, [[0, table.blockCount]])).toEqual([
      [0, 1],
      [17, 2],
      [last, 1],
    ]);
    expect(
      await check(layout, [
        [1, 16],
        [19, last - 19],
      ]),
    ).toEqual([]);
  });

  test('a hole, a device that is too short, and one that is not there are bad', async () => {
    const layout = await store(await cleanup.tempDir('scrub-job'));
    const path = layout.device(table.diffId);
    await truncate(path, 30 * BLOCK);
    expect(await check(layout, [[28, table.blockCount - 28]])).toEqual([[30, table.blockCount - 30]]);
    await run('rm', [path]);
    expect(await check(layout, [[3, 2]])).toEqual([[3, 2]]);
  });

  test('the span table of another layer proves nothing', async () => {
    const layout = await store(await cleanup.tempDir('scrub-job'));
    const other = `sha256:${'1'.repeat(64)}`;
    const order = { layer: other, blob: table.blobDigest, ranges: [[0, 1]] as const };
    const context = { layout, tables: new SpanTables(layout), signal: new AbortController().signal };
    await expect(checkBlocks(order, context)).rejects.toMatchObject({ code: 'integrity' });
  });

  test('what the page cache still has right and the disk has lost is found', async () => {
    const folder = await cleanup.tempDir('scrub-job');
    const [disk, root] = [join(folder, 'disk'), join(folder, 'root')];
    await writeFile(disk, '');
    await truncate(disk, 64 << 20);
    await mkdir(root);
    await run('mkfs.ext4', ['-q', '-F', disk]);
    await run('mount', ['-o', 'loop', disk, root]);
    cleanup.defer(() => run('umount', ['-l', root]));
    const layout = await store(root);
    const path = layout.device(table.diffId);
    await run('sync', ['-f', path]);
    const { stdout } = await run('filefrag', ['-v', '-b512', path]);
    //    0:        0..     255:      34816..     35071:    256:
    const [, from, physical] = /^\s*0:\s+(\d+)\.\.\s*\d+:\s+(\d+)\.\./m.exec(stdout) ?? [];
    expect(from).toBe('0');
    const offset = 5_000;
    flip(disk, Number(physical) * 512 + offset, (tar[offset] as number) ^ 0x10);
    // A reader in the usual way notices nothing.
    expect((await readFile(path)).equals(tar)).toBe(true);
    expect(await check(layout, [[0, table.blockCount]])).toEqual([[0, 1]]);
  });
});
