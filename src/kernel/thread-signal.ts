/**
 * Interrupts a thread in a blocking system call.
 *
 * A thread of Node that blocks in read(2) receives no message, and Node waits for it without end, also in
 * process.exit(). A signal whose handler does nothing, sent to that one thread, makes the call return EINTR, provided
 * that the handler was installed without SA_RESTART. Node installs all of its own with it, so this one comes by
 * sigaction(2), for a signal that neither Node nor libc uses. The handler is abs(3): it takes an int, returns one, and
 * touches nothing.
 */
import { isErrno } from './errno.ts';
import { addressOf, call, declare } from './libc.ts';

/**
 * Makes a blocking call of a thread of this process return EINTR. Does nothing when the thread does not block at that
 * moment, so repeat it until the thread shows that it noticed. Returns false when there is no such thread.
 */
export function interruptThread(threadId: number): boolean {
  install();
  try {
    call('tgkill', tgkill, process.pid, threadId, SIGNAL);
    return true;
  } catch (error) {
    if (isErrno(error, 'ESRCH')) return false;
    throw error;
  }
}

/** A real-time signal, away from 32 to 34, which C libraries use. */
const SIGNAL = 60;
/** struct sigaction of glibc and musl: handler, 128 bytes of mask, int flags, restorer (filled in by sigaction). */
const SIGACTION_SIZE = 152;

const tgkill = declare('tgkill', ['int', 'int', 'int']);
const sigaction = declare('sigaction', ['int', 'void *', 'void *']);
let installed = false;

function install(): void {
  if (installed) return;
  const action = Buffer.alloc(SIGACTION_SIZE);
  action.writeBigUInt64LE(addressOf('abs'), 0);
  call('sigaction', sigaction, SIGNAL, action, null);
  installed = true;
}
