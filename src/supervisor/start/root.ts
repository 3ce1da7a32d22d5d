/** The folder of the engine's state becomes this engine's. */
import { rm } from 'node:fs/promises';
import { abortConnection, connectionOf } from '../../fuse/connection.ts';
import { isOffered } from '../../fuse/hand-over.ts';
import { type Layout, removeDrafts } from '../../store/layout.ts';
import { takeLockInTurn } from '../../store/lock.ts';
import type { End } from '../end.ts';

/**
 * Makes the folders, takes the lock, and removes what an earlier engine left in `run/` and half written. An engine that was
 * killed may wait for its own FUSE mount, in the kernel: that is aborted. Error `conflict` while another engine lives.
 */
export async function takeRoot({ layout, end }: { layout: Layout; end: End }): Promise<void> {
  await layout.prepare();
  const release = await takeLockInTurn(layout.lock(), layout.root, () => {
    // It makes room for this one, and its mount goes on.
    if (isOffered(layout.handOver())) return;
    const connection = connectionOf(layout.devices());
    if (connection !== undefined) abortConnection(connection);
  });
  end.at('root', release);
  await rm(layout.endpoint(), { force: true });
  await removeDrafts(layout);
}
