/** The wall clock with nanoseconds, which Date has not: clock_gettime(2). */
import { call, declare } from './libc.ts';

const CLOCK_REALTIME = 0;
const clockGettime = declare('clock_gettime', ['int', 'void *']);

/** Seconds since 1970 and nanoseconds. */
export function wallClock(): { sec: number; nsec: number } {
  const timespec = Buffer.alloc(16);
  call('clock_gettime', clockGettime, CLOCK_REALTIME, timespec);
  return { sec: Number(timespec.readBigInt64LE(0)), nsec: Number(timespec.readBigInt64LE(8)) };
}
