/**
 * A question of this node to the others: what have you proven of this image? (fleet-ledger.ts says what comes of the answers).
 * A few nodes are asked first, drawn by chance, then all others. Where enough of the first have vouched, the others are told
 * what those said, and answer only where they have found otherwise: so of a thousand nodes that have proven an image sixteen
 * answer, and the one that has proven that a voucher lies is heard all the same.
 *
 *     ask 16 ─┬─ enough have vouched ──▶ tell the others ─▶ a moment to contradict ─▶ over
 *             └─ all have answered, or patience ends ──▶ ask the others ─▶ all have answered, or patience ends ─▶ over
 *
 * One that answers late is heard as long as the question is open. What comes without a question is not heard at all, so
 * a member that floods this node with entries fills nothing.
 */
import { type LedgerEntry, MAX_LEDGER_ANSWERS } from '../schemas/fleet.ts';
import { Allowance } from './allowance.ts';

export interface InquiryLimits {
  /** Nodes that are asked first. */
  first: number;
  /** Those that were asked have so long to answer, ms. */
  patienceMs: number;
  /** Where enough have vouched: others have so long to say otherwise, ms. */
  contradictMs: number;
  /** Members whose answers are kept. */
  kept: number;
}

export const INQUIRY_LIMITS: InquiryLimits = { first: 16, patienceMs: 2_000, contradictMs: 300, kept: 64 };

export interface InquiryOptions {
  /** Nodes to ask, in an order drawn by chance. */
  nodes: readonly string[];
  /** Members that have to say the same. */
  witnesses: number;
  limits?: Partial<InquiryLimits>;
}

/**
 * What is to be done: ask these, where `said` is there for what is otherwise than that; wait until then, ms; or it is over.
 */
export type InquiryStep =
  | { ask: readonly string[]; said: readonly LedgerEntry[] | undefined }
  | { until: number }
  | 'over';

export class Inquiry {
  readonly #options: InquiryOptions;
  readonly #limits: InquiryLimits;
  #asked = 0;
  #roundAt = 0;
  /** When enough had vouched. */
  #settledAt = Number.POSITIVE_INFINITY;
  /** They were asked, and have not answered to the end. */
  readonly #waiting = new Set<string>();
  readonly #answers = new Map<string, number>();
  readonly #said = new Map<string, LedgerEntry[]>();
  readonly #vouching: string[] = [];
  #answered = 0;

  constructor(options: InquiryOptions) {
    this.#options = options;
    this.#limits = { ...INQUIRY_LIMITS, ...options.limits };
  }

  next(now: number): InquiryStep {
    const { nodes } = this.#options;
    const { first, patienceMs, contradictMs } = this.#limits;
    if (this.#asked === 0)
      return nodes.length === 0 ? 'over' : this.#ask(nodes.slice(0, first), undefined, now);
    const isSettled = Number.isFinite(this.#settledAt);
    const rest = nodes.slice(this.#asked);
    const said = isSettled ? this.#said.get(this.#vouching[0] ?? '') : undefined;
    const end = isSettled
      ? Math.max(this.#settledAt, this.#roundAt) + contradictMs
      : this.#roundAt + patienceMs;
    if (rest.length > 0 && (isSettled || this.#waiting.size === 0 || now >= end))
      return this.#ask(rest, said, now);
    return this.#waiting.size === 0 || now >= end ? 'over' : { until: end };
  }

  /** A member has answered. Those that were not asked, or say too much, are not heard. */
  heard(from: string, entries: readonly LedgerEntry[], isLast: boolean, now: number): void {
    if (!this.#waiting.has(from)) return;
    const answers = (this.#answers.get(from) ?? 0) + 1;
    this.#answers.set(from, answers);
    if (entries.length > 0 && (this.#said.has(from) || this.#said.size < this.#limits.kept))
      this.#said.set(from, [...(this.#said.get(from) ?? []), ...entries]);
    if (!isLast && answers < MAX_LEDGER_ANSWERS) return;
    this.#waiting.delete(from);
    this.#answered += 1;
    if (this.#said.get(from)?.some(isFlat) !== true) return;
    this.#vouching.push(from);
    if (this.#vouching.length >= this.#options.witnesses) this.#settledAt = Math.min(this.#settledAt, now);
  }

  /** What those said that answered. */
  get said(): Array<{ from: string; entries: readonly LedgerEntry[] }> {
    return [...this.#said].map(([from, entries]) => ({ from, entries }));
  }

  /** Members that have answered to the end. */
  get answered(): number {
    return this.#answered;
  }

  #ask(ask: readonly string[], said: readonly LedgerEntry[] | undefined, now: number): InquiryStep {
    this.#asked += ask.length;
    this.#roundAt = now;
    for (const node of ask) this.#waiting.add(node);
    return { ask, said };
  }
}

const isFlat = ({ kind, verdict }: LedgerEntry): boolean => kind === 'flat' && verdict === 'proven';

/** How many questions of one member are answered at once, and in a second from then on. */
export interface AskerLimits {
  burst: number;
  perSecond: number;
  /** Members of which that is remembered. */
  members: number;
}

export const ASKER_ALLOWANCE: AskerLimits = { burst: 64, perSecond: 8, members: 4_096 };

/** Keeps a member that asks without end from costing this node more than a little. */
export class Allowances {
  readonly #limits: AskerLimits;
  /** The one that asked last at the end. */
  readonly #allowed = new Map<string, Allowance>();

  constructor(limits: AskerLimits = ASKER_ALLOWANCE) {
    this.#limits = limits;
  }

  /** Whether a question of this member is answered now. `now`: ms. */
  take(member: string, now: number): boolean {
    const { burst, perSecond, members } = this.#limits;
    const allowance = this.#allowed.get(member) ?? new Allowance({ burst, refillMs: 1_000 / perSecond });
    this.#allowed.delete(member);
    this.#allowed.set(member, allowance);
    if (this.#allowed.size > members) this.#allowed.delete(this.#allowed.keys().next().value as string);
    return allowance.take(now);
  }
}
