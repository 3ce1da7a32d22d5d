/** `cofa uninstall`: takes back what `cofa install` has written. */
import type { Command } from 'commander';
import type { Target } from '../install/plans.ts';
import { type Context, examples, oneOf } from './context.ts';
import { addFlags, ALL_TARGETS, carryOut, type InstallFlags, pathsOf, read } from './install.ts';

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
      'containerd, docker, k8s, monitoring; all of them, and the service, without one',
      targetsOf,
    )
    .action(async (targets: string[], flags: InstallFlags) => {
      const { planUninstall } = await import('../install/plans.ts');
      const others = targets.filter((target) => target !== 'monitoring');
      const paths = pathsOf(flags);
      const isAll = targets.length === 0;
      const { monitoringUninstall } = await import('./install-monitoring.ts');
      const monitoring =
        isAll || others.length < targets.length ? await monitoringUninstall(flags, read) : [];
      const changes = [
        ...(isAll || others.length > 0 ? planUninstall({ targets: others as Target[], paths, read }) : []),
        ...monitoring,
      ];
      const changed = (path: string | undefined) => changes.some((change) => change.path === path);
      const next: string[] = [];
      if (changed(paths.containerd)) next.push('systemctl restart containerd');
      if (changed(paths.docker)) next.push('systemctl restart docker');
      if (changed(paths.unit)) next.push('systemctl disable --now cofa', 'systemctl daemon-reload');
      if (monitoring.length > 0) next.push('systemctl reload prometheus, systemctl restart grafana-server');
      await carryOut(changes, flags.dryRun === true, next, context);
    });
  examples(command, [
    ['cofa uninstall --dry-run', 'what would change'],
    ['cofa uninstall docker', 'docker alone goes back to its own store'],
    ['cofa uninstall', 'everything'],
  ]);
}
