/** Systems × scenarios: what `ops/machines` prints and test/ops/machines.test.ts tries a part of. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type SystemName, SYSTEMS, virtualDisk } from '../../../ops/images/virtual-disks.ts';
import { Random } from '../random.ts';
import { Cleanup } from '../temp.ts';
import { VirtualMachine } from './machine.ts';
import { OLDEST_KERNEL, SCENARIOS, type Scenario } from './scenarios.ts';
import { NotHere, StepFailed, Trial } from './trial.ts';
import { makeWorld, type World } from './world.ts';

export interface Outcome {
  scenario: string;
  /** `none`: it does not apply here, or what it builds upon has failed. */
  state: 'ok' | 'failed' | 'none';
  seconds: number;
  /** What is worth to be known; of a failure what was seen. */
  remark: string;
  /** Of a failure. */
  step?: string;
}

export interface SystemReport {
  system: SystemName;
  /** Undefined where the system could not be had. */
  kernel?: string;
  outcomes: Outcome[];
}

export interface TrialsOptions {
  systems: readonly SystemName[];
  /** Others that these build upon are run, too. */
  scenarios: readonly string[];
  seed: number;
  cuts: number;
  memoryMiB: number;
  /** What failed machines have said. */
  keep?: string;
  onProgress: (line: string) => void;
}

/** Mounted side by side in the scenario with power cuts. */
const IMAGES = 4;

/** Those that are named, and those that they build upon, in order. */
export function withNeeds(names: readonly string[]): Scenario[] {
  const wanted = new Set<string>();
  const add = (name: string): void => {
    for (const need of SCENARIOS.find((one) => one.name === name)?.needs ?? []) add(need);
    wanted.add(name);
  };
  for (const name of names) add(name);
  return SCENARIOS.filter(({ name }) => wanted.has(name));
}

/** Tries one system after the other; no more than one machine runs at a time. */
export async function tryMachines(options: TrialsOptions): Promise<SystemReport[]> {
  const cleanup = new Cleanup();
  try {
    let world: World | undefined;
    const reports: SystemReport[] = [];
    for (const system of options.systems) {
      const say = (line: string) => options.onProgress(`${system}: ${line}`);
      const disk = await virtualDisk(system, { onProgress: say });
      if (disk === undefined) {
        reports.push({ system, outcomes: [] });
        continue;
      }
      world ??= await makeWorld(cleanup, {
        images: IMAGES,
        seed: options.seed,
        onProgress: options.onProgress,
      });
      const own = new Cleanup();
      try {
        const number = SYSTEMS[system].kernel;
        const kernel = disk.kernels[number]?.version ?? '';
        const folder = await own.tempDir('vm');
        const machine = await VirtualMachine.make(own, {
          disk,
          kernel: number,
          files: world.files,
          folder,
          memoryMiB: options.memoryMiB,
          onProgress: say,
        });
        const random = new Random(options.seed);
        const trial = new Trial({ system, kernel, machine, world, random, cuts: options.cuts, say });
        reports.push({ system, kernel, outcomes: await trySystem(trial, options) });
      } finally {
        await own.run();
      }
    }
    return reports;
  } finally {
    await cleanup.run();
  }
}

async function trySystem(trial: Trial, options: TrialsOptions): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  const boot: Scenario = {
    name: 'boot',
    title: 'the system itself',
    needs: [],
    run: async () => {
      await trial.step('it boots', () => trial.machine.boot());
      return (await trial.step('its kernel', () => trial.machine.sh('uname -r'))).trim();
    },
  };
  for (const scenario of [boot, ...withNeeds(options.scenarios)]) {
    const outcome = await tryOne(trial, scenario);
    if (outcome.state === 'ok') trial.passed.add(scenario.name);
    if (outcome.state === 'failed') await keepWhatItSaid(trial, outcome, options);
    trial.say(`${scenario.name}: ${outcome.state}${outcome.remark === '' ? '' : ` (${outcome.remark})`}`);
    outcomes.push(outcome);
    if (scenario === boot && outcome.state !== 'ok') break;
  }
  return outcomes;
}

async function tryOne(trial: Trial, scenario: Scenario): Promise<Outcome> {
  const since = performance.now();
  const ended = (state: Outcome['state'], remark: string, step?: string): Outcome => ({
    scenario: scenario.name,
    state,
    seconds: Math.round((performance.now() - since) / 100) / 10,
    remark,
    ...(step === undefined ? {} : { step }),
  });
  const missing = scenario.needs.filter((need) => !trial.passed.has(need));
  if (missing.length > 0) return ended('none', `without ${missing.join(', ')}`);
  if (scenario.needs.length > 0 && trial.kernel < OLDEST_KERNEL)
    return ended('none', 'the kernel is too old');
  try {
    return ended('ok', await scenario.run(trial));
  } catch (error) {
    if (error instanceof NotHere) return ended('none', error.message);
    if (error instanceof StepFailed) return ended('failed', error.message, error.step);
    return ended(
      'failed',
      error instanceof Error ? (error.stack ?? error.message) : String(error),
      'the trial itself',
    );
  }
}

/** Journal, logs and console of a machine in which something failed. */
async function keepWhatItSaid(trial: Trial, outcome: Outcome, { keep }: TrialsOptions): Promise<void> {
  if (keep === undefined) return;
  const folder = join(keep, `${trial.system}-${outcome.scenario}`);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'outcome'), `${outcome.step}\n${outcome.remark}\n`);
  writeFileSync(join(folder, 'console'), trial.machine.console(), 'latin1');
  for (const [name, script] of LOOKS) {
    const said = await trial.machine.tried(script, 60_000).then(
      (ran) => ran.said,
      (error: unknown) => String(error),
    );
    writeFileSync(join(folder, name), said);
  }
  trial.say(`what it said is in ${folder}`);
}

const LOOKS = [
  ['journal', 'journalctl --no-pager --lines 3000'],
  ['status', 'cofa status --layers; cofa ps; findmnt; df -h; free -m; true'],
  ['doctor', 'cofa doctor; true'],
  ['events', 'cofa events --since-start --no-follow | tail -n 3000; true'],
  ['logs', 'tail -n 400 /var/lib/cofa/log/*.log; true'],
] as const;
