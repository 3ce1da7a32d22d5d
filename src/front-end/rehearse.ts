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
import type { Clock } from '../process/ports.ts';
import { LayerHost } from './layer-host.ts';
import { createLog } from '../process/log.ts';
import { type RehearsalLayer, rehearsalLayer } from '../process/rehearsal/layer.ts';
import { type Rehearsal, repeat } from '../process/rehearsal/rounds.ts';
import { SpanUse } from './span-use.ts';
import { Supplies } from './supplies.ts';
import { Starts } from './starts.ts';

/** As many blocks as some hundred messages of fetchers tell of. */
const BLOCKS = 64;
const READ_MS = 10_000;

/** Throws what goes wrong in it. */
export async function rehearseFront(rehearsal: Rehearsal, clock: Clock): Promise<void> {
  const layer = rehearsalLayer(BLOCKS);
  await repeat(rehearsal, (layout) => start(layer, layout, clock));
}

/** What fetchers would say of the pack that was asked for. */
type Told = { listener: JobListener | undefined };

async function start(made: RehearsalLayer, layout: Layout, clock: Clock): Promise<void> {
  const told: Told = { listener: undefined };
  const pool = poolFor(told);
  let host: LayerHost | undefined;
  const { now } = clock;
  const starts = new Starts({ pool, layer: () => host, now, log: createLog('rehearsal', 'silent') });
  host = await openHost(made, layout, pool, starts, clock);
  try {
    askForPack(starts, made.digest);
    if (told.listener === undefined) throw new Error('the rehearsal has asked for no pack');
    const answered = readWhilePackComes(host, told.listener, made.digest);
    starts.tick();
    endPack(told.listener);
    if (answered() !== BLOCKS / 2) throw new Error(`${answered()} reads of the rehearsal were answered`);
  } finally {
    await host.close();
  }
}

/** Takes every job, and remembers who listens to the last one. */
const poolFor = (told: Told) => ({
  submit: (_: JobOrder, listener: JobListener) => {
    told.listener = listener;
    return 1;
  },
  release: () => {},
  promote: () => {},
  cancel: () => undefined,
  readFailed: () => {},
});

async function openHost(
  { digest, bytes, table: made }: RehearsalLayer,
  layout: Layout,
  pool: ReturnType<typeof poolFor>,
  starts: Starts,
  clock: Clock,
): Promise<LayerHost> {
  await writeWhole(layout.spans(digest), made.encode());
  const table = SpanTable.decode(await readFile(layout.spans(digest)));
  const { file } = await openDevice(layout.device(digest), bytes.length);
  const facts = layersAlone(new Map());
  const { blockSize, blockCount } = table;
  const size = bytes.length;
  await facts.append(digest, { type: 'layer.opened', size, blockSize, blockCount, blob: digest });
  const source = { registry: 'rehearsal', repository: 'rehearsal', digest, size };
  return new LayerHost({
    layer: {
      diffId: digest,
      content: digest,
      table,
      supplies: new Supplies({ source }),
      file,
      direct: false,
    },
    facts,
    pool,
    cache: { use: new SpanUse(table), fetched: new Map(), onFetch: () => {} },
    fuse: { firstReads: starts.firstReads(table.blockCount), quiesce: async () => {} },
    on: {
      notify: () => {},
      logged: () => {},
      mismatch: async () => false,
      isWatched: () => true,
      fetched: () => {},
    },
    clock,
    log: createLog('rehearsal', 'silent'),
    readDeadlineMs: READ_MS,
  });
}

/** As the supervisor does: ahead, when the image attaches, and when its layers are open. */
function askForPack(starts: Starts, digest: string): void {
  const [registry, repository] = ['rehearsal', 'rehearsal'];
  const pack = { kind: 'registry', registry, repository, digest, size: 1 } as const;
  const layers = [{ diffId: digest, blob: digest }];
  const order = { manifest: digest, start: 'default', repository, layers, record: false };
  starts.begin({ ...order, layers: [], pack, ahead: true });
  starts.begin({ ...order, record: true });
  starts.begin({ ...order, pack });
}

/** Every second block is read before it comes. Returns how many of these reads were answered well so far. */
function readWhilePackComes(host: LayerHost, listener: JobListener, digest: string): () => number {
  const { blockSize } = host.device;
  const [v, job] = [1 as const, 1];
  const runs = [[0, 0, BLOCKS]] as const;
  listener.pack?.({ v, kind: 'pack', front: '', worker: '', job, layer: '', devices: [digest], runs });
  let answered = 0;
  for (let block = 0; block < BLOCKS; block++) {
    const answer = (errno: number) => void (answered += errno === 0 ? 1 : 0);
    if (block % 2 === 0) host.cold(block * blockSize, blockSize, answer);
    listener.blocks(block, 1, blockSize, digest);
  }
  return () => answered;
}

function endPack(listener: JobListener): void {
  listener.end(0, undefined, {
    class: 'demand',
    fetcher: '',
    queuedAt: 0,
    sentAt: 0,
    endedAt: 0,
    times: undefined,
  });
}
