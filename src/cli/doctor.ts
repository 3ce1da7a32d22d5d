/** `cofa doctor`: what this machine has and lacks, found out by trying it. */
import type { Command } from 'commander';
import { ERROR_KINDS } from '../../schemas/errors.ts';
import { type Context, examples } from './context.ts';
import type { Check } from './doctor-checks.ts';
import { printable } from '../terminal/output.ts';

export function define(command: Command, context: Context): void {
  command
    .description(
      'Check what the engine and containers need on this machine, by trying it: it mounts a tiny image and runs a container. Ends with 0 when nothing needed is missing, else with 8.',
    )
    .action(async () => {
      const { runChecks } = await import('./doctor-checks.ts');
      const checks = await runChecks(context.root, context.signal());
      const failed = checks.filter((check) => check.state === 'fail');
      context.output.data({ ok: failed.length === 0, checks }, () => render(checks));
      if (failed.length > 0) context.exit = ERROR_KINDS.environment.exit;
    });
  examples(command, [
    ['cofa doctor', ''],
    ['cofa doctor --json | jq -r \'.checks[] | select(.state != "ok") | .fix\'', 'what to install'],
  ]);
}

export function render(checks: readonly Check[]): string {
  const width = Math.max(...checks.map((check) => check.name.length));
  const lines = checks.flatMap((check) => {
    const line = `${check.state.padEnd(4)}  ${check.name.padEnd(width)}  ${printable(check.found)}`;
    if (check.state === 'ok') return [line];
    const indent = ' '.repeat(width + 8);
    return [
      line,
      ...[check.means, check.fix].filter((one) => one !== undefined).map((one) => indent + printable(one)),
    ];
  });
  const failed = checks.filter((check) => check.state === 'fail').length;
  const warned = checks.filter((check) => check.state === 'warn').length;
  const verdict =
    failed > 0
      ? `${failed} thing${failed === 1 ? '' : 's'} missing: cofa will not work here`
      : warned > 0
        ? 'cofa works here, with the limits above'
        : 'all is well';
  return `${lines.join('\n')}\n\n${verdict}\n`;
}
