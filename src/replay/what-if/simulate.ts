/** A recorded start, run again under other conditions: the program's reads through the engine's actors, in simulated time. */
import { CofaError } from '../../../schemas/errors.ts';
import { SimulatedClock } from './clock.ts';
import { Link } from './link.ts';
import { SimulatedNode } from './node.ts';
import { Processors } from './processors.ts';
import type {
  LinkState,
  OrderedRun,
  Outcome,
  PhaseCost,
  Policy,
  ProgramRead,
  Recording,
} from './recording.ts';

export interface Conditions {
  link: LinkState;
  policy: Policy;
}

/**
 * What a connection may have on its way, bytes. Linux lets a receiver's buffer grow to 6 MiB and offers half of it as the window
 * (Documentation/networking/ip-sysctl.rst: tcp_rmem, tcp_adv_win_scale).
 */
const WINDOW_BYTES = 3 << 20;
/** A start that takes longer is none, ms. */
const LIMIT_MS = 24 * 3_600_000;

/** How the start would go, in one go. Error: as of `simulation`. */
export const simulate = (recording: Recording, conditions: Conditions): Outcome =>
  finished(simulation(recording, conditions));

/** Runs steps to their end, without their pauses. */
export function finished<T>(steps: Generator<void, T>): T {
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value;
  }
}

/** How the start would go; it pauses every some milliseconds. Error: `unavailable` where it does not end in a day. */
export function* simulation(recording: Recording, { link, policy }: Conditions): Generator<void, Outcome> {
  const clock = new SimulatedClock();
  const wire = new Link(clock, { ...link, windowBytes: WINDOW_BYTES });
  const processors = new Processors(clock, policy.cores);
  const { costs, layers, present } = inBlocks(recording, policy.block);
  const node = new SimulatedNode({ clock, link: wire, processors, costs, policy, layers, present });
  const phases = recording.phases.map((phase) => ({ ...phase, now: underLink(phase, recording.link, link) }));
  const lengthOf = (name: PhaseCost['phase']) => phases.find(({ phase }) => phase === name)?.now ?? 0;
  const resolvedAt = lengthOf('resolve');
  const preparedAt = resolvedAt + lengthOf('prepare');
  const attachedAt = preparedAt + lengthOf('attach');

  const { packBytes } = recording;
  if (policy.ahead === 'pack' && packBytes !== undefined) {
    const runs = resized(recording.packed, recording, policy.block);
    const askAt = Math.min(
      preparedAt,
      resolvedAt + recording.packAfterMs + link.rttMs - recording.link.rttMs,
    );
    clock.at(Math.max(resolvedAt, askAt), () => node.askForPack(runs, packBytes));
  }
  const run = new ProgramRun(recording, node, clock, processors);
  clock.at(attachedAt, () => {
    node.attach();
    if (policy.ahead === 'pack') node.release();
    else if (policy.ahead !== 'nothing') node.aim(resized(recording.foretold.runs, recording, policy.block));
    run.begin(policy.block);
  });
  if (!(yield* clock.run(() => run.isOver, LIMIT_MS)))
    throw new CofaError('unavailable', 'the start would take more than a day under these conditions');
  const us = (ms: number) => Math.round(ms * 1_000);
  const { tailMs } = recording;
  const { waits } = run;
  const lengths = waits.map(({ ms }) => ms).sort((a, b) => a - b);
  return {
    us: us(run.endedAt),
    endUs: tailMs === undefined ? undefined : us(run.endedAt + tailMs),
    phases: [
      ...phases.map(({ phase, now }) => ({ phase, us: us(now) })),
      { phase: 'reads', us: us(run.endedAt - attachedAt) },
    ],
    reads: {
      count: recording.reads.length,
      waited: waits.length,
      failed: run.failed,
      waitedUs: us(lengths.reduce((sum, one) => sum + one, 0)),
      blockedUs: us(blockedMs(waits)),
      p50Us: us(lengths[Math.max(0, Math.ceil(lengths.length / 2) - 1)] ?? 0),
      maxUs: us(lengths.at(-1) ?? 0),
    },
    bytes: {
      sidecar: phases.reduce((sum, { bytes }) => sum + bytes, 0),
      pack: Math.round(node.bytes.pack),
      demand: Math.round(node.bytes.demand),
      ahead: Math.round(node.bytes.ahead),
      rest: Math.round(node.bytes.rest),
    },
    requests: node.requests,
  };
}

/** What a phase takes over another link than the one over which it was recorded, ms. */
function underLink({ ms, trips, bytes }: PhaseCost, was: LinkState, is: LinkState): number {
  const transfer = (rate: number) => (bytes * 8_000) / rate;
  const own = Math.max(0, ms - trips * was.rttMs - transfer(was.rate));
  return own + trips * is.rttMs + transfer(is.rate);
}

interface Wait {
  at: number;
  ms: number;
}

/** Time in which at least one read waited, ms. */
function blockedMs(waits: readonly Wait[]): number {
  let sum = 0;
  let until = Number.NEGATIVE_INFINITY;
  for (const { at, ms } of waits.toSorted((a, b) => a.at - b.at)) {
    sum += Math.max(0, at + ms - Math.max(until, at));
    until = Math.max(until, at + ms);
  }
  return sum;
}

/** The program: each read comes when the one before it was answered and what it computes in between is done. */
class ProgramRun {
  readonly #recording: Recording;
  readonly #node: SimulatedNode;
  readonly #clock: SimulatedClock;
  readonly #processors: Processors;
  /** By read: those that come after it. */
  readonly #after = new Map<number | undefined, number[]>();
  #left: number;
  readonly waits: Wait[] = [];
  failed = 0;
  endedAt = 0;

  constructor(recording: Recording, node: SimulatedNode, clock: SimulatedClock, processors: Processors) {
    this.#recording = recording;
    this.#node = node;
    this.#clock = clock;
    this.#processors = processors;
    this.#left = recording.reads.length;
    for (const [index, { after }] of recording.reads.entries()) {
      const list = this.#after.get(after);
      if (list === undefined) this.#after.set(after, [index]);
      else list.push(index);
    }
  }

  get isOver(): boolean {
    return this.#left === 0 && this.#hasBegun;
  }

  #hasBegun = false;

  begin(block: number | undefined): void {
    this.#hasBegun = true;
    this.endedAt = this.#clock.now;
    this.#goOn(undefined, block);
  }

  /** What comes after the read: the program computes up to each of them. */
  #goOn(after: number | undefined, block: number | undefined): void {
    for (const index of this.#after.get(after) ?? []) {
      const read = this.#recording.reads[index] as ProgramRead;
      this.#processors.compute(read.thinkMs, () => this.#read(index, read, block));
    }
  }

  #read(index: number, read: ProgramRead, block: number | undefined): void {
    const at = this.#clock.now;
    const [run] = resized([read], this.#recording, block);
    this.#node.read(run ?? read, (how) => {
      this.endedAt = this.#clock.now;
      if (how !== 'present') this.waits.push({ at, ms: this.#clock.now - at });
      if (how === 'failed') this.failed += 1;
      this.#left -= 1;
      this.#goOn(index, block);
    });
  }
}

/** The layers in blocks of another size. */
function inBlocks(
  recording: Recording,
  block: number | undefined,
): Pick<Recording, 'costs' | 'layers' | 'present'> {
  if (block === undefined) return recording;
  const { costs, layers, present } = recording;
  return {
    costs,
    layers: new Map([...layers].map(([id, shape]) => [id, shape.withBlocks(block)])),
    present: new Map(
      [...present].map(([id, runs]) => [
        id,
        runs.flatMap(([first, count]) => {
          const size = layers.get(id)?.blockSize ?? block;
          // Only blocks of which every byte is there.
          const from = Math.ceil((first * size) / block);
          const end = Math.floor(((first + count) * size) / block);
          return end > from ? [[from, end - from] as const] : [];
        }),
      ]),
    ),
  };
}

/** Runs in blocks of another size: all that they touch. */
function resized(
  runs: readonly OrderedRun[],
  { layers }: Recording,
  block: number | undefined,
): readonly OrderedRun[] {
  if (block === undefined) return runs;
  return runs.map(({ layer, first, count }) => {
    const size = layers.get(layer)?.blockSize ?? block;
    const from = Math.floor((first * size) / block);
    const end = Math.ceil(((first + count) * size) / block);
    return { layer, first: from, count: end - from };
  });
}
