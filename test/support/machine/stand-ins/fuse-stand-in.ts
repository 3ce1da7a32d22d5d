/** Stand-in for src/fuse/stand-in.ts. */
import type { StandIn } from '../../../../src/fuse/stand-in.ts';
import { FuseConnection, type FuseRequest } from '../kernel.ts';
import { currentProcess, machine, type SimProcess } from '../machine.ts';
import { world } from '../world.ts';

export * from '../../../../src/fuse/stand-in.ts';

export function startStandIn(session: { fd: number }): StandIn {
  const connection = world().behind(session.fd) as FuseConnection;
  let answered = 0;
  machine().meet('nobody serves');
  const server = {
    process: currentProcess() as SimProcess,
    take: (request: FuseRequest) => {
      answered += 1;
      request.answer('EIO');
    },
  };
  connection.serve(server);
  return {
    get answered() {
      return answered;
    },
    stop: () => connection.unserve(server),
  };
}
