/**
 * A root folder as a machine of its own: a mount namespace and a process namespace, in which the folder is the root (by
 * pivot_root(2), since runc wants a real mount point), with /proc, /sys, /dev and cgroups. The network is this machine's.
 * The folder itself is not changed: an overlay lies above it; where cofa and tests keep things is a folder of the disk.
 */
import { spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Cleanup } from './temp.ts';

export interface RootMachine {
  /** Seen inside as /host. */
  shared: string;
  /** Runs a shell script in it. Resolves with the exit code and all that was said. */
  run(script: string, timeoutMs?: number): Promise<{ code: number | null; said: string }>;
}

/** `lowers`: the root, and folders above it, the lowest first. */
export async function rootMachine(cleanup: Cleanup, lowers: readonly string[]): Promise<RootMachine> {
  const folder = await cleanup.tempDir('machine');
  const at = (name: string) => join(folder, name);
  for (const name of ['upper', 'work', 'root', 'state', 'tmp', 'shared']) mkdirSync(at(name));
  const overlay = `lowerdir=${lowers.toReversed().join(':')},upperdir=${at('upper')},workdir=${at('work')}`;
  return {
    shared: at('shared'),
    run: (script, timeoutMs = 240_000) =>
      new Promise((resolve, reject) => {
        const namespaces = ['--mount', '--propagation', 'private', '--pid', '--fork', '--kill-child=KILL'];
        const args = [...namespaces, 'sh', '-euc', SET_UP, 'machine', at('root'), overlay, folder, script];
        const child = spawn('unshare', args, { stdio: ['ignore', 'pipe', 'pipe'], env: ENVIRONMENT() });
        let said = '';
        for (const stream of [child.stdout, child.stderr])
          stream.on('data', (bytes: Buffer) => (said += bytes.toString()));
        const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
        child.once('error', reject);
        child.once('close', (code) => {
          clearTimeout(timer);
          resolve({ code, said });
        });
      }),
  };
}

const SET_UP = `
mount -t overlay overlay -o "$2" "$1"
cd "$1"
mkdir -p proc sys dev run tmp host var/lib/cofa .old
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount --bind "$3/state" var/lib/cofa
mount --bind "$3/tmp" tmp
mount --bind "$3/shared" host
pivot_root . .old
umount -l .old
cd /
exec sh -euc "$4"
`;

/** The marks of the test run, and nothing else of this machine. */
const ENVIRONMENT = (): NodeJS.ProcessEnv => ({
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  HOME: '/root',
  LANG: 'C.UTF-8',
  DEBIAN_FRONTEND: 'noninteractive',
  COFA_TEST_RUN: process.env.COFA_TEST_RUN,
});
