/** Layers are opened with all that this takes, or not at all. */
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import { LayerTable } from '../../src/front-end/layer-table.ts';
import { OpenLayers, type OpenLayersOptions } from '../../src/front-end/open-layers.ts';
import { SpanUse } from '../../src/front-end/span-use.ts';
import { realPorts } from '../../src/process/ports.ts';
import { rehearsalLayer } from '../../src/process/rehearsal/layer.ts';
import { layersAlone } from '../../src/store/layer-log.ts';
import { Layout, writeWhole } from '../../src/store/layout.ts';
import { Cleanup } from '../support/temp.ts';

let cleanup: Cleanup;
beforeEach(() => void (cleanup = new Cleanup()));
afterEach(() => cleanup.run());

test('a layer whose device cannot be served is closed as a whole, and may be opened again', async () => {
  const layout = new Layout(await cleanup.tempDir('open-layers'));
  const { digest, bytes, table } = rehearsalLayer(4);
  await writeWhole(layout.spans(digest), table.encode());
  const layers = new LayerTable();
  const cached = new Set<string>();
  let isOut = true;
  const firstReads = () => ({ clock: new SharedArrayBuffer(8), ticks: new SharedArrayBuffer(16) });
  const open = new OpenLayers({
    front: 'front',
    layers,
    layout,
    facts: layersAlone(new Map()),
    pool: {},
    cache: {
      whileIdle: async (_: string, work: () => Promise<unknown>) => await work(),
      useOf: () => new SpanUse(table),
      layerOpened: (id: string) => cached.add(id),
      layerClosing: (id: string) => cached.delete(id),
      onFetch: () => {},
    },
    scrubber: { opening: async () => {} },
    starts: { firstReads, closing: () => {}, isRecording: () => true },
    rest: { want: () => {}, closing: () => {}, fetched: () => {} },
    transport: {
      add: () => {
        if (isOut) throw new CofaError('environment', 'too many open files');
      },
      remove: () => {},
      quiesce: async () => {},
      counters: () => ({ hits: 0, misses: 0, errors: 0 }),
    },
    clock: realPorts().clock,
    log: pino({ level: 'silent' }),
    readDeadlineMs: 1_000,
    onLogged: () => {},
    notify: () => {},
  } as unknown as OpenLayersOptions);
  const source = { registry: 'r', repository: 'r', digest, size: bytes.length };
  const request = { diffId: digest, size: bytes.length, source, prefetch: false, built: false };
  await expect(open.open(request)).rejects.toThrow('too many open files');
  // The cache measures what is open, by descriptors.
  expect([layers.opened.size, layers.byInode.size, layers.all.size, cached.size]).toEqual([0, 0, 0, 0]);
  isOut = false;
  expect((await open.open(request)).state).toBe('lazy');
  expect([layers.opened.size, cached.size]).toEqual([1, 1]);
  await open.closeAll();
});
