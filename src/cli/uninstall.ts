/** `cofa uninstall`: takes back what `cofa install` has written. */
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { toErrorRecord } from '../../schemas/errors.ts';
import { type Target, TARGETS } from '../install/plans.ts';
import { type Context, examples, oneOf } from './context.ts';
import { podmanUninstall, STORAGE_TARGETS } from './install-podman.ts';
import {
  addFlags,
  ALL_TARGETS,
  carryOut,
  DOCKERS,
  type InstallFlags,
  NAMESPACES,
  pathsOf,
  read,
} from './install.ts';

const target = oneOf('target', ALL_TARGETS);
const targetsOf = Object.assign(
  (text: string, before: string[] = []): string[] => [...before, target(text)],
  { choices: ALL_TARGETS },
);

export function define(command: Command, context: Context): void {
  addFlags(command)
    .description(
      'Take back what cofa install has written. Other settings in the same files stay. Nothing is restarted.',
    )
    .argument(
      '[target...]',
      'containerd, docker, k8s, podman, crio, monitoring; all of them, and the service, without one',
      targetsOf,
    )
    .action(async (targets: string[], flags: InstallFlags) => {
      const { planUninstall } = await import('../install/plans.ts');
      const others = targets.filter((target) => (TARGETS as readonly string[]).includes(target));
      const paths = pathsOf(flags);
      const isAll = targets.length === 0;
      const { monitoringUninstall } = await import('./install-monitoring.ts');
      const wants = (target: string) => isAll || targets.includes(target);
      const monitoring = wants('monitoring') ? await monitoringUninstall(flags, read) : [];
      const podman = STORAGE_TARGETS.some(wants) ? podmanUninstall(flags, read) : [];
      const changes = [
        ...(isAll || others.length > 0 ? planUninstall({ targets: others as Target[], paths, read }) : []),
        ...monitoring,
        ...podman,
      ];
      const changed = (path: string | undefined) => changes.some((change) => change.path === path);
      const next: string[] = [];
      if (changed(paths.containerd)) next.push('systemctl restart containerd');
      if (changed(paths.docker)) next.push('systemctl restart docker');
      if (changed(paths.unit)) next.push('systemctl disable --now cofa', 'systemctl daemon-reload');
      if (podman.some(({ why }) => why.startsWith('CRI-O'))) next.push('systemctl restart crio');
      if (monitoring.length > 0) next.push('systemctl reload prometheus, systemctl restart grafana-server');
      // While containerd and cofa still run together.
      const namespaces = wants('containerd') ? NAMESPACES : targets.includes('docker') ? [DOCKERS] : [];
      if (namespaces.length > 0 && flags.dryRun !== true && process.getuid?.() === 0)
        await forgetBlobs(namespaces, context);
      await carryOut(changes, flags.dryRun === true, next, context);
    });
  examples(command, [
    ['cofa uninstall --dry-run', 'what would change'],
    ['cofa uninstall docker', 'docker alone goes back to its own store'],
    ['cofa uninstall', 'everything'],
  ]);
}

/** An entry that the snapshotter was about to make is there after this, ms. */
const LATE_MS = 500;
const MOST_LOOKS = 10;

/**
 * Without cofa containerd would look for files that no longer are, and a pull would not fetch them. A snapshotter that runs adds
 * no entries from now on.
 */
async function forgetBlobs(namespaces: readonly string[], context: Context): Promise<void> {
  const [{ connectContainerd, findSocket }, { forgetLazy }, { hideBlobs }, { Layout }] = await Promise.all([
    import('../containerd/client.ts'),
    import('../containerd/lazy-content.ts'),
    import('../store/hidden-blobs.ts'),
    import('../store/layout.ts'),
  ]);
  const { root } = context;
  if (existsSync(root)) await hideBlobs(new Layout(root).hiddenBlobs(), namespaces);
  let socket: string;
  try {
    socket = findSocket(undefined);
  } catch {
    return;
  }
  for (const namespace of namespaces) {
    const containerd = connectContainerd(socket, namespace);
    try {
      for (let looks = 1; (await forgetLazy(containerd)) > 0 && looks < MOST_LOOKS; looks++)
        await sleep(LATE_MS);
    } catch (error) {
      context.output.warn(
        `containerd keeps entries of layers that stay in the registry (namespace ${namespace}: ${toErrorRecord(error).message}); where a pull misses one, remove the image and pull it again`,
      );
    } finally {
      containerd.close();
    }
  }
}
