/** What a table makes of a blob, whatever its states say: the attacker has to know before he computes them. */
import { GzipDecoder } from '../../../src/image/gzip.ts';
import type { LayerDecoder } from '../../../src/image/layer-decoder.ts';
import { NativeBuffer } from '../../../src/image/native.ts';
import { PlainDecoder } from '../../../src/image/plain.ts';
import { BLOCK_SIZE, type SpanTable } from '../../../src/image/span-table.ts';
import { ZstdDecoder } from '../../../src/image/zstd.ts';

/** Every span decoded on its own; where one ends early, or is no data of its compression, zeros follow. */
export function decodeUnchecked(table: SpanTable, blob: Buffer): Buffer {
  const content = Buffer.alloc(table.rawSize);
  for (let index = 0; index < table.spanCount; index++) {
    const { firstBlock, blockCount, inStart, inEnd, out } = table.span(index);
    const start = firstBlock * BLOCK_SIZE;
    const end = Math.min(table.rawSize, start + blockCount * BLOCK_SIZE);
    const decoder = decoderAt(table, index);
    try {
      const raw = new NativeBuffer(end - out);
      decodeInto(raw, decoder, blob.subarray(inStart, inEnd));
      raw.bytes.copy(content, start, start - out);
    } finally {
      decoder.close();
    }
  }
  return content;
}

function decoderAt(table: SpanTable, span: number): LayerDecoder {
  if (table.compression === 'gzip') return new GzipDecoder({ from: table.checkpoint(span) });
  return table.compression === 'zstd' ? new ZstdDecoder() : new PlainDecoder();
}

function decodeInto(raw: NativeBuffer, decoder: LayerDecoder, compressed: Buffer): void {
  const input = new NativeBuffer(compressed.length, false);
  compressed.copy(input.bytes);
  decoder.input(input, 0, compressed.length);
  try {
    for (let at = 0; at < raw.bytes.length; ) {
      const before = decoder.consumed;
      const written = decoder.run(raw, at, raw.bytes.length);
      if (written === 0 && decoder.consumed === before) return;
      at += written;
    }
  } catch {
    // No data of its compression from here on.
  }
}
