/** Stand-in for src/store/lock.ts. */
import { CofaError } from '../../../../schemas/errors.ts';
import { currentProcess, type SimProcess } from '../machine.ts';
import { world } from '../world.ts';

export * from '../../../../src/store/lock.ts';

export function takeLock(path: string, root: string): () => void {
  const { locks } = world();
  const owner = locks.get(path);
  if (owner?.isAlive === true)
    throw new CofaError('conflict', `an engine runs in ${root} already (${owner.pid})`);
  locks.set(path, currentProcess() as SimProcess);
  return () => locks.delete(path);
}

export function takeLockInTurn(path: string, root: string): Promise<() => void> {
  return Promise.resolve(takeLock(path, root));
}
