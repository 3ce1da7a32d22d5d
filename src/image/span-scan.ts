import { CofaError } from '../../schemas/errors.ts';
import { WINDOW_SIZE } from './gzip-restart.ts';
import type { Checkpoint, LayerDecoder } from './layer-decoder.ts';
import { NativeBuffer } from './native.ts';
import { SPAN_BLOCKS, SPAN_SIZE, type SpanRecord } from './span-table.ts';
import { TRACE_INPUT, WindowTracer } from './window.ts';

/**
 * Decodes a blob once from its start and notes where its spans begin.
 *
 * Two buffers slide over the compressed and the raw bytes, and both keep some of the past. The raw one keeps what a
 * checkpoint's window is cut from; the compressed one keeps what the tracer decodes again to see which bytes of that
 * window are in use (window.ts). The tracer needs bytes *behind* the checkpoint, so it runs when those have arrived.
 *
 *     compressed   | kept TRACE_INPUT |······ fill ······|      given to the decoder when full
 *     raw          | kept HISTORY |····· segment ·····|         given to `onRaw` when full
 *
 * The decoder only ever sees the compressed buffer full (but for the end of the blob), so the result does not depend on
 * how the blob was cut into chunks.
 */
export class SpanScanner {
  readonly #decoder: LayerDecoder;
  readonly #options: ScanOptions;
  readonly #in = new NativeBuffer(IN_SIZE);
  /** Raw bytes; while onRaw has those of one buffer, the next is filled. */
  readonly #outs: OutBuffer[];
  #outAt = 0;
  #out: NativeBuffer;
  readonly #spans: SpanRecord[] = [];
  #tracer: WindowTracer | undefined;
  /** Offset in the blob of the compressed buffer's first byte. */
  #inBase = 0;
  #inDone = 0;
  #inFill = 0;
  #outFill = HISTORY;
  #raw = 0;
  /** The raw offset that the next span nominally begins at. */
  #mark = 0;
  /** Compressed bytes that suffice for all raw bytes before the mark. */
  #neededAtMark = 0;
  /** The last checkpoint that is not behind the mark, and the raw offset that decoding from it begins at. */
  #checkpoint: Checkpoint | undefined;
  #checkpointRaw = 0;
  #unsettled: Unsettled[] = [];
  #sincePause = 0;

  /** Owns the decoder from now on. */
  constructor(decoder: LayerDecoder, options: ScanOptions) {
    this.#decoder = decoder;
    this.#options = options;
    const { ahead = 0 } = options;
    this.#outs = Array.from({ length: 1 + ahead }, () => ({
      buffer: new NativeBuffer(HISTORY + SEGMENT, true, ahead > 0),
      free: undefined,
    }));
    this.#out = (this.#outs[0] as OutBuffer).buffer;
  }

  /** Raw bytes decoded so far. */
  get rawSize(): number {
    return this.#raw;
  }

  async push(chunk: Uint8Array): Promise<void> {
    for (let at = 0; at < chunk.length; ) {
      const part = chunk.subarray(at, at + IN_SIZE - this.#inFill);
      this.#in.bytes.set(part, this.#inFill);
      this.#inFill += part.length;
      at += part.length;
      if (this.#inFill < IN_SIZE) return;
      await this.#decode();
      this.#slide();
    }
  }

  /** Call after the last byte. Throws CofaError('integrity') where the data do not end there. */
  async finish(): Promise<SpanRecord[]> {
    await this.#decode();
    if (!this.#decoder.complete) {
      throw new CofaError(
        'integrity',
        `the compressed data is cut short at byte ${this.#inBase + this.#inFill}`,
      );
    }
    await this.#flush();
    for (const { free } of this.#outs) await free;
    this.#settle(true);
    const last = this.#spans.at(-1);
    if (last !== undefined) last.inEnd = this.#decoder.needed;
    return this.#spans;
  }

  close(): void {
    this.#decoder.close();
    this.#tracer?.close();
  }

  async #decode(): Promise<void> {
    const decoder = this.#decoder;
    decoder.input(this.#in, this.#inDone, this.#inFill);
    let still = 0;
    for (;;) {
      const before = decoder.consumed;
      const room = Math.min(HISTORY + SEGMENT, this.#outFill + (this.#mark - this.#raw || SPAN_SIZE));
      const written = this.#run(room);
      if (written > 0) {
        if (this.#raw === this.#mark) this.#beginSpan();
        this.#raw += written;
        this.#outFill += written;
        if (this.#raw === this.#mark) this.#neededAtMark = decoder.needed;
      }
      if (this.#raw === this.#mark || !decoder.checkpointsAnywhere) this.#noteCheckpoint();
      if (this.#outFill === HISTORY + SEGMENT) await this.#flush();
      // A block's end or header may lie wholly within bits that zlib has taken already: a stop without progress.
      still = written === 0 && decoder.consumed === before ? still + 1 : 0;
      if (still > MOST_STILL || (still > 0 && decoder.available === 0)) break;
      this.#sincePause += 1 + (written >>> 13);
      if (this.#sincePause >= PAUSE_AFTER) {
        this.#sincePause = 0;
        await this.#options.pause();
      }
    }
    this.#inDone = this.#inFill;
    if (decoder.available > 0)
      throw new CofaError('internal', `the decoder stands still at byte ${decoder.consumed}`);
  }

  #run(room: number): number {
    try {
      return this.#decoder.run(this.#out, this.#outFill, room);
    } catch (error) {
      if (!(error instanceof CofaError)) throw error;
      throw new CofaError(error.code, `${error.message} at byte ${this.#decoder.consumed}`, {
        cause: error,
        ...(error.hint !== undefined && { hint: error.hint }),
      });
    }
  }

  #noteCheckpoint(): void {
    const checkpoint = this.#decoder.checkpoint();
    if (checkpoint === undefined) return;
    this.#checkpoint = checkpoint;
    this.#checkpointRaw = this.#raw - checkpoint.back;
  }

  /** The first bytes behind the mark have been written to the buffer, but are not counted yet. */
  #beginSpan(): void {
    const mark = this.#mark;
    this.#mark += SPAN_SIZE;
    const last = this.#spans.at(-1);
    const { start, bits, back, reach, header } = this.#checkpoint ?? START;
    const out = this.#checkpointRaw;
    if (last !== undefined) {
      if (out <= last.out) return;
      last.inEnd = this.#neededAtMark;
    }
    const span: SpanRecord = {
      firstBlock: (mark / SPAN_SIZE) * SPAN_BLOCKS,
      inStart: start,
      inEnd: 0,
      out,
      bits,
      ...(header !== undefined && { header }),
    };
    this.#spans.push(span);
    if (reach === 0) return;
    const windowEnd = this.#outFill - back;
    this.#unsettled.push({
      span,
      window: Buffer.from(this.#out.bytes.subarray(windowEnd - reach, windowEnd)),
    });
    this.#settle(false);
  }

  /** Packs the windows whose following bytes have arrived; with `all` also those near the end of the blob. */
  #settle(all: boolean): void {
    let done = 0;
    for (const { span, window } of this.#unsettled) {
      const start = span.inStart - this.#inBase;
      if (!all && start + TRACE_INPUT > this.#inFill) break;
      this.#tracer ??= new WindowTracer();
      const packed = this.#tracer.pack(window, this.#in.bytes.subarray(start, this.#inFill), span);
      if (packed !== undefined) span.window = packed;
      done += 1;
    }
    if (done > 0) this.#unsettled = this.#unsettled.slice(done);
  }

  #slide(): void {
    this.#settle(false);
    const keptFrom = this.#inFill - TRACE_INPUT;
    this.#in.bytes.copyWithin(0, keptFrom, this.#inFill);
    this.#inBase += keptFrom;
    this.#inDone = TRACE_INPUT;
    this.#inFill = TRACE_INPUT;
  }

  async #flush(): Promise<void> {
    const { bytes } = this.#out;
    if (this.#outFill > HISTORY) {
      const taken = this.#options.onRaw(bytes.subarray(HISTORY, this.#outFill));
      if (taken !== undefined) await this.#nextOut(taken);
    }
    bytes.copy(this.#out.bytes, 0, this.#outFill - HISTORY, this.#outFill);
    this.#outFill = HISTORY;
  }

  /** Leaves this buffer to onRaw, and goes on with the one that it has had the longest. */
  async #nextOut(taken: Promise<void>): Promise<void> {
    // The turn of this buffer, or the end, throws it.
    taken.catch(() => {});
    (this.#outs[this.#outAt] as OutBuffer).free = taken;
    this.#outAt = (this.#outAt + 1) % this.#outs.length;
    const next = this.#outs[this.#outAt] as OutBuffer;
    await next.free;
    next.free = undefined;
    this.#out = next.buffer;
  }
}

interface OutBuffer {
  buffer: NativeBuffer;
  /** Settles when onRaw has no more use for it. */
  free: Promise<void> | undefined;
}

export interface ScanOptions {
  /** Gets all raw bytes in order, in segments of 256 KiB; they are overwritten when the promise has settled. */
  onRaw: (bytes: Buffer) => void | Promise<void>;
  /** So many further segments may be with onRaw while the next is decoded; they then lie in shared memory. */
  ahead?: number | undefined;
  /** Gives the event loop a turn; may throw to end the scan. */
  pause: () => Promise<void>;
}

interface Unsettled {
  span: SpanRecord;
  window: Buffer;
}

/** Raw bytes that onRaw gets at once; SPAN_SIZE is a multiple of it. */
/** Stops in a row without progress after which the decoder counts as stuck. */
const MOST_STILL = 8;
const SEGMENT = 262_144;
/** A window, and what a checkpoint's first code may output before the span begins (at most 257 bytes). */
const HISTORY = WINDOW_SIZE + 512;
const IN_SIZE = TRACE_INPUT + 262_144;
/** Decoder calls, 8 KiB written counted as another, that run without a pause; some milliseconds. */
const PAUSE_AFTER = 512;
/** Where a blob begins is a checkpoint. */
const START: Checkpoint = { start: 0, bits: 0, back: 0, reach: 0 };
