/** Stand-in for src/fuse/stand-in.ts. */
import type { StandIn } from '../../../../src/fuse/stand-in.ts';
import { FuseConnection, type FuseRequest } from '../kernel.ts';
import { currentProcess, machine, type SimProcess } from '../machine.ts';
import { world } from '../world.ts';

export * from '../../../../src/fuse/stand-in.ts';

export function startStandIn(session: { fd: number }): StandIn {
  const connection = world().behind(session.fd) as FuseConnection;
  let answered = 0;
  machine().meet('no front end serves');
  const process = currentProcess() as SimProcess;
  const lostAt = world().frontLostAt(process.root ?? '') ?? Number.POSITIVE_INFINITY;
  // From then on reads fail at once, also new ones, until a front end begins.
  if (machine().now - lostAt >= world().plan.readDeadlineMs - 1)
    machine().meet('no front end served for a deadline');
  const server = {
    process,
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
    get reads() {
      return answered;
    },
    stop: () => connection.unserve(server),
  };
}
