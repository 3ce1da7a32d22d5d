/** Stand-in for src/kernel/holes.ts. */
import type { ByteHole } from '../../../../src/kernel/holes.ts';
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

export function holesOf(fd: number): Promise<ByteHole[]> {
  const { blocks } = world().behind(fd) as SimFile;
  const holes: ByteHole[] = [];
  for (const [block, tag] of (blocks ?? new Uint8Array()).entries()) {
    if (tag !== HOLE) continue;
    const last = holes.at(-1);
    if (last !== undefined && last.to === block * BLOCK) last.to += BLOCK;
    else holes.push({ from: block * BLOCK, to: (block + 1) * BLOCK });
  }
  return machine().call(2, () => holes);
}
