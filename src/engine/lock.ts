/** One engine per root: an flock(2) on a file, which the kernel lets go of when the process ends, however it ends. */
import { closeSync, openSync, readFileSync, writeSync, ftruncateSync } from 'node:fs';
import koffi from 'koffi';
import { CofaError } from '../../schemas/errors.ts';

const LOCK_EX = 2;
const LOCK_NB = 4;

/** Takes the lock and writes the pid into it; error `conflict` naming the engine that has it. */
export function takeLock(path: string, root: string): void {
  const flock = koffi.load('libc.so.6').func('int flock(int fd, int operation)') as (
    fd: number,
    op: number,
  ) => number;
  const fd = openSync(path, 'a+', 0o600);
  if (flock(fd, LOCK_EX | LOCK_NB) !== 0) {
    const pid = readFileSync(path, 'utf8').trim();
    closeSync(fd);
    throw new CofaError('conflict', `an engine with its state in ${root} is running already (pid ${pid})`, {
      hint: `stop it: cofa down --root ${root}, or give this one another --root`,
    });
  }
  ftruncateSync(fd, 0);
  writeSync(fd, `${process.pid}\n`);
  // The descriptor stays open for the process's life: it is the lock.
}
