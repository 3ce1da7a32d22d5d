import { CofaError } from '../../schemas/errors.ts';
import { GzipDecoder } from './gzip.ts';
import type { Checkpoint, LayerDecoder } from './layer-decoder.ts';
import { NativeBuffer } from './native.ts';
import { PlainDecoder } from './plain.ts';
import type { SpanRecord, SpanTable } from './span-table.ts';
import { WindowTracer } from './window.ts';

/**
 * Cuts one span into several that can each be decoded on their own. `cuts`: first blocks of the new spans, without the
 * first one's, ascending and all within the span. `compressed`: the blob's bytes [inStart, inEnd) of the span.
 *
 * Like the indexer (span-scan.ts) it stops at the raw byte where a span is to begin and asks the decoder where decoding
 * could begin again. No window of a cut reaches behind the span's own beginning, of which a checkpoint knows only a
 * part: a cut lies at least one block, 64 KiB, behind that beginning, and deflate refers back by 32 KiB at most.
 *
 * Not for zstd, whose decoder can begin only at the start of a frame. Error `integrity`: the bytes are not those of the
 * span.
 */
export function cutSpan(
  table: SpanTable,
  index: number,
  cuts: readonly number[],
  compressed: Uint8Array,
): SpanRecord[] {
  const whole = table.part(index);
  const input = new NativeBuffer(compressed.length, false);
  input.bytes.set(compressed);
  const decoder = table.compression === 'gzip' ? trackedAt(table, index) : new PlainDecoder();
  const tracer = new WindowTracer();
  try {
    const pieces = [whole];
    for (const { block, checkpoint, at, needed, raw } of stops(table, whole, cuts, decoder, input)) {
      const { start, bits, back, reach, header } = checkpoint;
      (pieces.at(-1) as SpanRecord).inEnd = whole.inStart + needed;
      const piece: SpanRecord = {
        firstBlock: block,
        inStart: whole.inStart + start,
        inEnd: 0,
        out: whole.out + at - back,
        bits,
        ...(header !== undefined && { header }),
      };
      const window = raw.subarray(at - back - reach, at - back);
      const packed = reach === 0 ? undefined : tracer.pack(window, input.bytes.subarray(start), piece);
      if (packed !== undefined) piece.window = packed;
      pieces.push(piece);
    }
    (pieces.at(-1) as SpanRecord).inEnd = table.span(index).inEnd;
    return pieces;
  } finally {
    decoder.close();
    tracer.close();
  }
}

/** Where one of the new spans begins. */
interface Stop {
  block: number;
  checkpoint: Checkpoint;
  /** Raw bytes since the whole span's beginning. */
  at: number;
  /** Compressed bytes that suffice for them. */
  needed: number;
  raw: Buffer;
}

function* stops(
  table: SpanTable,
  whole: SpanRecord,
  cuts: readonly number[],
  decoder: LayerDecoder,
  input: NativeBuffer,
): Generator<Stop> {
  const places = cuts.map((block) => block * table.blockSize - whole.out);
  const out = new NativeBuffer((places.at(-1) ?? 0) + BEHIND, false);
  decoder.input(input, 0, input.bytes.length);
  let at = 0;
  for (const [index, place] of places.entries()) {
    at += decode(decoder, out, at, place);
    const needed = decoder.needed;
    let checkpoint = decoder.checkpoint();
    // The loop skips the bytes between the last one before the cut and the first one behind it: it decodes nothing
    // twice.
    let written = 0;
    for (let still = 0; written === 0; still++) {
      if (still > MOST_STILL) throw cutShort();
      written = decoder.run(out, at, at + BEHIND);
      if (written === 0) checkpoint = decoder.checkpoint() ?? checkpoint;
    }
    if (checkpoint === undefined) throw cutShort();
    yield { block: cuts[index] as number, checkpoint, at, needed, raw: out.bytes };
    at += written;
  }
}

/** Decodes up to the place; returns the bytes written. */
function decode(decoder: LayerDecoder, out: NativeBuffer, from: number, place: number): number {
  let at = from;
  for (let still = 0; at < place; ) {
    const before = decoder.consumed;
    const written = decoder.run(out, at, place);
    still = written === 0 && decoder.consumed === before ? still + 1 : 0;
    if (still > MOST_STILL) throw cutShort();
    at += written;
  }
  return at - from;
}

/** Raw bytes that the loop decodes behind a cut, at most: fewer than a block. */
const BEHIND = 256;
/** Stops in a row without progress after which the decoder has no more to give. */
const MOST_STILL = 8;

const trackedAt = (table: SpanTable, span: number) =>
  new GzipDecoder({ from: table.checkpoint(span), track: true });

const cutShort = () => new CofaError('integrity', 'the compressed bytes are not those of the span');
