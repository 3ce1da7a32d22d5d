/**
 * The fleet as a witness: asks other nodes what they have proven of an image, for the policy `fleet`, and says what this one
 * has. What follows from the answers: actors/fleet-ledger.ts. The member's process carries both (src/fleet/ledger.ts).
 *
 * A member that has vouched for what this node knows to be otherwise is in the log (`fleet.disbelieved`), and its word counts
 * no more for a month: at once where this node knew, later where it has found out by its own proof. Members that disagree
 * are a condition of the engine until this node has proven which of them is right.
 */
import type { Logger } from 'pino';
import type { Counts } from '../../../actors/counts.ts';
import { layersText } from '../../../actors/device.ts';
import {
  type FleetWord,
  fleetWord,
  Ledger,
  type Lie,
  liarsBehind,
  provenHere,
  type Wrong,
} from '../../../actors/fleet-ledger.ts';
import { idOf } from '../../../actors/node-state.ts';
import { silentFleet } from '../../../actors/sidecar-choice.ts';
import { toErrorRecord } from '../../../schemas/errors.ts';
import type { EventOf, NewEvent } from '../../../schemas/events.ts';
import {
  type LedgerEntry,
  type LedgerHeard,
  type LedgerSubject,
  MAX_LEDGER_LAYERS,
} from '../../../schemas/fleet.ts';
import { digestOf } from '../../digest/digest.ts';
import type { Conditions } from '../../process/conditions.ts';
import type { Clock } from '../../process/ports.ts';
import { SIDECAR_REVISION } from '../../registry/sidecars.ts';
import type { LiveFold } from '../../store/live-fold.ts';
import type { LogRecord } from '../../store/log-reader.ts';

export interface WitnessesOptions {
  /** This node's name. */
  self: string;
  /** Members that have to vouch for a sidecar. */
  witnesses: number;
  /** Asks other nodes. Errors: where the member's process does not answer. */
  ask: (subject: LedgerSubject) => Promise<LedgerHeard>;
  conditions: Pick<Conditions, 'set' | 'clear'>;
  counts: Pick<Counts, 'add'>;
  clock: Pick<Clock, 'wallMs'>;
  log: Logger;
}

type Live = Pick<LiveFold, 'append' | 'listen' | 'state'>;
type Disbelieved = NewEvent<'fleet.disbelieved'>;
type Disputed = NewEvent<'fleet.disputed'>;

/** A liar's word does not count for so long, ms: 30 days. */
const DISBELIEVED_MS = 30 * 24 * 3_600_000;
/** Images of which this node remembers who has said what: it may find out later that that was wrong. */
const MOST_HEARD = 64;
/** Liars that wait for the log, and disputes. */
const MOST_UNTOLD = 256;
/** Subjects of a dispute that are told. */
const MOST_ABOUT = 4;

export class Witnesses {
  readonly #options: WitnessesOptions;
  #live: Live | undefined;
  /** What members have said of images, by digest over the layers, the last one at the end. */
  readonly #heard = new Map<string, { ledger: Ledger; subject: LedgerSubject }>();
  /** They count from the moment that they are found; the log may take them later. */
  readonly #untold = new Map<string, Disbelieved>();
  /** By digest over the layers: disputes that the log does not have yet. */
  readonly #disputed = new Map<string, Disputed>();
  #isTelling = false;
  /** Members that `status` names now. */
  #named = new Set<string>();

  constructor(options: WitnessesOptions) {
    this.#options = options;
  }

  /** The log is there: questions of others are answered from now on. */
  open(live: Live): void {
    this.#live = live;
    live.listen((record) => this.#onEvent(record));
    this.#nameLiars();
  }

  /**
   * What members have proven of an image: the answers to a question that is asked now. Takes some milliseconds where all answer,
   * seconds where some do not. Throws nothing: who cannot be asked does not vouch.
   */
  async wordOn({ ref, layers }: Pick<EventOf<'image.resolved'>, 'ref' | 'layers'>): Promise<FleetWord> {
    const { self, witnesses, ask, counts, log } = this.#options;
    if (layers.length > MAX_LEDGER_LAYERS)
      return silentFleet(`the fleet is not asked about an image of more than ${MAX_LEDGER_LAYERS} layers`);
    const subject = { layers: digestOf(layersText(layers)), diffIds: layers.map(({ diffId }) => diffId) };
    this.#nameLiars();
    let heard: LedgerHeard;
    try {
      heard = await ask(subject);
    } catch (error) {
      log.warn({ image: ref, error: toErrorRecord(error) }, 'the fleet cannot be asked what it has proven');
      counts.add('fleet_inquiries_total', 1, 'silent');
      return silentFleet('the fleet cannot be asked: its member on this node does not answer');
    }
    const ledger = new Ledger({ self, witnesses, disbelieved: this.disbelieved, subject });
    for (const entry of this.proven(subject)) ledger.found(entry);
    for (const { from, entries } of heard.said) for (const entry of entries) ledger.heard(from, entry);
    this.#disbelieve(ledger.lies);
    this.#remember(ref, subject, heard.said.length > 0 ? ledger : undefined);
    counts.add('fleet_inquiries_total', 1, outcomeOf(ledger, heard));
    return fleetWord(ledger, heard);
  }

  /** What this node has found out by itself. */
  proven(subject: LedgerSubject): readonly LedgerEntry[] {
    if (this.#live === undefined) return [];
    return provenHere(this.#live.state, subject, { revision: SIDECAR_REVISION, digestOf });
  }

  /** Members whose word does not count. */
  get disbelieved(): ReadonlySet<string> {
    return new Set([...this.#until().keys(), ...this.#untold.keys()]);
  }

  /** Liars that the log has, and until when, ms since the epoch. */
  #until(): Map<string, number> {
    const now = this.#options.clock.wallMs();
    const known = [...(this.#live?.state.disbelieved ?? [])].filter(([, { until }]) => until > now);
    return new Map(known.map(([name, { until }]) => [name, until]));
  }

  #onEvent({ subject, event }: LogRecord): void {
    const diffId = `sha256:${idOf(subject)}`;
    if (event.type === 'root.proven' || event.type === 'root.refuted')
      this.#judge({ about: 'root', diffId, root: event.root, isProven: event.type === 'root.proven' });
    else if (event.type === 'image.refuted') this.#judge({ about: 'flat', flat: event.flat });
    const isNews = ['root.proven', 'root.refuted', 'image.verified', 'image.prepared'].includes(event.type);
    if (isNews) this.#compare();
  }

  /** This node has found out something: were members believed who said otherwise? */
  #judge(wrong: Wrong): void {
    if (this.#live !== undefined) this.#disbelieve(liarsBehind(this.#live.state.images.values(), wrong));
  }

  // ── Members that disagree ──

  /** `ref`: for people. `ledger`: what was said; undefined: nothing. */
  #remember(ref: string, subject: LedgerSubject, ledger: Ledger | undefined): void {
    const { conditions } = this.#options;
    const { layers } = subject;
    const isKnown = (this.#heard.get(layers)?.ledger.disputes.length ?? 0) > 0;
    this.#forget(layers);
    if (ledger === undefined) return;
    this.#heard.set(layers, { ledger, subject });
    const about = ledger.disputes.slice(0, MOST_ABOUT);
    if (about.length > 0) {
      conditions.set(
        disputeOf(layers),
        `members of the fleet disagree about ${ref} (${about.join(', ')}): none is believed, and this node proves it by itself`,
      );
      if (!isKnown && this.#disputed.size < MOST_UNTOLD)
        this.#disputed.set(layers, { type: 'fleet.disputed', ref, layers, about });
      void this.#tell();
    }
    const [oldest] = this.#heard.keys();
    if (this.#heard.size > MOST_HEARD && oldest !== undefined) this.#forget(oldest);
  }

  /** What this node has proven meanwhile says who was right. */
  #compare(): void {
    for (const [layers, { ledger, subject }] of this.#heard) {
      for (const entry of this.proven(subject)) ledger.found(entry);
      this.#disbelieve(ledger.lies);
      if (ledger.disputes.length === 0) this.#options.conditions.clear(disputeOf(layers));
    }
  }

  #forget(layers: string): void {
    this.#heard.delete(layers);
    this.#options.conditions.clear(disputeOf(layers));
  }

  // ── Members that lie ──

  #disbelieve(lies: readonly Lie[]): void {
    const known = this.disbelieved;
    const until = Math.round(this.#options.clock.wallMs() + DISBELIEVED_MS);
    for (const { member: name, about, subject, said } of lies) {
      if (known.has(name) || this.#untold.has(name) || this.#untold.size >= MOST_UNTOLD) continue;
      this.#untold.set(name, { type: 'fleet.disbelieved', name, until, about, subject, said });
    }
    if (this.#untold.size > 0) void this.#tell();
  }

  /** One that the log does not take now is tried again with the next question or finding. */
  async #tell(): Promise<void> {
    if (this.#isTelling || this.#live === undefined) return;
    this.#isTelling = true;
    try {
      for (const events of [this.#untold, this.#disputed])
        for (const [key, event] of events) {
          await this.#live.append('main', event);
          events.delete(key);
        }
    } catch (error) {
      this.#options.log.warn(
        { error: toErrorRecord(error) },
        'the log does not know yet who is disbelieved, or what is disputed',
      );
    } finally {
      this.#isTelling = false;
    }
    this.#nameLiars();
  }

  #nameLiars(): void {
    const { conditions } = this.#options;
    const until = this.#until();
    for (const [name, end] of until)
      conditions.set(
        `fleet-witness:${name}`,
        `the member ${name} of the fleet has vouched for what this node has found to be otherwise: its word does not count until ${new Date(end).toISOString()}`,
      );
    for (const name of this.#named) if (!until.has(name)) conditions.clear(`fleet-witness:${name}`);
    this.#named = new Set(until.keys());
  }
}

/** The label `outcome` of `cofa_fleet_inquiries_total`. */
function outcomeOf({ disputes, hasFlat }: Ledger, { answered }: LedgerHeard): string {
  if (disputes.length > 0) return 'disputed';
  if (hasFlat) return 'vouched';
  return answered > 0 ? 'unproven' : 'silent';
}

const disputeOf = (layers: string): string => `fleet-dispute:${layers}`;
