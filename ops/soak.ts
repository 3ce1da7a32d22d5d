/** The long runs behind ops/soak. */
import { randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';
import { type FollowReport, followSoak } from '../test/support/follow-soak.ts';
import { soak, type SoakReport } from '../test/support/soak.ts';
import { type KillReport, killRounds, type Victim, VICTIMS } from '../test/support/kill-rounds.ts';

const { values } = parseArgs({
  options: {
    'kill-rounds': { type: 'string' },
    minutes: { type: 'string' },
    follow: { type: 'string' },
    cache: { type: 'string' },
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
say(`seed ${seed}; again: --seed ${seed}`);
if (values.follow !== undefined) {
  const report = await followSoak({ minutes: number('follow', values.follow), onProgress: say });
  console.log(values.json ? JSON.stringify(report, null, 2) : followTable(report));
  process.exit(report.follows && report.trends.every(({ isFlat }) => isFlat) ? 0 : 1);
}
const readers = whole('readers', values.readers);
if (values['kill-rounds'] !== undefined) {
  const report = await killRounds({
    rounds: whole('kill-rounds', values['kill-rounds']),
    seed,
    readers,
    readDeadlineMs: 1000 * whole('read-deadline', values['read-deadline']),
    keep: values.keep,
    onProgress: say,
    ...(victims === undefined ? {} : { victims }),
  });
  console.log(values.json ? JSON.stringify(report, null, 2) : killTable(report));
  process.exit(report.violations.length === 0 ? 0 : 1);
} else if (values.minutes !== undefined) {
  const report = await soak({
    minutes: number('minutes', values.minutes),
    seed,
    readers,
    cache: values.cache === undefined ? undefined : share(values.cache),
    onProgress: say,
  });
  console.log(values.json ? JSON.stringify(report, null, 2) : soakTable(report));
  process.exit(report.violations.length === 0 && report.trends.every(({ isFlat }) => isFlat) ? 0 : 1);
} else fail('say what to do: --kill-rounds N, --minutes N [--cache 10%], or --follow N');

function number(name: string, text: string): number {
  const value = Number(text);
  if (!(value > 0)) fail(`--${name} takes a number, not ${text}`);
  return value;
}

/** `10%` */
function share(text: string): number {
  const match = /^(\d+(?:\.\d+)?)%$/.exec(text);
  if (match === null) fail(`--cache takes a percentage of the images' bytes, such as 10%, not ${text}`);
  return Number(match[1]) / 100;
}

function trendLines(trends: SoakReport['trends']): string[] {
  return trends.map(({ name, first, last, most, perHour, isFlat }) => {
    const figures = [first, last, most, perHour].map((value) => value.toFixed(1).padStart(10));
    return `${name.padEnd(28)} ${figures.join('')}  ${isFlat ? 'flat' : 'NOT FLAT'}`;
  });
}

function followTable({ minutes, rounds, events, follows, trends }: FollowReport): string {
  return [
    `${minutes} minutes, ${rounds} rounds, ${events} events; the page ${follows ? 'is at the end of the log' : 'HAS NOT FOLLOWED'}`,
    '',
    `${'measured'.padEnd(28)} ${['first', 'last', 'most', 'an hour'].map((name) => name.padStart(10)).join('')}`,
    ...trendLines(trends),
  ].join('\n');
}

function soakTable(report: SoakReport): string {
  const megabytes = (bytes: number) => `${Math.round(bytes / (1 << 20))} MB`;
  const limit = report.cacheLimit === undefined ? 'none' : megabytes(report.cacheLimit);
  const head = [
    `seed ${report.seed}, ${report.minutes} minutes, images ${megabytes(report.imageBytes)}, cache limit ${limit}`,
    `${report.mounts} mounts, ${report.reads} reads (${report.megabytes} MB, slowest ${report.slowestReadMs} ms), ` +
      `${report.wrongBytes} wrong, ${report.failedReads} failed`,
    '',
    `${'measured'.padEnd(28)} ${['first', 'last', 'most', 'an hour'].map((name) => name.padStart(10)).join('')}`,
  ];
  const rows = trendLines(report.trends);
  const isFlat = report.trends.every((trend) => trend.isFlat);
  const end = [
    `verdict: ${isFlat ? 'flat' : 'not flat'}`,
    ...report.violations.map((text) => `broken: ${text}`),
  ];
  return [...head, ...rows, '', ...end].join('\n');
}

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
    [
      'mounts',
      `${mounts.mounted} mounted, ${mounts.unmounted} unmounted, ${mounts.refused} calls refused, ${mounts.unheard} of them carried out`,
    ],
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
