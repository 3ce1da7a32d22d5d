/**
 * A root folder as a machine of its own: a mount namespace and a process namespace, in which the folder is the root (by
 * pivot_root(2), since runc wants a real mount point), with /proc, /sys, /dev and cgroups. The network is this machine's.
 * The folder itself is not changed: an overlay lies above it; where cofa and tests keep things is a folder of the disk.
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { eventually } from './engine.ts';
import type { Cleanup } from './temp.ts';

export interface RootMachine {
  /** Seen inside as /host. */
  shared: string;
  /** Runs a shell script in it. Resolves with the exit code and all that was said. */
  run(script: string, timeoutMs?: number, environment?: NodeJS.ProcessEnv): Promise<Ran>;
  /** Runs a shell script in it, with this process's terminal or files. Resolves with the exit code. */
  lend(script: string, environment?: NodeJS.ProcessEnv): Promise<number | null>;
  /** Starts its systemd, which runs until cleanup; resolves with what runs a script beside it. */
  boot(): Promise<(script: string, timeoutMs?: number) => Promise<Ran>>;
}

export interface Ran {
  code: number | null;
  said: string;
}

export interface RootMachineOptions {
  /** Folder that keeps what is changed, for the next one; by default a temporary folder. */
  at?: string;
  /** Folders of this machine that are there as well, at the same places. */
  with?: readonly string[];
}

/** Where the kernel has groups of version 2, which systemd wants; beside those of version 1 on some machines. */
const GROUPS = ['/sys/fs/cgroup/unified', '/sys/fs/cgroup'].find((folder) =>
  existsSync(join(folder, 'cgroup.procs')),
);

/** On a busy machine; alone it takes some seconds. */
const BOOT_MS = 120_000;

/** Whether a systemd can be the first process of a root. */
export const canBoot = GROUPS !== undefined;

/** `lowers`: the root, and folders above it, the lowest first. */
export async function rootMachine(
  cleanup: Cleanup,
  lowers: readonly string[],
  options: RootMachineOptions = {},
): Promise<RootMachine> {
  const folder = options.at ?? (await cleanup.tempDir('machine'));
  const at = (name: string) => join(folder, name);
  for (const name of ['upper', 'work', 'root', 'state', 'tmp', 'shared'])
    mkdirSync(at(name), { recursive: true });
  const overlay = `lowerdir=${lowers.toReversed().join(':')},upperdir=${at('upper')},workdir=${at('work')}`;
  const inNamespaces = ['--mount', '--propagation', 'private', '--pid', '--fork', '--kill-child=KILL'];
  const machine = [at('root'), overlay, folder];
  const more = (options.with ?? []).map((one) => `mkdir -p '.${one}'; mount --rbind '${one}' '.${one}'\n`);
  const setUp = MOUNTS + more.join('') + PIVOT;
  const runs = (script: string) => [
    ...inNamespaces,
    'sh',
    '-euc',
    setUp + RUN,
    'machine',
    ...machine,
    script,
  ];
  return {
    shared: at('shared'),
    run: (script, timeoutMs, environment) => ran('unshare', runs(script), timeoutMs, environment),
    lend: async (script, environment = {}) => {
      const env = { ...ENVIRONMENT(), ...environment };
      const child = spawn('unshare', runs(script), { stdio: 'inherit', env });
      const [code] = (await once(child, 'exit')) as [number | null];
      return code;
    },
    boot: async () => {
      const group = join(GROUPS as string, `cofa-machine-${basename(folder)}`);
      mkdirSync(group);
      const script = `echo $$ > ${group}/cgroup.procs; exec "$@"`;
      const unshare = ['unshare', ...inNamespaces, '--uts', '--ipc', '--cgroup'];
      const args = ['-euc', script, 'sh', ...unshare, 'sh', '-euc', setUp + BOOT, 'machine', ...machine];
      const child = spawn('sh', args, { stdio: 'ignore', env: { ...ENVIRONMENT(), container: 'cofa' } });
      const ended = once(child, 'exit');
      cleanup.defer(async () => {
        child.kill('SIGKILL');
        await ended;
        await eventually('its groups are empty', () => {
          execFileSync(
            'find',
            [group, '-depth', '-type', 'd', '-exec', 'rmdir', '--ignore-fail-on-non-empty', '{}', '+'],
            { stdio: 'ignore' },
          );
          return !existsSync(group);
        });
      });
      const first = await eventually(
        'systemd',
        () => readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').trim() || undefined,
      );
      const enter = ['-t', first, '-m', '-p', '-u', '-i', '-C', '-r', '-w', 'sh', '-euc'];
      const call = (script: string, timeoutMs?: number) => ran('nsenter', [...enter, script], timeoutMs);
      await eventually(
        'systemd is done',
        async () => /running|degraded/.test((await call('systemctl is-system-running || true')).said),
        BOOT_MS,
      );
      return call;
    },
  };
}

function ran(
  command: string,
  args: string[],
  timeoutMs = 240_000,
  environment: NodeJS.ProcessEnv = {},
): Promise<Ran> {
  return new Promise((resolve, reject) => {
    const env = { ...ENVIRONMENT(), ...environment };
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], env });
    let said = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (bytes: Buffer) => (said += bytes.toString()));
    const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
    child.once('error', reject);
    child.once('close', (code) => {
      clearTimeout(timer);
      resolve({ code, said });
    });
  });
}

const MOUNTS = `
mount -t overlay overlay -o "$2" "$1"
cd "$1"
mkdir -p proc sys dev run tmp host var/lib/cofa .old
chmod 1777 "$3/tmp"
mount -t proc proc proc
mount -t sysfs sysfs sys
[ "\${container:-}" != "" ] || mount --rbind /sys/fs/cgroup sys/fs/cgroup
[ "\${container:-}" = "" ] || mount -t cgroup2 cgroup2 sys/fs/cgroup
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount --bind "$3/state" var/lib/cofa
mount --bind "$3/tmp" tmp
mount --bind "$3/shared" host
`;
const PIVOT = `
pivot_root . .old
umount -l .old
cd /
`;
const RUN = 'exec sh -euc "$4"';

/** Nothing of this machine is changed: neither names in /dev nor settings of the kernel. */
const MASKED = [
  'systemd-journald-dev-log.socket',
  'systemd-initctl.socket',
  'systemd-udevd.service',
  'systemd-binfmt.service',
  'proc-sys-fs-binfmt_misc.automount',
  // Nobody logs in.
  'getty.target',
  'console-getty.service',
  'systemd-logind.service',
  'systemd-sysctl.service',
  'systemd-modules-load.service',
  ...['-dev-early', '-dev', ''].map((part) => `systemd-tmpfiles-setup${part}.service`),
];
const BOOT = `mount --make-rshared /
for name in ${MASKED.join(' ')}; do ln -sf /dev/null /etc/systemd/system/$name; done
exec /lib/systemd/systemd --show-status=no systemd.unit=multi-user.target
`;

/** The marks of the test run, and nothing else of this machine. */
const ENVIRONMENT = (): NodeJS.ProcessEnv => ({
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  HOME: '/root',
  LANG: 'C.UTF-8',
  DEBIAN_FRONTEND: 'noninteractive',
  COFA_TEST_RUN: process.env.COFA_TEST_RUN,
});
