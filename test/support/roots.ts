/** The block root of a layer, computed from its tar alone: what every honest span table of it says (src/image/span-table.ts). */
import { createHash } from 'node:crypto';
import { BlockStates } from '../../src/image/block-states.ts';

const BLOCK = 65_536;

/** `sha256:…` */
export function rootOf(tar: Buffer): string {
  const hash = new BlockStates();
  hash.update(tar);
  const { states, diffId } = hash.finish();
  const head = Buffer.alloc(24);
  head.write('COFAROOT');
  head.writeBigUInt64LE(BigInt(tar.length), 8);
  head.writeUInt32LE(BLOCK, 16);
  // The last state is the diffID, also where the tar ends with a whole block.
  const before = states.subarray(0, (Math.ceil(tar.length / BLOCK) - 1) * 32);
  const root = createHash('sha256')
    .update(head)
    .update(before)
    .update(Buffer.from(diffId.slice(7), 'hex'));
  return `sha256:${root.digest('hex')}`;
}
