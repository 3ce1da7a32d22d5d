/**
 * System calls that Node does not offer, called by koffi in the C library that the process has loaded anyway.
 *
 * Each comes in two forms. The plain form runs on the calling thread. The `.async` form runs on libuv's thread pool and
 * is the rule here: a mount or a loop's configuration may make the kernel read a FUSE file that this process serves,
 * and a thread that waits for itself never returns. Node's own file calls share the pool (four threads unless
 * UV_THREADPOOL_SIZE says otherwise), and the answer may need them. So `offLoop` lets at most half of the pool block.
 */
import koffi from 'koffi';
import { SystemCallError } from './errno.ts';

/** A foreign function with its asynchronous form; both return what C returns. */
export interface ForeignFunction {
  (...args: unknown[]): number;
  async(...args: unknown[]): void;
}

const libc = koffi.load(null);

/**
 * Declares a function of the C library, such as `declare('umount2', ['str', 'int'])`. It returns an int or an int64.
 */
export function declare(
  name: string,
  parameters: string[],
  result: 'int' | 'int64' = 'int',
): ForeignFunction {
  return libc.func(name, result, parameters) as ForeignFunction;
}

/** The address of a function of the C library, as an integer. */
export function addressOf(name: string): bigint {
  return BigInt(koffi.address(libc.symbol(name)));
}

/** Calls on this thread. Throws SystemCallError when it returns a negative number. */
export function call(syscall: string, fn: ForeignFunction, ...args: unknown[]): number {
  const result = fn(...args);
  if (result < 0) throw new SystemCallError(syscall, koffi.errno());
  return result;
}

/**
 * Calls on a pool thread. Keeps `args` referenced until the call returns, since the kernel writes into buffers among
 * them. Rejects with SystemCallError when the call returns a negative number.
 */
export function callOffLoop(syscall: string, fn: ForeignFunction, ...args: unknown[]): Promise<number> {
  return offLoop(
    () =>
      new Promise<number>((resolve, reject) => {
        fn.async(...args, (error: unknown, result: number) => {
          // koffi restores the errno of the pool thread for the duration of this callback.
          const errno = koffi.errno();
          void args; // koffi holds no reference to the buffers; this closure does
          if (error != null) reject(error);
          else if (result < 0) reject(new SystemCallError(syscall, errno));
          else resolve(result);
        });
      }),
  );
}

const poolSize = Number(process.env.UV_THREADPOOL_SIZE ?? 4) || 4;
const mayBlock = Math.max(1, Math.floor(poolSize / 2));
let blocking = 0;
const waiting: Array<() => void> = [];

/** Runs work that may occupy a pool thread for long: at most half of the pool at a time, further work queues. */
export async function offLoop<T>(run: () => Promise<T>): Promise<T> {
  if (blocking >= mayBlock) await new Promise<void>((resolve) => waiting.push(resolve));
  else blocking++;
  try {
    return await run();
  } finally {
    const next = waiting.shift();
    if (next === undefined) blocking--;
    else next();
  }
}
