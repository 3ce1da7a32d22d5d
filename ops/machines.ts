/** The trials behind ops/machines. */
import { randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';
import { whyNoMachines } from '../test/support/virtual/machine.ts';
import { SCENARIOS } from '../test/support/virtual/scenarios.ts';
import { type Outcome, type SystemReport, tryMachines } from '../test/support/virtual/trials.ts';
import { type SystemName, SYSTEMS } from './images/virtual-disks.ts';

const ALL = Object.keys(SYSTEMS) as SystemName[];
const { values } = parseArgs({
  options: {
    systems: { type: 'string', default: ALL.join(',') },
    scenarios: { type: 'string', default: SCENARIOS.map(({ name }) => name).join(',') },
    cuts: { type: 'string', default: '5' },
    memory: { type: 'string', default: '1536' },
    seed: { type: 'string' },
    keep: { type: 'string', default: '/var/tmp/cofa-machines' },
    list: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
  },
});

function fail(message: string, code = 2, hint?: string): never {
  console.error(`machines: ${message}`);
  if (hint !== undefined) console.error(`  hint: ${hint}`);
  process.exit(code);
}

function whole(name: string, text: string, least: number): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < least)
    fail(`--${name} takes a whole number from ${least} on, not ${text}`);
  return value;
}

function namesOf<T extends string>(option: string, text: string, known: readonly T[]): T[] {
  return text
    .split(',')
    .map(
      (word) =>
        known.find((one) => one === word) ?? fail(`--${option}: ${word} is none of ${known.join(', ')}`),
    );
}

if (values.list) {
  const rows = SCENARIOS.map(({ name, title }) => `  ${name.padEnd(12)}${title}`);
  console.log(['systems:', ...ALL.map((name) => `  ${name}`), 'scenarios:', ...rows].join('\n'));
  process.exit(0);
}
const systems = namesOf('systems', values.systems, ALL);
const scenarios = namesOf(
  'scenarios',
  values.scenarios,
  SCENARIOS.map(({ name }) => name),
);
const cuts = whole('cuts', values.cuts, 1);
const memoryMiB = whole('memory', values.memory, 512);
const seed = values.seed === undefined ? randomInt(2 ** 31) : whole('seed', values.seed, 0);
const why = whyNoMachines();
if (why !== undefined) fail(`there can be no virtual machines here: ${why.what}`, 8, why.hint);

const say = (line: string) => console.error(`machines: ${line}`);
say(`seed ${seed}; again: --seed ${seed}`);
const reports = await tryMachines({
  systems,
  scenarios,
  seed,
  cuts,
  memoryMiB,
  keep: values.keep,
  onProgress: say,
});
console.log(values.json ? JSON.stringify({ seed, systems: reports }, null, 2) : table(reports));
process.exit(reports.every(isWell) ? 0 : 1);

/** A system that could not be had is no success. */
function isWell({ outcomes }: SystemReport): boolean {
  return outcomes.length > 0 && outcomes.every(({ state }) => state !== 'failed');
}

function table(all: readonly SystemReport[]): string {
  const names = [...new Set(all.flatMap(({ outcomes }) => outcomes.map(({ scenario }) => scenario)))];
  const wide = Math.max(...all.map(({ system }) => system.length), 6) + 2;
  const row = (first: string, cells: readonly string[]) =>
    `${first.padEnd(wide)}${cells.map((cell) => cell.padEnd(12)).join('')}`.trimEnd();
  const cell = (outcome: Outcome | undefined) =>
    outcome === undefined || outcome.state === 'none'
      ? '–'
      : outcome.state === 'ok'
        ? `ok ${outcome.seconds.toFixed(0)} s`
        : 'FAILED';
  const lines = [row('system', names)];
  for (const { system, outcomes } of all)
    lines.push(
      outcomes.length === 0
        ? row(system, ['could not be made'])
        : row(
            system,
            names.map((name) => cell(outcomes.find(({ scenario }) => scenario === name))),
          ),
    );
  lines.push('');
  for (const { system, outcomes } of all)
    for (const { scenario, state, remark, step } of outcomes) {
      if (state === 'failed') lines.push(`${system}, ${scenario}: ${step}`, ...indented(remark));
      else if (remark !== '') lines.push(`${system}, ${scenario}: ${remark}`);
    }
  return lines.join('\n').trimEnd();
}

function indented(text: string): string[] {
  return text.split('\n').map((line) => `    ${line}`);
}
