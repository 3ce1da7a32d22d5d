/** Stand-in for src/fetch/fetch-job.ts: blocks come one after the other, verified; some requests fail. */
import { CofaError } from '../../../../schemas/errors.ts';
import type { FetchJob } from '../../../../schemas/fetch.ts';
import { FORGED, RIGHT } from '../disk.ts';
import { machine } from '../machine.ts';
import { world } from '../world.ts';
import type { SpanTable } from './span-table.ts';
import { request } from './registry-client.ts';

export * from '../../../../src/fetch/fetch-job.ts';

interface Context {
  layout: { root: string };
  /** The engine's own, of simulated tables. */
  tables: { of(name: string, layer: string): Promise<unknown> };
  signal: AbortSignal;
  gate: { readonly opening: Promise<void> | undefined };
  onBlocks(firstBlock: number, count: number, bytes: number): void;
}

export async function runFetch(job: FetchJob, context: Context): Promise<number> {
  const ended = world().fetching(job, context.signal);
  try {
    return await fetchBlocks(job, context);
  } finally {
    ended();
  }
}

async function fetchBlocks(job: FetchJob, context: Context): Promise<number> {
  const { layout, signal, gate, tables, onBlocks } = context;
  const { random } = machine();
  const { isForged, blockCount, blobDigest } = (await tables.of(
    job.table ?? job.source.digest,
    job.layer,
  )) as SpanTable;
  const tag = isForged ? FORGED : RIGHT;
  await request('layer blob', signal);
  for (const [first, count] of job.runs) {
    const end = first + count;
    let reported = first;
    for (let block = first; block < end; block++) {
      await machine().sleep(world().plan.blockMs * (0.5 + random.next()));
      await gate.opening;
      signal.throwIfAborted();
      if (random.chance(world().plan.wrongBytes / 4)) {
        machine().meet('wrong bytes');
        throw new CofaError('integrity', 'a block is not what the span table says');
      }
      const file = world().device(layout.root, job.layer);
      if (file?.blocks === undefined) throw new CofaError('internal', 'the device file is not there');
      if (!isForged && blobDigest !== world().layer(job.layer).blob) {
        machine().meet('blobs that lead to no state of theirs');
        throw new CofaError('integrity', 'the blob is not what the span table says');
      }
      if (isForged && block === blockCount - 1) {
        machine().meet('last blocks that no attacker can forge');
        throw new CofaError('integrity', 'the last block is not what the span table says');
      }
      if (world().isDiskFull && file.blocks[block] !== tag)
        throw new CofaError('no-space', 'the disk is full');
      if (tag === FORGED) machine().meet('blocks forged');
      file.blocks[block] = tag;
      if (random.chance(0.3) || block === end - 1) {
        onBlocks(reported, block + 1 - reported, block + 1 - reported);
        reported = block + 1;
      }
    }
  }
  return 0;
}
