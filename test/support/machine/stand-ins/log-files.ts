/** Stand-in for src/store/log-files.ts: syncs what nats-server has written. */
import { machine } from '../machine.ts';
import { world } from '../world.ts';

export * from '../../../../src/store/log-files.ts';

export class LogFiles {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  readonly sync = async (): Promise<void> => {
    const { sabotage, plan } = world();
    const end = world().store(this.#folder).beginSync();
    await machine().call(plan.syncMs, () => {
      if (sabotage !== 'forget-log-sync') end();
    });
  };

  /** All streams of the simulated server are synced as one. */
  readonly syncSnapshots = (): Promise<void> => this.sync();
}
