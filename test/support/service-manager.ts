/** A stand-in for systemd where a service stores descriptors. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import type { Cleanup } from './temp.ts';

const PROGRAM = join(import.meta.dirname, 'service-manager.py');

export interface ServiceManager {
  /** Begins the command line of a service, which runs in the same process. */
  start: string[];
  /** For NOTIFY_SOCKET, of a process that it has not started. */
  socket: string;
}

/** Runs until `cleanup`, as systemd does while its services come and go. */
export async function startServiceManager(cleanup: Cleanup): Promise<ServiceManager> {
  const folder = await cleanup.tempDir('sm');
  const child = spawn('python3', [PROGRAM, 'hold', folder], { stdio: ['pipe', 'pipe', 'inherit'] });
  cleanup.defer(async () => {
    child.stdin.end();
    if (child.exitCode === null) await once(child, 'exit');
  });
  await once(child.stdout, 'data');
  return { start: ['python3', PROGRAM, 'start', folder], socket: join(folder, 'notify') };
}
