/** One layer of a front end on a real device file; what the others of the engine would say is said by the test. */
import { open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import type { NewEvent } from '../../schemas/events.ts';
import type { BlobSource } from '../../schemas/fetch.ts';
import type { FrontNotice } from '../../schemas/front.ts';
import type { FetchPool } from '../../src/front-end/fetch-pool.ts';
import { LayerHost } from '../../src/front-end/layer-host.ts';
import { Supplies } from '../../src/front-end/supplies.ts';
import { SpanUse } from '../../src/front-end/span-use.ts';
import { realPorts } from '../../src/process/ports.ts';
import type { SpanTable } from '../../src/image/span-table.ts';
import { layersAlone } from '../../src/store/layer-log.ts';
import { eventually } from '../support/engine.ts';
import { Cleanup } from '../support/temp.ts';
import { blockRun } from '../../actors/ranges.ts';

const BLOCK = 65_536;
const BLOCKS = 4;
const diffId = `sha256:${'ab'.repeat(32)}`;

let cleanup: Cleanup;
let layer: LayerHost;
let appended: NewEvent[];
let notices: Array<FrontNotice['kind']>;
let isFull: boolean;
let isWatched: boolean;
/** Checks of the whole device end when the test says so. */
let isHeld: boolean;
let held: Listener[];
/** Fetches are noted, and end when the test says so. */
let fetches: Array<{ as: string; job: Listener }> | undefined;
let promoted: number;

const notItsLayer = {
  error: { code: 'integrity', message: 'it hashes to something else' },
  retryable: false,
};

interface Listener {
  end(bytes: number, failure: object | undefined, timing: object): void;
}

/** A layer whose blocks are all here, as the log says; not yet compared as a whole. */
beforeEach(async () => {
  cleanup = new Cleanup();
  [appended, notices, isFull, isWatched, isHeld, held] = [[], [], false, true, false, []];
  [fetches, promoted] = [undefined, 0];
  const path = join(await cleanup.tempDir('layer-host'), 'device');
  await writeFile(path, Buffer.alloc(BLOCKS * BLOCK, 1));
  const facts = layersAlone(new Map(), (event) => {
    if (isFull) throw new CofaError('unavailable', 'the event log is full');
    appended.push(event);
  });
  const size = BLOCKS * BLOCK;
  await facts.append(diffId, { type: 'layer.opened', size, blockSize: BLOCK, blockCount: BLOCKS, blob: 'b' });
  await facts.append(diffId, { type: 'layer.blocks', ranges: [[0, BLOCKS]] });
  appended = [];
  /** Each block is a span. */
  const table = {
    rawSize: BLOCKS * BLOCK,
    blockSize: BLOCK,
    blockCount: BLOCKS,
    spanCount: BLOCKS,
    spanOfBlock: (block: number) => block,
    span: (index: number) => ({ index, firstBlock: index, blockCount: 1 }),
  } as SpanTable;
  const pool = {
    // Whatever is asked for comes out well.
    submit: (order: { kind: string; class?: string; source?: BlobSource }, job: Listener) => {
      if (order.kind === 'verify' && isHeld) held.push(job);
      else if (order.kind === 'fetch' && fetches !== undefined)
        fetches.push({ as: `${order.class} from ${order.source?.digest}`, job });
      else setImmediate(() => job.end(0, undefined, {}));
      return 1;
    },
    promote: () => void promoted++,
    readFailed: () => {},
  } as unknown as FetchPool;
  const source = { registry: 'r', repository: 'r', digest: 'b', size: 1 };
  layer = new LayerHost({
    layer: {
      diffId,
      content: diffId,
      table,
      supplies: new Supplies({ source }),
      file: await open(path, 'r+'),
      direct: false,
    },
    facts,
    pool,
    cache: { use: new SpanUse(table), fetched: new Map(), onFetch: () => {} },
    fuse: {
      firstReads: { ticks: new SharedArrayBuffer(4 * BLOCKS) } as never,
      quiesce: async () => {},
    },
    on: {
      notify: ({ kind }) => notices.push(kind),
      logged: () => {},
      mismatch: async () => false,
      isWatched: () => isWatched,
      fetched: () => {},
    },
    clock: realPorts().clock,
    log: pino({ level: 'silent' }),
    readDeadlineMs: 1_000,
  });
  cleanup.defer(() => layer.close());
});
afterEach(() => cleanup.run());

const isSaid = (kind: FrontNotice['kind'], times: number) => () =>
  notices.filter((notice) => notice === kind).length === times;
const logged = (type: NewEvent['type']) => appended.filter((event) => event.type === type).length;

test('a layer that is complete again is said to be whole again, also while its reads are watched', async () => {
  await eventually('it is whole', isSaid('whole', 1));
  expect(logged('layer.completed')).toBe(1);
  // The log does not take the eviction: the blocks are present again, and the layer is compared anew.
  isFull = true;
  expect(await layer.evict([blockRun(0, 1)], 'limit')).toBe(0);
  isFull = false;
  await eventually('it is whole again', isSaid('whole', 2));
  expect(notices).not.toContain('complete');
  isWatched = false;
  await eventually('it may be handed over', isSaid('complete', 1));
  expect(logged('layer.completed')).toBe(1);
  expect(notices).toEqual(['whole', 'whole', 'complete']);
});

test('a layer that lost a block and got it again is in the log as complete before it is handed over', async () => {
  await eventually('it is whole', isSaid('whole', 1));
  expect(await layer.evict([blockRun(1, 1)], 'limit')).toBe(BLOCK);
  expect(layer.state).toBe('lazy');
  isWatched = false;
  layer.cold(BLOCK, 1, () => {});
  await eventually('it may be handed over', isSaid('complete', 1));
  expect(appended.map(({ type }) => type).filter((type) => type !== 'layer.trace')).toEqual([
    'layer.completed',
    'layer.evicted',
    'layer.blocks',
    'layer.completed',
  ]);
});

test('no reader gets a damaged block once it was found, also while the log is full; the log gets it as soon as it can', async () => {
  await eventually('it is whole', isSaid('whole', 1));
  isFull = true;
  await layer.evict([blockRun(2, 1)], 'scrub');
  expect([layer.isPresent(2), layer.isStuck(2)]).toEqual([false, true]);
  // It comes again before the log has heard that it was gone.
  const came = new Promise<number>((resolve) => layer.cold(2 * BLOCK, 1, resolve));
  expect(await came).toBe(0);
  expect([layer.isPresent(2), layer.isStuck(2)]).toEqual([true, true]);
  isFull = false;
  await eventually('it is whole again', isSaid('whole', 2));
  expect(layer.isStuck(2)).toBe(false);
  expect(appended.map(({ type }) => type).filter((type) => type !== 'layer.trace')).toEqual([
    'layer.completed',
    'layer.evicted',
    'layer.blocks',
    'layer.completed',
  ]);
});

test('a check of the whole device that ends when blocks have gone and come since says nothing', async () => {
  await eventually('it is whole', isSaid('whole', 1));
  isHeld = true;
  const again = async (checks: number) => {
    const came = new Promise<number>((resolve) => layer.cold(0, 1, resolve));
    expect(await came).toBe(0);
    await eventually('it is checked', () => held.length === checks);
  };
  await layer.evict([blockRun(0, 1)], 'limit');
  await again(1);
  expect(await layer.damaged([blockRun(0, 1)])).toBe(true);
  await again(2);
  held[0]?.end(0, notItsLayer, {});
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(notices).not.toContain('corrupt');
  held[1]?.end(0, undefined, {});
  await eventually('it is whole again', isSaid('whole', 2));
});

test('a device that is not its layer, though no block is damaged, is compared once more before its table is refuted', async () => {
  await eventually('it is whole', isSaid('whole', 1));
  isHeld = true;
  const compared = async (times: number, failure: object | undefined) => {
    await eventually('it is compared', () => held.length === times);
    held[times - 1]?.end(0, failure, {});
  };
  const comesAgain = async () => {
    await layer.evict([blockRun(0, 1)], 'limit');
    const came = new Promise<number>((resolve) => layer.cold(0, 1, resolve));
    expect(await came).toBe(0);
  };
  // A job that came late for others wrote over a damaged block between the hash and the search for it.
  await comesAgain();
  await compared(1, notItsLayer);
  await compared(2, undefined);
  await eventually('it is whole again', isSaid('whole', 2));
  await comesAgain();
  await compared(3, notItsLayer);
  expect(notices).not.toContain('corrupt');
  await compared(4, notItsLayer);
  await eventually('it is refuted', isSaid('corrupt', 1));
});

test('what a reader has come to wait for is fetched for him by another supply too, where the first one leads nowhere', async () => {
  await eventually('it is whole', isSaid('whole', 1));
  const source = { registry: 'r', repository: 'r', digest: 'b', size: 1 };
  layer.supply([{ source }, { source: { ...source, digest: 'c' } }]);
  await layer.evict([blockRun(0, 1)], 'limit');
  fetches = [];
  layer.prefetch(true);
  expect(fetches.map(({ as }) => as)).toEqual(['prefetch from b']);
  const came = new Promise<number>((resolve) => layer.cold(0, 1, resolve));
  expect(promoted).toBe(1);
  const failure = { error: { code: 'not-found', message: 'no such blob' }, retryable: false };
  fetches[0]?.job.end(0, failure, {});
  expect(fetches.map(({ as }) => as)).toEqual(['prefetch from b', 'demand from c']);
  fetches[1]?.job.end(0, undefined, {});
  expect(await came).toBe(0);
});
