/** `cofa uninstall`: takes back what `cofa install` has written. */
import type { Command } from 'commander';
import { type Target, TARGETS } from '../install/plans.ts';
import { type Context, examples, oneOf } from './context.ts';
import { addFlags, carryOut, type InstallFlags, pathsOf, read } from './install.ts';

const target = oneOf('target', TARGETS);
const targetsOf = Object.assign(
  (text: string, before: string[] = []): string[] => [...before, target(text)],
  { choices: TARGETS },
);

export function define(command: Command, context: Context): void {
  addFlags(command)
    .description(
      'Take back what cofa install has written. Other settings in the same files stay. Nothing is restarted.',
    )
    .argument('[target...]', 'containerd, docker, k8s; all of them, and the service, without one', targetsOf)
    .action(async (targets: string[], flags: InstallFlags) => {
      const { planUninstall } = await import('../install/plans.ts');
      const paths = pathsOf(flags);
      const changes = planUninstall({ targets: targets as Target[], paths, read });
      const changed = (path: string | undefined) => changes.some((change) => change.path === path);
      const next: string[] = [];
      if (changed(paths.containerd)) next.push('systemctl restart containerd');
      if (changed(paths.docker)) next.push('systemctl restart docker');
      if (changed(paths.unit)) next.push('systemctl disable --now cofa', 'systemctl daemon-reload');
      await carryOut(changes, flags.dryRun === true, next, context);
    });
  examples(command, [
    ['cofa uninstall --dry-run', 'what would change'],
    ['cofa uninstall docker', 'docker alone goes back to its own store'],
    ['cofa uninstall', 'everything'],
  ]);
}
