/** A front end in miniature, to be killed: serves layers on the FUSE descriptor that it inherits as its fd 3. */
import { once } from 'node:events';
import { openSync, readFileSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { kernelTransport } from '../../src/fuse/kernel-transport.ts';
import { inodeOf } from '../../src/fuse/transport.ts';

export interface ServeJob {
  files: Array<{ name: string; size: number; device: string }>;
  /** How long each read waits, ms; all blocks are absent at first. Undefined: all are present. */
  coldMs?: number;
  /** Files are added that long after the transport has begun, ms. */
  addAfterMs?: number;
  holdMs?: number;
  /** Started, but takes nothing before a line comes in on stdin. */
  standby?: boolean;
  /** What to do when a line comes in on stdin; else it serves until it is killed. */
  ending?: 'exit' | 'throw';
}

const BLOCK = 65_536;
const job = JSON.parse(process.argv[2] as string) as ServeJob;
const say = (line: string) => writeSync(1, `${line}\n`);

const transport = kernelTransport({
  fd: 3,
  resend: true,
  standby: job.standby === true,
  ...(job.holdMs === undefined ? {} : { holdMs: job.holdMs }),
  cold: (file, offset, length, answer) => {
    say('cold');
    setTimeout(() => {
      const states = new Uint8Array(file.blocks);
      states.fill(2, Math.floor(offset / BLOCK), Math.floor((offset + length - 1) / BLOCK) + 1);
      answer(0);
    }, job.coldMs);
  },
});
void transport.ended.then((error) => say(`ended ${error?.message ?? 'well'}`));
if (job.addAfterMs !== undefined) await sleep(job.addAfterMs);
for (const { name, size, device } of job.files) {
  const blocks = new SharedArrayBuffer(Math.ceil(size / BLOCK));
  if (job.coldMs === undefined) new Uint8Array(blocks).fill(2);
  transport.add({ name, inode: inodeOf(name), size, fd: openSync(device, 'r'), blockSize: BLOCK, blocks });
}
if (job.standby === true) {
  say('standby');
  readFileSync(0);
  transport.begin();
}
transport.settled();
say('ready');
if (job.ending !== undefined) {
  await once(process.stdin, 'data');
  if (job.ending === 'throw') throw new Error('as the test wants it');
  process.exit(7);
}
