/** The one layer of rehearsals: random bytes, not compressed, for decoding is native code and needs no rehearsal. */
import { randomBytes } from 'node:crypto';
import { digestOf } from '../../digest/digest.ts';
import { Sha256 } from '../../image/sha256.ts';
import { BLOCK_SIZE, SpanTable } from '../../image/span-table.ts';

export interface RehearsalLayer {
  bytes: Buffer;
  /** Of the bytes, which are the blob as well. */
  digest: string;
  table: SpanTable;
}

/** A layer of so many blocks in one span. */
export function rehearsalLayer(blocks: number): RehearsalLayer {
  const bytes = randomBytes(blocks * BLOCK_SIZE);
  const digest = digestOf(bytes);
  const hash = new Sha256();
  const states = Buffer.alloc((blocks - 1) * 32);
  for (let block = 0; block < blocks - 1; block++) {
    hash.update(bytes.subarray(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE));
    hash.writeState(states, block * 32);
  }
  const table = SpanTable.build({
    diffId: digest,
    blobDigest: digest,
    blobSize: bytes.length,
    rawSize: bytes.length,
    compression: 'none',
    spans: [{ firstBlock: 0, inStart: 0, inEnd: bytes.length, out: 0, bits: 0 }],
    states,
  });
  return { bytes, digest, table };
}
