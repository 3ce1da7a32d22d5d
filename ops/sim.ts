/** The simulation behind ops/sim. */
import { randomInt } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { runSeeds, type SeedsReport, showSeed, unmetSentence } from '../test/support/machine/run-seeds.ts';
import { SABOTAGES, type Sabotage } from '../test/support/machine/sabotage.ts';

const { values } = parseArgs({
  options: {
    seeds: { type: 'string' },
    seed: { type: 'string' },
    jobs: { type: 'string', default: String(availableParallelism()) },
    sabotage: { type: 'string' },
    'keep-going': { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
  },
});

function fail(message: string): never {
  console.error(`sim: ${message}`);
  process.exit(2);
}

function whole(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1)
    fail(`--${name} takes a whole number from 1 on, not ${text}`);
  return value;
}

const say = (line: string) => console.error(`sim: ${line}`);
const first = values.seed === undefined ? randomInt(1, 2 ** 31) : whole('seed', values.seed);
const jobs = whole('jobs', values.jobs);
const { sabotage } = values;
if (sabotage !== undefined && sabotage !== 'all' && !(SABOTAGES as readonly string[]).includes(sabotage))
  fail(`--sabotage: ${sabotage} is none of ${SABOTAGES.join(', ')}, all`);

if (sabotage === 'all') await tryAll();
else if (values.seed !== undefined && values.seeds === undefined)
  await showOne(sabotage as Sabotage | undefined);
else await runMany(sabotage as Sabotage | undefined);

async function showOne(mistake: Sabotage | undefined): Promise<void> {
  const result = await showSeed(first, mistake, (line) => {
    if (!values.json) console.log(line);
  });
  if (values.json) console.log(JSON.stringify(result, null, 2));
  else console.log('message' in result ? result.message : result);
  process.exitCode = 'message' in result ? 1 : 0;
}

async function runMany(mistake: Sabotage | undefined): Promise<void> {
  const count = whole('seeds', values.seeds ?? '1000');
  say(`seeds ${first} to ${first + count - 1}, ${jobs} side by side`);
  let told = performance.now();
  const report = await runSeeds({
    first,
    count,
    jobs,
    sabotage: mistake,
    keepGoing: values['keep-going'],
    onProgress: (done, failures) => {
      if (performance.now() - told < 5_000) return;
      told = performance.now();
      say(`${done} of ${count}, ${failures} broke a rule`);
    },
  });
  if (values.json) console.log(JSON.stringify(report, null, 2));
  else print(report);
  if (report.unmet.length > 0) say(unmetSentence(report.unmet));
  process.exitCode = report.failures.length + report.unmet.length === 0 ? 0 : 1;
}

function print(report: SeedsReport): void {
  const { seeds, seconds, seedsPerSecond, simulatedHours, events, failures, met } = report;
  console.log(`seeds        ${seeds} in ${seconds.toFixed(1)} s, ${seedsPerSecond.toFixed(1)} a second`);
  console.log(`simulated    ${simulatedHours.toFixed(1)} hours, ${events} events`);
  for (const [what, times] of Object.entries(met).sort()) console.log(`  ${what.padEnd(34)} ${times}`);
  console.log(`broken rules ${failures.length === 0 ? 'none' : failures.length}`);
  for (const { seed, message } of failures.slice(0, 20)) {
    console.log(`  ${message.split('\n')[0]}`);
    console.log(`  again: ops/sim --seed ${seed}`);
  }
}

/** After how many seeds each mistake is found: the median of several starts. */
async function tryAll(): Promise<void> {
  const starts = 5;
  const most = whole('seeds', values.seeds ?? '1000');
  const rows: Array<{ sabotage: Sabotage; found: number[]; rule: string }> = [];
  for (const mistake of SABOTAGES) {
    const found: number[] = [];
    let rule = '';
    for (let start = 0; start < starts; start++) {
      const from = first + start * 1_000_000;
      const report = await runSeeds({ first: from, count: most, jobs: 1, sabotage: mistake });
      const failure = report.failures[0];
      found.push(failure === undefined ? Number.POSITIVE_INFINITY : failure.seed - from + 1);
      rule ||= (failure?.message.split('\n')[0] ?? '').replace(/^.*? ms: /, '').slice(0, 90);
    }
    found.sort((a, b) => a - b);
    rows.push({ sabotage: mistake, found, rule });
    say(`${mistake}: found after ${found.join(', ')} seeds`);
  }
  if (values.json) console.log(JSON.stringify(rows, null, 2));
  else
    for (const { sabotage: mistake, found, rule } of rows)
      console.log(
        `${mistake.padEnd(20)} ${String(found[Math.floor(starts / 2)]).padStart(6)} seeds  ${rule}`,
      );
  process.exitCode = rows.every(({ found }) => found.every(Number.isFinite)) ? 0 : 1;
}
