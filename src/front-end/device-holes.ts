/**
 * A device file against the log, before anybody reads it. The log is the truth, with one exception: bytes that are a hole
 * are not there, whatever it says. That can come about by a power cut alone, when a log that was not synced forgets an
 * eviction whose hole the file system remembers. The other way round, bytes of blocks that the log calls absent are room
 * that no fact names: written before a crash and never logged.
 */
import { fstatSync, readlinkSync } from 'node:fs';
import type { LayerFacts } from '../../actors/node-state.ts';
import { addBlock, type BlockRun } from '../../actors/ranges.ts';
import { holesOf, punchHole } from '../kernel/holes.ts';
import { backingFiles } from '../kernel/loop.ts';

/** So many bytes too many are worth to be given back. */
const WORTH_BYTES = 4 * 2 ** 20;

/** The blocks that the log calls present and that lie in a hole, in order. */
export async function blocksInHoles(fd: number, layer: LayerFacts): Promise<BlockRun[]> {
  if (layer.presentCount === 0) return [];
  const { size, blockSize, blockCount, present } = layer;
  const lost: BlockRun[] = [];
  // Two holes may share a block.
  let next = 0;
  for (const { from, to } of await holesOf(fd, size)) {
    const end = Math.min(Math.ceil(to / blockSize), blockCount);
    for (let block = Math.max(Math.floor(from / blockSize), next); block < end; block++)
      if (present[block] === 1) addBlock(lost, block);
    next = Math.max(next, end);
  }
  return lost;
}

/** Whether every byte of the device was written. */
export const isSolid = async (fd: number, size: number): Promise<boolean> =>
  (await holesOf(fd, size)).length === 0;

/**
 * Gives the room of absent blocks back where it is worth it and nothing stands on the device. Call it before the device
 * is served: fetches that another front end began may still write what then is no more than such room again.
 */
export async function trimAbsent(fd: number, layer: LayerFacts): Promise<void> {
  const { blockSize, blockCount, present, presentCount } = layer;
  if (fstatSync(fd).blocks * 512 - presentCount * blockSize < WORTH_BYTES) return;
  if (backingFiles().has(readlinkSync(`/proc/self/fd/${fd}`))) return;
  for (let block = 0; block < blockCount; block++) {
    if (present[block] === 1) continue;
    const first = block;
    while (block + 1 < blockCount && present[block + 1] !== 1) block += 1;
    await punchHole(fd, first * blockSize, (block - first + 1) * blockSize);
  }
}
