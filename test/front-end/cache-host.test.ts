/** What the cache has chosen to take, and what has changed by the time that it is its turn. */
import { readFileSync, renameSync } from 'node:fs';
import { mkdir, rename, stat, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { foldLayer, type LayerFacts } from '../../actors/node-state.ts';
import type { EventOf, LayerEventType } from '../../schemas/events.ts';
import { CacheHost } from '../../src/front-end/cache-host.ts';
import { ClosedLayers } from '../../src/front-end/closed-layers.ts';
import type { LayerHost } from '../../src/front-end/layer-host.ts';
import { Conditions } from '../../src/process/conditions.ts';
import { layersAlone, type NewLayerEvent } from '../../src/store/layer-log.ts';
import { Layout } from '../../src/store/layout.ts';
import { HandClock } from '../support/hand-clock.ts';
import { Cleanup } from '../support/temp.ts';

const BLOCK = 65_536;
const BLOCKS = 16;
const id = `sha256:${'a'.repeat(64)}`;

let clock: HandClock;
let cleanup: Cleanup;
let layout: Layout;
let layers: Map<string, LayerFacts>;
let cache: CacheHost;
let opened: Map<string, LayerHost>;
/** What the log has been told. */
let told: string[];
let onTold: () => void;
/** Ends what is done with the layer's files at the moment, such as a scrub. */
let endTurn: () => void;

const fold = (event: NewLayerEvent) =>
  foldLayer(layers, id, { v: 1, at: 0, ...event } as EventOf<LayerEventType>);

beforeEach(async () => {
  cleanup = new Cleanup();
  clock = new HandClock();
  layout = new Layout(await cleanup.tempDir('cache-host'));
  await layout.prepare();
  layers = new Map();
  opened = new Map();
  told = [];
  onTold = () => {};
  const log = pino({ level: 'silent' });
  cache = new CacheHost({
    layout,
    limit: undefined,
    keepFree: 0,
    facts: layersAlone(layers, ({ type }) => {
      told.push(type);
      onTold();
    }),
    opened,
    isInUse: (diffId) => opened.has(diffId),
    conditions: new Conditions(log),
    log,
    clock,
    notify: () => {},
  });
  const blob = `sha256:${'b'.repeat(64)}`;
  fold({ type: 'layer.opened', size: BLOCKS * BLOCK, blockSize: BLOCK, blockCount: BLOCKS, blob });
  fold({ type: 'layer.blocks', ranges: [[0, BLOCKS]] });
  await writeDevice(layout.device(id), 1);
  const turn = Promise.withResolvers<void>();
  void cache.whileIdle(id, () => turn.promise);
  endTurn = turn.resolve;
});
afterEach(async () => {
  vi.restoreAllMocks();
  await cleanup.run();
});

async function writeDevice(path: string, byte: number): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, Buffer.alloc(BLOCKS * BLOCK, byte));
}

/** As an indexer does with what it has written. */
async function putInPlace(): Promise<void> {
  const draft = layout.deviceDraft(id, 'new');
  await writeDevice(draft, 2);
  await rename(draft, layout.device(id));
}

/** A mount that reads something, and ends. */
function useForAWhile(): void {
  const layer = { use: { memory: () => ({}), markReadSince: () => {} } } as unknown as LayerHost;
  cache.layerOpened(id, layer);
  cache.layerClosing(id, layer);
}

const byteOf = () => readFileSync(layout.device(id))[0];
/** Resolves when the disk has been measured, and the choice waits for its turn. */
const chosen = (how: 'remove' | 'evict') => {
  const chose = vi.spyOn(ClosedLayers.prototype, how);
  return vi.waitFor(() => expect(chose).toHaveBeenCalled(), { timeout: 10_000 });
};

describe('a layer that no image needs', () => {
  test.each([
    ['is removed when its turn comes', () => {}, [id], undefined],
    ['stays where an indexer has written its device meanwhile', putInPlace, [], 2],
    ['stays where an image needs it by then', () => (cache.needs = { mounts: [], images: [id] }), [], 1],
    ['stays where a client has used it meanwhile', useForAWhile, [], 1],
  ])('%s', async (_what, happens, removed, byte) => {
    cache.needs = { mounts: [id], images: [] };
    const collecting = cache.collect({ needed: [], dryRun: false });
    await chosen('remove');
    await happens();
    endTurn();
    expect((await collecting).layers).toEqual(removed);
    expect(told).toEqual(removed.map(() => 'layer.removed'));
    expect(removed.length > 0 ? undefined : byteOf()).toBe(byte);
  });

  test('that gets another device while the log is told of its removal leaves that one', async () => {
    const collecting = cache.collect({ needed: [], dryRun: false });
    await chosen('remove');
    const draft = layout.deviceDraft(id, 'new');
    await writeDevice(draft, 2);
    onTold = () => renameSync(draft, layout.device(id));
    endTurn();
    expect((await collecting).layers).toEqual([id]);
    expect(byteOf()).toBe(2);
  });
});

describe('blocks of a closed layer', () => {
  const shrink = () => cache.shrink({ keep: 0, dryRun: false });
  const bytesOf = async () => (await stat(layout.device(id))).blocks * 512;

  test('are evicted when it is its turn', async () => {
    const shrinking = shrink();
    await chosen('evict');
    endTurn();
    expect(await shrinking).toBe(BLOCKS * BLOCK);
    expect([told, await bytesOf()]).toEqual([['layer.evicted'], 0]);
  });

  test('stay where a client has read the layer meanwhile: that was not known to the choice', async () => {
    const shrinking = shrink();
    await chosen('evict');
    useForAWhile();
    endTurn();
    expect(await shrinking).toBe(0);
    expect([told, await bytesOf()]).toEqual([[], BLOCKS * BLOCK]);
  });
});

describe('a layer that is open and whole', () => {
  /** As LayerHost: nothing is evicted before it is verified. */
  function open(isVerifying: boolean): { isVerifying: boolean; present: number } {
    const state = { isVerifying, present: BLOCKS };
    const layer = {
      isDirect: false,
      use: { time: 0 },
      get isVerifying() {
        return state.isVerifying;
      },
      get spans() {
        const zeros = new Uint32Array(1);
        const present = Uint32Array.of(state.present);
        return {
          starts: Uint32Array.of(0, BLOCKS),
          present,
          lastUse: zeros,
          startup: zeros,
          blockSize: BLOCK,
        };
      },
      get diskBytes() {
        return state.present * BLOCK;
      },
      get blockBytes() {
        return state.present * BLOCK;
      },
      evict: async () => {
        if (state.isVerifying) return 0;
        state.present = 0;
        return BLOCKS * BLOCK;
      },
    };
    opened.set(id, layer as unknown as LayerHost);
    return state;
  }
  /** Lets time pass until it has ended, and says how much, ms. */
  async function untilOver(shrinking: Promise<number>, eachTime: () => void): Promise<[number, number]> {
    let bytes: number | undefined;
    void shrinking.then((sum) => (bytes = sum));
    while (bytes === undefined) {
      await new Promise((resolve) => setTimeout(resolve, 5));
      if (clock.alarms < 2) continue;
      eachTime();
      clock.turn(200);
    }
    return [bytes, clock.now()];
  }

  test('loses its blocks to a prune that comes while it is being verified, as soon as that has ended', async () => {
    const layer = open(true);
    const shrinking = cache.shrink({ keep: 0, dryRun: false });
    const verified = () => (layer.isVerifying = clock.now() < 10_000);
    expect(await untilOver(shrinking, verified)).toEqual([BLOCKS * BLOCK, 10_200]);
    expect(layer.present).toBe(0);
  });

  test('keeps them where that takes too long', async () => {
    const layer = open(true);
    expect(await untilOver(cache.shrink({ keep: 0, dryRun: false }), () => {})).toEqual([0, 30_000]);
    expect(layer.present).toBe(BLOCKS);
  });
});
