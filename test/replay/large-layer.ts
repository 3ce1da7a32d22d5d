/** The log of a layer of 10 GB whose blocks came in ten thousand pieces, here and there, as a start reads. */
import type { RawRecord } from '../../src/replay/record.ts';
import { digest, LAYER_A, record } from './sample-log.ts';

const PIECES = 10_000;
const PIECE_BLOCKS = 16;
export const LARGE_BLOCKS = PIECES * PIECE_BLOCKS;

/** `LAYER_A` is opened with so many blocks of 64 KiB. */
export function opened(blockCount: number): RawRecord {
  return record(1, 0, 'layer', LAYER_A, {
    type: 'layer.opened',
    size: blockCount * 65536,
    blockSize: 65536,
    blockCount,
    blob: digest('3'),
  });
}

export function* largeLayerRecords(): IterableIterator<RawRecord> {
  yield opened(LARGE_BLOCKS);
  for (let piece = 0; piece < PIECES; piece++) {
    const first = ((piece * 7_919) % PIECES) * PIECE_BLOCKS;
    const [at, seq] = [10 + piece, 2 + 2 * piece];
    yield record(seq, at, 'layer', LAYER_A, { type: 'layer.blocks', ranges: [[first, PIECE_BLOCKS]] });
    const came = [[first, PIECE_BLOCKS, piece % 2 === 0 ? 'rest' : 'demand']];
    yield record(seq + 1, at, 'layer', LAYER_A, {
      type: 'layer.trace',
      reads: [],
      jobs: [],
      came,
      dropped: 0,
    });
  }
}
