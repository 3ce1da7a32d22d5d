/**
 * How urgent the kernel takes a process of the engine. Linux schedules threads, so all of a process get the same: those of
 * V8 and of libuv's pool as well, which its first thread waits for. Threads that begin later inherit from the one that starts
 * them.
 *
 *     first   twenty steps of nice(2) above 0: before all others, for a process that has some milliseconds left
 *     normal  as this process
 *     low     twelve steps of nice(2) below it: it gets 6 % of a processor that one other task wants, so that task is slowed by
 *             1.07 (sched_prio_to_weight in kernel/sched/core.c: 70 beside 1024)
 *     idle    SCHED_IDLE: what others leave; any other task that wakes up has the processor at once. The disk: ioprio's class "idle"
 *
 * A process that leads its session is a group of its own where the kernel groups by sessions (sched(7), "autogroup");
 * a priority counts only within the group, so the group's is set as well.
 */
import { writeFileSync } from 'node:fs';
import { getPriority } from 'node:os';
import { call, declare, type ForeignFunction } from './libc.ts';
import { readProc, statFields, threadsOf } from './proc.ts';
import { systemNumber } from './system-numbers.ts';

export type Priority = 'first' | 'normal' | 'low' | 'idle';

/** linux/sched.h */
const SCHED_OTHER = 0;
const SCHED_IDLE = 5;
/** linux/ioprio.h: the class in the upper three of 16 bits. 0: as the processor's priority says. */
const IOPRIO_WHO_PROCESS = 1;
const DISK = { first: 0, normal: 0, low: (2 << 13) | 7, idle: 3 << 13 };
/** linux/capability.h: without it nothing that was lowered can be raised again. */
const CAP_SYS_NICE = 23n;
const LOW_STEPS = 12;
const FIRST_NICE = -20;
const LAST_NICE = 19;
/** A process starts few threads while the others are looked at. */
const LOOKS = 3;

let calls: { scheduler: ForeignFunction; disk: ForeignFunction; nice: ForeignFunction } | undefined;

/**
 * Gives every thread of the process, and the group of its session where it leads one, this priority. Returns false where
 * nothing was changed: the process has ended, or this one could not raise it again. `base`: what is normal, in steps of nice(2); a
 * process that lowers itself says what it began with.
 */
export function setProcessPriority(pid: number, priority: Priority, base = getPriority()): boolean {
  const [setScheduler, setDisk] = [systemNumber('sched_setscheduler'), systemNumber('ioprio_set')];
  if (setScheduler === undefined || setDisk === undefined || !mayRaise()) return false;
  calls ??= {
    scheduler: declare('syscall', ['long', 'long', 'long', 'void *'], 'int64'),
    disk: declare('syscall', ['long', 'long', 'long', 'long'], 'int64'),
    nice: declare('setpriority', ['int', 'int', 'int']),
  };
  const { scheduler, disk, nice } = calls;
  const steps = { first: FIRST_NICE, normal: base, low: Math.min(LAST_NICE, base + LOW_STEPS), idle: base }[
    priority
  ];
  const seen = new Set<string>();
  for (let look = 0; look < LOOKS; look++) {
    const fresh = threadsOf(pid).filter((thread) => !seen.has(thread));
    if (fresh.length === 0) break;
    for (const thread of fresh) {
      seen.add(thread);
      const tid = Number(thread);
      try {
        const policy = priority === 'idle' ? SCHED_IDLE : SCHED_OTHER;
        call('sched_setscheduler', scheduler, setScheduler, tid, policy, Buffer.alloc(4));
        call('setpriority', nice, 0, tid, steps);
        call('ioprio_set', disk, setDisk, IOPRIO_WHO_PROCESS, tid, DISK[priority]);
      } catch {
        // The thread has ended.
      }
    }
  }
  if (seen.size > 0) setGroup(pid, priority);
  return seen.size > 0;
}

/**
 * Raises a process that has idle or low priority and is about to end, or to be killed.
 *
 * A thread that ends takes its own folder out of /proc. Until it has done so, the process that reaps it spins in wait4(2)
 * (shrink_dcache_parent in fs/dcache.c; Linux 7.1 has "get rid of busy-waiting in shrink_dcache_tree()"). An idle thread gets
 * no processor from one that spins: two supervisors held both processors of a machine for minutes in this way. Where many
 * wait for a processor, one of normal priority had it spin for seconds: so it is the first of all.
 */
export function raiseBeforeEnd(pid: number): void {
  const policy = policyOf(pid);
  if (policy === 'idle' || policy === 'low') setProcessPriority(pid, 'first');
}

/** Whether this process may raise what it has lowered. */
export function mayRaise(): boolean {
  const [, capabilities = '0'] = /^CapEff:\s*([0-9a-f]+)/m.exec(readProc('/proc/self/status')) ?? [];
  return ((BigInt(`0x${capabilities}`) >> CAP_SYS_NICE) & 1n) === 1n;
}

/** The scheduler's policy of a thread, as /proc/PID/stat says (field 41); undefined where there is none. */
export function policyOf(pid: number, tid = pid): Priority | 'other' | undefined {
  const stat = readProc(`/proc/${pid}/task/${tid}/stat`);
  if (stat === '') return undefined;
  const fields = statFields(stat);
  if (Number(fields[38]) === SCHED_IDLE) return 'idle';
  if (Number(fields[38]) !== SCHED_OTHER) return 'other';
  return Number(fields[16]) > getPriority() ? 'low' : 'normal';
}

/** Whether the process was started by the one that started this one: a number that comes in a message may be any process's. */
export function isSibling(pid: number): boolean {
  return Number(statFields(readProc(`/proc/${pid}/stat`))[1]) === process.ppid;
}

function setGroup(pid: number, priority: Priority): void {
  setGroupNice(pid, { first: FIRST_NICE, normal: 0, low: LOW_STEPS, idle: LAST_NICE }[priority]);
}

/** Gives the group of the session that the process leads this priority beside other sessions; changes nothing where it leads none. */
export function setGroupNice(pid: number, nice: number): void {
  // Field 6: the session. Another's group has other processes as well.
  if (Number(statFields(readProc(`/proc/${pid}/stat`))[3]) !== pid) return;
  try {
    writeFileSync(`/proc/${pid}/autogroup`, `${nice}`);
  } catch {
    // A kernel that does not group by sessions.
  }
}
