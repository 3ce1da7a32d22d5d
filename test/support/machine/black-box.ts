/**
 * The black box on the simulated machine: the real fold (actors/incidents.ts) over the simulated log, ordered by the real watch
 * (src/supervisor/incidents/watch.ts) of an engine that is killed, cut off and upgraded. It takes its time, and dies now and then.
 * That its files survive a kill anywhere is tested with real ones (test/incidents/keep.test.ts).
 *
 * The rule, when all has come right: what is kept is what the whole log says, each incident once. What goes on failing to the end
 * has an incident that still grows, and need not be kept before it has lasted for as long as an incident may.
 */
import { isDeepStrictEqual } from 'node:util';
import { type Incident, IncidentFold, LONGEST_MS, noIncidents, QUIET_MS } from '../../../actors/incidents.ts';
import { idOf } from '../../../actors/node-state.ts';
import { CofaError } from '../../../schemas/errors.ts';
import type { CofaEvent } from '../../../schemas/events.ts';
import { STREAM } from '../../../schemas/subjects.ts';
import type { KeepIncidents } from '../../../src/supervisor/incidents/watch.ts';
import { currentProcess, type SimProcess } from './machine.ts';
import { decode } from './wire.ts';
import type { World } from './world.ts';

interface Entry {
  seq: number;
  id: string;
  event: CofaEvent;
}

/** A start that waits so long is slow here, ms. */
export const SLOW_MS = 5_000;

/** A look begins, and begins anew where it died, within this, ms. */
const LOOK_MS = 30_000;

/** `now`: time of the last event. */
const isGrowing = ({ at, lastAt }: Incident, now: number): boolean =>
  now - lastAt <= QUIET_MS && now - at < LONGEST_MS + QUIET_MS + LOOK_MS;

export class SimBlackBox {
  readonly #world: World;
  #place = { seq: 0, at: 0, fold: noIncidents() };
  readonly #kept = new Map<number, Incident>();

  constructor(world: World) {
    this.#world = world;
  }

  readonly keep: KeepIncidents = async ({ slowMs }) => {
    const { machine } = this.#world;
    const process = currentProcess() as SimProcess;
    await new Promise<void>((resolve) => {
      machine.after(machine.random.int(50, 2_000), () => process.enter(resolve));
    });
    if (machine.random.chance(0.25)) {
      machine.meet('black boxes that die');
      throw new CofaError('internal', 'the black box ended early (SIGKILL)');
    }
    const log = this.#log();
    const before = log.find(({ seq }) => seq === this.#place.seq);
    // The log has lost its end, with the power.
    if (this.#place.seq > 0 && before?.event.at !== this.#place.at)
      this.#place = { seq: 0, at: 0, fold: noIncidents() };
    const fold = new IncidentFold(slowMs, this.#place.fold);
    for (const { seq, id, event } of log) if (seq > this.#place.seq) fold.take(seq, id, event);
    const { complete, counted } = fold.drain();
    for (const incident of [...complete, ...counted]) this.#kept.set(incident.seq, incident);
    const last = log.at(-1);
    this.#place = { seq: last?.seq ?? 0, at: last?.event.at ?? 0, fold: fold.save() };
    const { open, dueAt = 0 } = fold;
    const isDue = open !== undefined && Date.now() >= dueAt;
    if (isDue) this.#kept.set(open.seq, open);
    machine.meet('looks at the log for incidents');
    return {
      kept: complete.map(({ seq, kind }) => ({ name: String(seq), kind })),
      lost: 0,
      ...(open === undefined || isDue ? {} : { againMs: Math.ceil(dueAt - Date.now()) + 100 }),
    };
  };

  /** What is kept and should not be, or the other way round; undefined: all is right. `goesOn`: failures have not ended. */
  problem(goesOn = false): string | undefined {
    const { machine } = this.#world;
    const log = this.#log();
    // What retention has removed cannot be folded again.
    if (log[0]?.seq !== 1) return undefined;
    const fold = new IncidentFold(SLOW_MS);
    for (const { seq, id, event } of log) fold.take(seq, id, event);
    const { complete } = fold.drain();
    const expected = [...complete, ...(fold.open === undefined ? [] : [fold.open])];
    machine.met['incidents'] = expected.length;
    for (const incident of expected) {
      if (goesOn && isGrowing(incident, log.at(-1)?.event.at ?? 0)) continue;
      const kept = this.#kept.get(incident.seq);
      if (kept === undefined) return `incident ${incident.seq} (${incident.kind}) is not kept`;
      if (!isDeepStrictEqual(kept, incident)) return `incident ${incident.seq} is kept as another`;
    }
    const cut = (machine.met['power cuts'] ?? 0) > 0;
    if (!cut && this.#kept.size > expected.length) return 'more is kept than the log tells of';
    return undefined;
  }

  #log(): Entry[] {
    const entries: Entry[] = [];
    for (const { streams } of new Set(this.#world.stores.values()))
      for (const { seq, subject, data } of streams.get(STREAM)?.messages ?? [])
        entries.push({ seq, id: idOf(subject), event: decode<CofaEvent>(data) });
    return entries;
  }
}
