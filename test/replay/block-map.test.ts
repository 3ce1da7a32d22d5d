/** The block map of a layer at any moment: states, why and when blocks came, and that a layer of 10 GB is a matter of milliseconds. */
import { describe, expect, test } from 'vitest';
import { BlockDocument, BlockMapDocument } from '../../schemas/replay.ts';
import { BlockHistory } from '../../src/replay/block-map.ts';
import { LARGE_BLOCKS, largeLayerRecords, opened } from './large-layer.ts';
import { digest, LAYER_A, logOf, record, START } from './sample-log.ts';

const LAYER = `sha256:${LAYER_A}`;

describe('the blocks of a layer', () => {
  const job = {
    job: 1,
    class: 'demand',
    span: 0,
    spans: 1,
    blocks: [[8, 4]],
    worker: 'fetcher-0',
    queuedAt: START + 100,
    sentUs: 0,
    firstByteUs: 0,
    fetchUs: 0,
    decodeUs: 0,
    writeUs: 0,
    totalUs: 50_000,
    bytes: 1_000,
  };
  const log = logOf([
    opened(32),
    record(2, 90, 'layer', LAYER_A, { type: 'layer.blocks', ranges: [[0, 8]] }),
    record(3, 91, 'layer', LAYER_A, {
      type: 'layer.trace',
      reads: [],
      jobs: [],
      came: [[0, 8, 'pack']],
      dropped: 0,
    }),
    record(4, 120, 'engine', 'main', { type: 'engine.stopped' }),
    record(5, 160, 'layer', LAYER_A, { type: 'layer.blocks', ranges: [[8, 4]] }),
    record(6, 161, 'layer', LAYER_A, {
      type: 'layer.trace',
      reads: [{ at: START + 100, us: 50_000, block: 9, blocks: 1, errno: 0, jobs: [1] }],
      jobs: [job],
      came: [[8, 4, 'demand']],
      dropped: 0,
    }),
    record(7, 300, 'layer', LAYER_A, { type: 'layer.evicted', ranges: [[0, 4]], reason: 'limit' }),
  ]);
  const history = BlockHistory.of(log, LAYER) as BlockHistory;
  const runs = (position: number) =>
    BlockMapDocument.parse(history.document(position)).runs.map(
      ([first, count, state, origin]) => `${first}+${count} ${state} ${origin}`,
    );

  test('are absent, fetching and present, each with why it came', () => {
    expect(runs(1)).toEqual(['0+32 absent null']);
    expect(runs(3)).toEqual(['0+8 present pack', '8+24 absent null']);
    // Nothing of the layer happened there, and a fetch was under way.
    expect(runs(4)).toEqual(['0+8 present pack', '8+4 fetching null', '12+20 absent null']);
    expect(runs(6)).toEqual(['0+8 present pack', '8+4 present demand', '12+20 absent null']);
    expect(runs(7)).toEqual([
      '0+4 absent null',
      '4+4 present pack',
      '8+4 present demand',
      '12+20 absent null',
    ]);
  });

  test('one of them tells who waited for it and what fetched it', () => {
    const block = BlockDocument.parse(history.block(9, 7));
    expect(block).toMatchObject({ state: 'present', origin: 'demand', offset: 9 * 65536 });
    expect(block.reads.map(({ us }) => us)).toEqual([50_000]);
    expect(block.jobs.map(({ job: number }) => number)).toEqual([1]);
    expect(history.block(20, 7)).toMatchObject({ state: 'absent', reads: [], jobs: [] });
  });

  test('of a layer that the log does not know there is no map', () =>
    expect(BlockHistory.of(log, digest('9'))).toBe(undefined));
});

test('a layer of 10 GB, whose blocks came in ten thousand pieces, is looked at in no time', () => {
  const log = logOf([...largeLayerRecords()]);
  const history = BlockHistory.of(log, LAYER) as BlockHistory;
  const began = process.cpuUsage();
  const looks = 10;
  for (let look = 1; look <= looks; look++) history.at(Math.floor((log.count * look) / looks));
  const { user, system } = process.cpuUsage(began);
  const ms = (user + system) / 1_000 / looks;
  expect(history.document(log.count).counts).toEqual({ absent: 0, fetching: 0, present: LARGE_BLOCKS });
  // Processor time: half of a frame's on a fast machine.
  expect(ms).toBeLessThan(100);
});
