/** Stand-in for src/image/span-table.ts: the geometry of a simulated layer, as JSON. */
import { CofaError } from '../../../../schemas/errors.ts';
import { BLOCK } from '../disk.ts';
import { type SimLayer, world } from '../world.ts';

export * from '../../../../src/image/span-table.ts';

export const encodeTable = (layer: SimLayer): Buffer => Buffer.from(JSON.stringify(layer));

export class SpanTable {
  readonly diffId: string;
  readonly root: string;
  readonly blobDigest: string;
  readonly blobSize: number;
  readonly rawSize: number;
  readonly compression = 'gzip';
  readonly blockSize = BLOCK;
  readonly blockCount: number;
  readonly spanCount: number;
  /** It is an attacker's: what passes its checks is not the layer. */
  readonly isForged: boolean;
  readonly #first: number[] = [];
  readonly #span: number[] = [];

  static of(bytes: Buffer, { diffId, blob }: { diffId: string; blob: { digest: string } }): SpanTable {
    const table = SpanTable.decode(bytes);
    if (table.diffId === diffId && table.blobDigest === blob.digest) return table;
    throw new CofaError('integrity', 'the span table of another layer');
  }

  static decode(bytes: Buffer): SpanTable {
    try {
      return new SpanTable(JSON.parse(bytes.toString()) as SimLayer);
    } catch (cause) {
      throw new CofaError('integrity', 'no span table', { cause });
    }
  }

  private constructor({ diffId, root, blob, size, spans, isForged = false }: SimLayer) {
    this.diffId = diffId;
    this.root = world().sabotage === 'shared-device' ? world().layer(diffId).root : root;
    this.isForged = isForged;
    this.blobDigest = blob;
    this.blobSize = size;
    this.rawSize = size;
    this.spanCount = spans.length;
    for (const [span, count] of spans.entries()) {
      this.#first.push(this.#span.length);
      for (let block = 0; block < count; block++) this.#span.push(span);
    }
    this.blockCount = this.#span.length;
  }

  span(index: number) {
    const firstBlock = this.#first[index] as number;
    const blockCount = (this.#first[index + 1] ?? this.blockCount) - firstBlock;
    return {
      index,
      firstBlock,
      blockCount,
      inStart: firstBlock * BLOCK,
      inEnd: (firstBlock + blockCount) * BLOCK,
      out: 0,
      bits: 0,
    };
  }

  spanOfBlock(block: number): number {
    return this.#span[block] as number;
  }

  blockLength(): number {
    return BLOCK;
  }
}
