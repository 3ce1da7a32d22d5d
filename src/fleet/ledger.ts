/**
 * What nodes of the fleet have proven, asked and answered: a process of this node asks for an image's layers, other nodes say
 * what their own logs have (actors/fleet-inquiry.ts, actors/fleet-ledger.ts). Nothing of it is kept here. Questions and
 * answers go the way of all messages: over NATS, and past it to a member that NATS does not reach.
 */
import type { Logger } from 'pino';
import type { Counts } from '../../actors/counts.ts';
import { Allowances, Inquiry } from '../../actors/fleet-inquiry.ts';
import { claimText } from '../../actors/fleet-ledger.ts';
import { areLedgerEntries } from '../../schemas/check-fleet.ts';
import {
  type LedgerAnswer,
  type LedgerEntry,
  type LedgerHeard,
  type LedgerQuestion,
  type LedgerSubject,
  MAX_LEDGER_ANSWERS,
  MAX_LEDGER_ENTRIES,
} from '../../schemas/fleet.ts';
import { digestOf } from '../digest/digest.ts';
import type { Clock, Timer } from '../process/ports.ts';
import type { Said } from './messages.ts';

export interface LedgerTalkOptions {
  /** Other nodes that may be asked: live ones whose word counts. */
  nodes: () => string[];
  send: (to: string, said: Said) => void;
  /** What this node has found out, as its engine says it; what are no entries counts as nothing. On a machine without an engine: nothing. */
  prove: (subject: LedgerSubject) => Promise<unknown>;
  clock: Pick<Clock, 'now' | 'after'>;
  /** Uniform in [0, 1). */
  random: () => number;
  /** Random hex digits, 32 of them. */
  newNonce: () => string;
  counts: Pick<Counts, 'add'>;
  log: Logger;
}

/** Of one question that is open. */
interface Open {
  inquiry: Inquiry;
  wake: Timer | undefined;
  /** Does what is due. */
  turn: () => void;
}

/** Questions of this node at once; a further one is answered with nothing. */
const MOST_OPEN = 256;
/** What this node has found out is asked of its engine once in so long for an image, ms: a thousand nodes may ask at once. */
const SAME_MS = 1_000;
const MOST_SAME = 64;

export class LedgerTalk {
  readonly #options: LedgerTalkOptions;
  readonly #allowances = new Allowances();
  readonly #open = new Map<string, Open>();
  readonly #same = new Map<string, { at: number; entries: Promise<readonly LedgerEntry[]> }>();

  constructor(options: LedgerTalkOptions) {
    this.#options = options;
  }

  /** Asks other nodes: until `witnesses` of them have vouched and the others have not contradicted, or all have answered. Seconds. */
  async ask({ layers, diffIds }: LedgerSubject, witnesses: number): Promise<LedgerHeard> {
    const { newNonce, random } = this.#options;
    const nodes = shuffled(this.#options.nodes(), random);
    if (nodes.length === 0 || this.#open.size >= MOST_OPEN)
      return { nodes: nodes.length, answered: 0, said: [] };
    const nonce = newNonce();
    const inquiry = new Inquiry({ nodes, witnesses });
    const over = Promise.withResolvers<void>();
    const question: LedgerQuestion = { v: 1, nonce, layers, diffIds };
    const open: Open = { inquiry, wake: undefined, turn: () => this.#turn(open, question, over.resolve) };
    this.#open.set(nonce, open);
    open.turn();
    await over.promise;
    open.wake?.cancel();
    this.#open.delete(nonce);
    return { nodes: nodes.length, answered: inquiry.answered, said: inquiry.said };
  }

  #turn(open: Open, question: LedgerQuestion, isOver: () => void): void {
    const { send, clock } = this.#options;
    open.wake?.cancel();
    for (;;) {
      const now = clock.now();
      const step = open.inquiry.next(now);
      if (step === 'over') return isOver();
      if ('until' in step) {
        open.wake?.cancel();
        open.wake = clock.after(Math.max(0, step.until - now), open.turn).unref();
        return;
      }
      const known = step.said && { known: digestOf(claimText(step.said)) };
      for (const node of step.ask) send(node, { kind: 'ledger', ...question, ...known });
    }
  }

  /** A member has answered. What answers no question of this node is passed over. */
  answered(from: string, { nonce, entries, last }: LedgerAnswer): void {
    const open = this.#open.get(nonce);
    if (open === undefined) return;
    open.inquiry.heard(from, entries, last, this.#options.clock.now());
    open.turn();
  }

  /** A member asks; one that asks without end is not answered. */
  asked(from: string, { nonce, layers, diffIds, known }: LedgerQuestion): void {
    const { clock, counts, log } = this.#options;
    const count = (answer: string) => counts.add('fleet_questions_total', 1, answer);
    if (!this.#allowances.take(from, clock.now())) {
      count('refused');
      log.debug({ from }, 'a member asks too often what this node has proven');
      return;
    }
    void this.#proven({ layers, diffIds })
      .catch((error: unknown) => {
        log.warn({ error }, 'what this node has proven is not known here');
        return [];
      })
      .then((entries) => {
        const hasNone = entries.length === 0;
        const agrees = !hasNone && digestOf(claimText(entries)) === known;
        count(hasNone ? 'nothing' : agrees ? 'agreed' : 'proven');
        if (known === undefined || !(hasNone || agrees)) this.#answer(from, nonce, entries);
      });
  }

  #answer(to: string, nonce: string, entries: readonly LedgerEntry[]): void {
    const all = entries.slice(0, MAX_LEDGER_ENTRIES * MAX_LEDGER_ANSWERS);
    for (let at = 0; ; at += MAX_LEDGER_ENTRIES) {
      const last = at + MAX_LEDGER_ENTRIES >= all.length;
      const part = all.slice(at, at + MAX_LEDGER_ENTRIES);
      this.#options.send(to, { kind: 'proven', v: 1, nonce, entries: part, last });
      if (last) return;
    }
  }

  #proven(subject: LedgerSubject): Promise<readonly LedgerEntry[]> {
    const { clock, prove } = this.#options;
    const key = [subject.layers, ...subject.diffIds].join(' ');
    const known = this.#same.get(key);
    if (known !== undefined && clock.now() - known.at < SAME_MS) return known.entries;
    const entries = prove(subject).then((said) => (areLedgerEntries(said) ? said : []));
    this.#same.delete(key);
    this.#same.set(key, { at: clock.now(), entries });
    if (this.#same.size > MOST_SAME) this.#same.delete(this.#same.keys().next().value as string);
    return entries;
  }
}

/** In an order of chance (Fisher and Yates). */
function shuffled(list: readonly string[], random: () => number): string[] {
  const mixed = [...list];
  for (let at = mixed.length - 1; at > 0; at--) {
    const other = Math.floor(random() * (at + 1));
    [mixed[at], mixed[other]] = [mixed[other] as string, mixed[at] as string];
  }
  return mixed;
}
