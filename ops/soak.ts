/** The long runs behind ops/soak. */
import { randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';
import { type KillReport, killRounds, type Victim, VICTIMS } from '../test/support/kill-rounds.ts';

const { values } = parseArgs({
  options: {
    'kill-rounds': { type: 'string' },
    victims: { type: 'string' },
    readers: { type: 'string', default: '16' },
    seed: { type: 'string' },
    'read-deadline': { type: 'string', default: '30' },
    keep: { type: 'string', default: '/var/tmp/cofa-soak' },
    json: { type: 'boolean', default: false },
  },
});

function whole(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) fail(`--${name} takes a whole number, not ${text}`);
  return value;
}

function fail(message: string): never {
  console.error(`soak: ${message}`);
  process.exit(2);
}

const say = (line: string) => console.error(`soak: ${line}`);
const seed = values.seed === undefined ? randomInt(2 ** 31) : whole('seed', values.seed);
const victims = values.victims?.split(',') as Victim[] | undefined;
for (const victim of victims ?? [])
  if (!VICTIMS.includes(victim)) fail(`--victims: ${victim} is none of ${VICTIMS.join(', ')}`);
if (values['kill-rounds'] === undefined) fail('say what to do: --kill-rounds N');
say(`seed ${seed}; again: --seed ${seed}`);
const report = await killRounds({
  rounds: whole('kill-rounds', values['kill-rounds']),
  seed,
  readers: whole('readers', values.readers),
  readDeadlineMs: 1000 * whole('read-deadline', values['read-deadline']),
  keep: values.keep,
  onProgress: say,
  ...(victims === undefined ? {} : { victims }),
});
console.log(values.json ? JSON.stringify(report, null, 2) : killTable(report));
process.exit(report.violations.length === 0 ? 0 : 1);

function killTable(report: KillReport): string {
  const { mounts } = report;
  const rows: Array<[string, string | number]> = [
    ['seed', report.seed],
    ['rounds', `${report.rounds} in ${report.seconds} s`],
    ['killed', list(report.kills)],
    ['longest until all is right again, ms', list(report.recoveryMs)],
    ['reads', `${report.reads}, ${report.megabytes} MB, slowest ${report.slowestReadMs} ms`],
    ['wrong bytes', report.wrongBytes],
    ['hangs', report.hangs],
    ['failed reads while the supervisor lived', report.failedReads],
    ['failed reads while it was dead', report.failedWithoutSupervisor],
    ['mounts', `${mounts.mounted} mounted, ${mounts.unmounted} unmounted, ${mounts.refused} calls refused`],
    ['lost mounts', mounts.lost],
    ['left behind', report.leaked.length === 0 ? 'nothing' : report.leaked.join('; ')],
    ['broken rules', report.violations.length === 0 ? 'none' : ''],
  ];
  const lines = rows.map(([name, value]) => `${name.padEnd(40)} ${value}`);
  return [...lines, ...report.violations.map((text) => `  ${text}`)].join('\n');
}

function list(counts: Record<string, number>): string {
  return Object.entries(counts)
    .map(([name, count]) => `${name} ${count}`)
    .join(', ');
}
