/** A process that waits for its own FUSE mount, having taken the request and not answering it; to be killed. */
import { read, statfs, writeSync } from 'node:fs';
import { startGuard } from '../../src/fuse/guard.ts';
import { IN, OP } from '../../src/fuse/protocol.ts';
import { openFuseSession } from '../../src/fuse/session.ts';

const [target, guarded] = process.argv.slice(2);
setInterval(() => {}, 1_000);
const session = await openFuseSession(target as string);
if (guarded === 'guarded') await startGuard(session.connection).ready;
const request = Buffer.alloc(16_384);
const take = () =>
  read(session.fd, request, 0, request.length, null, () => {
    // What has no reply may come first.
    if (![OP.FORGET, OP.BATCH_FORGET].includes(request.readUInt32LE(IN.opcode) as never))
      writeSync(1, 'taken\n');
    else take();
  });
take();
statfs(target as string, () => {});
