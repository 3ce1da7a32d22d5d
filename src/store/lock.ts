/** One engine per root: an flock(2) on a file, which the kernel lets go of when the process ends, however it ends. */
import { closeSync, openSync, readFileSync, readlinkSync, writeSync, ftruncateSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import koffi from 'koffi';
import { CofaError } from '../../schemas/errors.ts';

const LOCK_EX = 2;
const LOCK_NB = 4;

/** An engine that was killed has this long to be gone, ms. */
const GONE_MS = 10_000;

/**
 * As `takeLock`, but waits for an engine that was killed and is not gone yet. `cut` is called now and then meanwhile: it
 * should end what such a process may be waiting for in the kernel.
 */
export async function takeLockInTurn(path: string, root: string, cut: () => void): Promise<() => void> {
  for (const end = performance.now() + GONE_MS; ; await sleep(50)) {
    try {
      return takeLock(path, root);
    } catch (error) {
      const { pid, isNear } = holderOf(path);
      // One of another container may be dying as well: what its pid is there says nothing here.
      if ((isNear && !isDying(pid)) || performance.now() > end) throw error;
      cut();
    }
  }
}

/** Who has the lock, as the file says; `isNear`: in a container (a process namespace) with this process. */
function holderOf(path: string): { pid: number; isNear: boolean } {
  const [text = '', namespace] = readFileSync(path, 'utf8').trim().split(' ');
  const pid = Number(text);
  // Version 0.1.0 wrote the pid alone. In the first container after it that is often this process's own.
  return { pid, isNear: namespace === undefined ? pid !== process.pid : namespace === NAMESPACE };
}

const NAMESPACE = readlinkSync('/proc/self/ns/pid');

/** Killed already, though some of its threads may be in the kernel still. */
function isDying(pid: number): boolean {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    if (/^State:\s+[ZX]/m.test(status)) return true;
    const pending = /^ShdPnd:\s+([0-9a-f]+)/m.exec(status)?.[1] ?? '0';
    return (BigInt(`0x${pending}`) & SIGKILL_BIT) !== 0n;
  } catch {
    return true;
  }
}

const SIGKILL_BIT = 1n << 8n;

/**
 * Takes the lock and writes the pid into it, with its namespace: `4711 pid:[4026531836]`. The returned function gives it back, before the process ends. Error `conflict` naming
 * the engine that has it.
 */
export function takeLock(path: string, root: string): () => void {
  const flock = koffi.load('libc.so.6').func('int flock(int fd, int operation)') as (
    fd: number,
    op: number,
  ) => number;
  const fd = openSync(path, 'a+', 0o600);
  if (flock(fd, LOCK_EX | LOCK_NB) !== 0) {
    const { pid, isNear } = holderOf(path);
    closeSync(fd);
    const where = isNear ? '' : ' of another container';
    throw new CofaError(
      'conflict',
      `an engine with its state in ${root} is running already (pid ${pid}${where})`,
      {
        hint: `stop it: cofa down --root ${root}, or give this one another --root`,
      },
    );
  }
  ftruncateSync(fd, 0);
  writeSync(fd, `${process.pid} ${NAMESPACE}\n`);
  // The open descriptor is the lock.
  return () => closeSync(fd);
}
