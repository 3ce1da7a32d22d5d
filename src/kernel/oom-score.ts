/**
 * Which process the kernel ends when memory runs out (oom_score_adj of proc(5)). The service gives the supervisor -999,
 * which every process that it starts inherits: the front end, which answers the containers' reads, and nats-server, which
 * has the log, shall live like it. What works through bytes of strangers shall not: its work is tried again, and what it
 * cannot get would otherwise be taken from the containers.
 */
import { readFileSync, writeFileSync } from 'node:fs';

/** A tenth of the memory more than an ordinary process seems to have. */
export const EXPENDABLE = 100;

/** Lets the kernel end this process rather than others. One that the kernel would end sooner stays as it is. */
export function makeExpendable(pid: number | undefined): void {
  if (pid === undefined) return;
  const path = `/proc/${pid}/oom_score_adj`;
  try {
    if (Number(readFileSync(path, 'latin1')) < EXPENDABLE) writeFileSync(path, `${EXPENDABLE}`);
  } catch {
    // It has ended already. To raise the score takes no right.
  }
}
