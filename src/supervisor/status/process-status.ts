/** The engine's processes in `status`. */
import { readFileSync } from 'node:fs';
import type { ProcessStatus } from '../../../schemas/api.ts';

const PAGE_BYTES = 4096;

/** The supervisor first, then its children; each with the memory that it takes, where the kernel says that. */
export function processStatus(
  self: { pid: number; since: Date },
  children: readonly ProcessStatus[],
): ProcessStatus[] {
  const supervisor: ProcessStatus = {
    role: 'supervisor',
    name: 'supervisor',
    pid: self.pid,
    state: 'running',
    since: self.since.toISOString(),
    restarts: 0,
  };
  return [supervisor, ...children].map((status) => {
    const rssBytes = residentBytes(status.pid);
    return rssBytes === undefined ? status : { ...status, rssBytes };
  });
}

function residentBytes(pid: number): number | undefined {
  try {
    const pages = readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1];
    return Number(pages) * PAGE_BYTES;
  } catch {
    return undefined;
  }
}
