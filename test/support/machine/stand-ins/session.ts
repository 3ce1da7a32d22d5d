/** Stand-in for src/fuse/session.ts. */
import { randomBytes } from 'node:crypto';
import { CofaError } from '../../../../schemas/errors.ts';
import type { FuseSession } from '../../../../src/fuse/session.ts';
import { currentProcess, machine, type SimProcess } from '../machine.ts';
import { world } from '../world.ts';

export * from '../../../../src/fuse/session.ts';

export async function openFuseSession(target: string): Promise<FuseSession> {
  const { kernel } = world();
  const process = currentProcess() as SimProcess;
  const there = kernel.find(target);
  if (there !== undefined) {
    if (there.connection?.isDead !== true) throw new CofaError('busy', `${target} has a mount already`);
    await machine().call(1, () => kernel.unmount(target, true));
  }
  const source = `cofa-${randomBytes(6).toString('hex')}`;
  const connection = await machine().call(4, () => {
    const fresh = kernel.mountFuse(target, source);
    if (process.isAlive) fresh.hold(process);
    else fresh.abort();
    return fresh;
  });
  let closed = false;
  return {
    fd: world().descriptor(connection),
    connection: kernel.find(target)?.id ?? 0,
    resend: true,
    abort: () => connection.abort(),
    close() {
      if (closed) return;
      closed = true;
      connection.abort();
      if (kernel.find(target)?.source === source) kernel.unmount(target, true);
      connection.letGo(process);
    },
  };
}
