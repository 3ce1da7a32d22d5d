/** podman with a storage of its own: it touches neither the machine's images nor its containers. */
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand, type RunOptions } from './services.ts';
import { type Cleanup, mountsBelow } from './temp.ts';

/** Another one is tried when it is named. */
export const PODMAN = process.env.COFA_PODMAN ?? '/usr/bin/podman';
/** Why there are no tests with podman here; undefined: there are. */
export const noPodman: string | undefined = existsSync(PODMAN)
  ? undefined
  : `${PODMAN} is not there: ops/install test`;

export interface Podman {
  /** Its own storage. */
  graphroot: string;
  storageConf: string;
  /** Runs podman(1) and returns stdout; throws with stderr. */
  podman(args: string[], options?: RunOptions): Promise<string>;
  /** `podman run --rm`. */
  run(ref: string, ...command: string[]): Promise<string>;
  /** Options of a container, for `create` and `run`. */
  container: string[];
}

/** `configure` gets the path of its storage.conf. */
export async function startPodman(
  cleanup: Cleanup,
  work: string,
  configure: (storageConf: string) => Promise<void> = async () => {},
): Promise<Podman> {
  const folders = ['storage', 'run', 'tmp', 'scratch'].map((name) => join(work, name));
  const [graphroot, runroot, tmp, scratch] = folders as [string, string, string, string];
  for (const folder of folders) await mkdir(folder, { recursive: true });
  const storageConf = join(work, 'storage.conf');
  await writeFile(
    storageConf,
    `[storage]\ndriver = "overlay"\nrunroot = "${runroot}"\ngraphroot = "${graphroot}"\n\n[storage.options]\n# none yet\n`,
  );
  await configure(storageConf);
  const own = [
    '--tmpdir',
    tmp,
    '--cgroup-manager',
    'cgroupfs',
    '--events-backend',
    'file',
    '--runtime',
    'runc',
  ];
  const podman = (args: string[], options: RunOptions = {}) =>
    runCommand(PODMAN, [...own, ...args], {
      timeoutMs: 60_000,
      ...options,
      env: {
        CONTAINERS_STORAGE_CONF: storageConf,
        PODMAN_IGNORE_CGROUPSV1_WARNING: '1',
        TMPDIR: scratch,
        ...options.env,
      },
    });
  cleanup.defer(async () => {
    await podman(['rm', '--all', '--force', '--time', '0']).catch(() => {});
    // What podman mounts for itself.
    for (const point of mountsBelow(work).toReversed())
      await runCommand('umount', ['-l', '--', point]).catch(() => {});
  });
  // Limits that any machine grants.
  const container = ['--network', 'host', '--ulimit', 'nofile=1024:1024', '--ulimit', 'nproc=4096:4096'];
  const run = (ref: string, ...command: string[]) => podman(['run', '--rm', ...container, ref, ...command]);
  return { graphroot, storageConf, podman, run, container };
}
