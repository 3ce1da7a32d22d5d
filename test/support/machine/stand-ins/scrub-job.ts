/** Stand-in for src/fetch/scrub-job.ts: what the disk has of a block is its tag. */
import type { BlockCheck } from '../../../../src/fetch/scrub-job.ts';
import { machine } from '../machine.ts';
import { world } from '../world.ts';

export * from '../../../../src/fetch/scrub-job.ts';

interface Context {
  layout: { root: string };
  signal: AbortSignal;
}

export async function checkBlocks(
  { layer, ranges }: BlockCheck,
  { layout, signal }: Context,
): Promise<Array<[number, number]>> {
  const bad: Array<[number, number]> = [];
  for (const [first, count] of ranges) {
    for (let block = first; block < first + count; block++) {
      await machine().sleep(0.2 + machine().random.next());
      signal.throwIfAborted();
      const tag = world().device(layout.root, layer)?.blocks?.[block];
      machine().meet('blocks compared');
      if (tag === world().checked(layer)) continue;
      if (world().sabotage === 'blind-scrub' && machine().random.chance(0.3)) continue;
      machine().meet('blocks found damaged');
      const last = bad.at(-1);
      if (last !== undefined && last[0] + last[1] === block) last[1] += 1;
      else bad.push([block, 1]);
    }
  }
  return bad;
}
