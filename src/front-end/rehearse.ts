/**
 * What a front end does in a start, as a rehearsal (rehearsal.ts): a layer is opened, its startup pack is promised and comes,
 * and somebody reads. Fetchers and event log are left out; what they would say is said here.
 */
import { readFile } from 'node:fs/promises';
import { SpanTable } from '../image/span-table.ts';
import { openDevice } from '../store/device.ts';
import { layersAlone } from '../store/layer-log.ts';
import { type Layout, writeWhole } from '../store/layout.ts';
import type { JobOrder } from '../../schemas/fetch.ts';
import type { JobListener } from './fetch-pool.ts';
import { realPorts } from '../process/ports.ts';
import { LayerHost } from './layer-host.ts';
import { createLog } from '../process/log.ts';
import { type RehearsalLayer, rehearsalLayer } from '../process/rehearsal/layer.ts';
import { type Rehearsal, repeat } from '../process/rehearsal/rounds.ts';
import { SpanUse } from './span-use.ts';
import { Starts } from './starts.ts';

/** As many blocks as some hundred messages of fetchers tell of. */
const BLOCKS = 64;
const READ_MS = 10_000;

/** Throws what goes wrong in it. */
export async function rehearseFront(rehearsal: Rehearsal): Promise<void> {
  const layer = rehearsalLayer(BLOCKS);
  await repeat(rehearsal, (layout) => start(layer, layout));
}

async function start({ digest, bytes, table: made }: RehearsalLayer, layout: Layout): Promise<void> {
  const log = createLog('rehearsal', 'silent');
  const now = () => performance.now();
  await writeWhole(layout.spans(digest), made.encode());
  const table = SpanTable.decode(await readFile(layout.spans(digest)));
  const { file } = await openDevice(layout.device(digest), bytes.length);
  const facts = layersAlone(new Map());
  const { blockSize, blockCount } = table;
  await facts.append(digest, {
    type: 'layer.opened',
    size: bytes.length,
    blockSize,
    blockCount,
    blob: digest,
  });
  let listener: JobListener | undefined;
  const pool = {
    submit: (_: JobOrder, told: JobListener) => {
      listener = told;
      return 1;
    },
    release: () => {},
    promote: () => {},
    cancel: () => undefined,
    readFailed: () => {},
  };
  let host: LayerHost | undefined;
  const starts = new Starts({ pool, layer: () => host, now, log });
  host = new LayerHost({
    layer: {
      diffId: digest,
      table,
      source: { registry: 'rehearsal', repository: 'rehearsal', digest, size: bytes.length },
      file,
      direct: false,
    },
    facts,
    pool: pool as never,
    cache: { use: new SpanUse(table), fetched: new Map(), onFetch: () => {} },
    fuse: { firstReads: starts.firstReads(table.blockCount), quiesce: async () => {} },
    on: { notify: () => {}, logged: () => {}, mismatch: async () => false, isWatched: () => true },
    clock: realPorts().clock,
    log,
    readDeadlineMs: READ_MS,
  });
  try {
    const pack = {
      kind: 'registry',
      registry: 'rehearsal',
      repository: 'rehearsal',
      digest,
      size: 1,
    } as const;
    const layers = [{ diffId: digest, blob: digest }];
    const order = { manifest: digest, start: 'default', repository: 'rehearsal', layers, record: false };
    starts.begin({ ...order, layers: [], pack, ahead: true });
    starts.begin({ ...order, record: true });
    starts.begin({ ...order, pack });
    if (listener === undefined) throw new Error('the rehearsal has asked for no pack');
    const [v, job] = [1 as const, 1];
    const devices = [digest];
    const runs = [[0, 0, BLOCKS]] as const;
    listener.pack?.({ v, kind: 'pack', front: '', worker: '', job, layer: '', devices, runs });
    let answered = 0;
    for (let block = 0; block < BLOCKS; block++) {
      const answer = (errno: number) => void (answered += errno === 0 ? 1 : 0);
      if (block % 2 === 0) host.cold(block * table.blockSize, table.blockSize, answer);
      listener.blocks(block, 1, table.blockSize, digest);
    }
    starts.tick();
    listener.end(0, undefined, {
      class: 'demand',
      fetcher: '',
      queuedAt: 0,
      sentAt: 0,
      endedAt: 0,
      times: undefined,
    });
    if (answered !== BLOCKS / 2) throw new Error(`${answered} reads of the rehearsal were answered`);
  } finally {
    await host.close();
  }
}
