/** Descriptors of other processes (pidfd_open(2), pidfd_getfd(2); Linux 5.6). Root may copy those of any process. */
import { closeSync } from 'node:fs';
import { explain } from './errno.ts';
import { call, declare, type ForeignFunction } from './libc.ts';

/** glibc has these functions since 2.36 (Debian 12). Declared on first use, since an older glibc lacks them. */
let calls: { open: ForeignFunction; copy: ForeignFunction } | undefined;

/** A copy of another process's descriptor, close-on-exec; the caller closes it. Throws CofaError. */
export function copyDescriptor(pid: number, fd: number): number {
  try {
    calls ??= {
      open: declare('pidfd_open', ['int', 'uint']),
      copy: declare('pidfd_getfd', ['int', 'int', 'uint']),
    };
    const process = call('pidfd_open', calls.open, pid, 0);
    try {
      return call('pidfd_getfd', calls.copy, process, fd, 0);
    } finally {
      closeSync(process);
    }
  } catch (error) {
    throw explain(error, `a copy of descriptor ${fd} of process ${pid}`);
  }
}
