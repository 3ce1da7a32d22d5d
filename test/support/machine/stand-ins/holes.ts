/** Stand-in for src/kernel/holes.ts. */
import { BLOCK, HOLE, type SimFile } from '../disk.ts';
import { machine } from '../machine.ts';
import { world } from '../world.ts';

export * from '../../../../src/kernel/holes.ts';

export async function punchHole(fd: number, offset: number, length: number): Promise<void> {
  const file = world().behind(fd) as SimFile;
  await machine().call(2, () => {
    machine().meet('blocks punched', length / BLOCK);
    file.blocks?.fill(HOLE, offset / BLOCK, (offset + length) / BLOCK);
  });
}

export function holesOf(fd: number): Promise<Array<[number, number]>> {
  const { blocks } = world().behind(fd) as SimFile;
  const holes: Array<[number, number]> = [];
  for (const [block, tag] of (blocks ?? new Uint8Array()).entries()) {
    if (tag !== HOLE) continue;
    const last = holes.at(-1);
    if (last !== undefined && last[1] === block * BLOCK) last[1] += BLOCK;
    else holes.push([block * BLOCK, (block + 1) * BLOCK]);
  }
  return machine().call(2, () => holes);
}
