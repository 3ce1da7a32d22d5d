/** Waits for a snapshotter that is being started. */
import { eventually } from '../support/engine.ts';
import { connectSnapshotter, type SnapshotClient } from './test-bed.ts';

/** A client whose server has answered. */
export async function untilServed(socket: string): Promise<SnapshotClient> {
  return await eventually(`a snapshotter at ${socket}`, async () => {
    const client = connectSnapshotter(socket);
    try {
      await client.walk('name==none');
      return client;
    } catch (error) {
      client.close();
      throw error;
    }
  });
}
