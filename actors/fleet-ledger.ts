/**
 * What members of the fleet have proven, as one member folds it from the ledger: block roots of layers, flat metadata of images.
 * The first node that has a layer whole proves its root, and all others may start lazily on its word, where the operator
 * lets members vouch. Entries come in any order and more than once, and make the same ledger.
 *
 * A layer has one honest root, and the layers of an image one honest flat metadata for a revision of the builder. So where
 * two members disagree one of them lies, or its memory does:
 *
 * - **What this node has proven itself** stands, whatever others say. A member that has said otherwise is a liar: nothing
 *   that it says or has said counts, and it is named.
 * - **Between others** no one is believed: the subject is disputed, and this node proves it by itself, which ends it. So one
 *   liar can cost the others what they would have had without a ledger, and cannot give them a byte.
 *
 * A liar that is the first to speak is believed where one witness is enough. `witnesses: 2` takes two members for it.
 */
import type { LedgerEntry } from '../schemas/fleet.ts';

export interface LedgerLimits {
  /** Members that have to say the same. */
  witnesses: number;
  /** Layers and images that are remembered, and what is remembered of one. */
  subjects: number;
  claims: number;
  /** Members that say the same, of which is known who they are. */
  members: number;
}

export const LEDGER_LIMITS: LedgerLimits = { witnesses: 1, subjects: 65_536, claims: 4, members: 8 };

/**
 * `proven`: enough members have proven it, and none says otherwise. `refuted`: this node has, or members have and none has
 * proven it. `disputed`: members disagree. `unknown`: too few have said anything.
 */
export type LedgerWord = 'proven' | 'refuted' | 'disputed' | 'unknown';

interface Claim {
  proven: Set<string>;
  refuted: Set<string>;
}

interface Subject {
  /** By root, or digest of flat metadata. */
  claims: Map<string, Claim>;
  /** What this node has found out. */
  own: Map<string, 'proven' | 'refuted'>;
}

export class Ledger {
  readonly #self: string;
  readonly #limits: LedgerLimits;
  /** The one that was spoken of last at the end. */
  readonly #subjects = new Map<string, Subject>();
  readonly #liars = new Set<string>();

  constructor(self: string, limits: Partial<LedgerLimits> = {}) {
    this.#self = self;
    this.#limits = { ...LEDGER_LIMITS, ...limits };
  }

  /** Folds what a member has written; `from`: by the subject of its message, not by its word. */
  heard(from: string, entry: LedgerEntry): void {
    // What this node has found out it knows from its own log.
    if (from === this.#self || this.#liars.has(from)) return;
    const subject = this.#subject(subjectOf(entry));
    const value = valueOf(entry);
    const claim = subject.claims.get(value) ?? { proven: new Set(), refuted: new Set() };
    if (!subject.claims.has(value)) {
      // Beyond that it is disputed already.
      if (subject.claims.size >= this.#limits.claims) return;
      subject.claims.set(value, claim);
    }
    const members = claim[entry.verdict];
    if (members.size < this.#limits.members) members.add(from);
    this.#judge(subject);
  }

  /** This node has found out by itself. */
  found(entry: LedgerEntry): void {
    const subject = this.#subject(subjectOf(entry));
    subject.own.set(valueOf(entry), entry.verdict);
    this.#judge(subject);
  }

  /** Of a layer's block root. */
  root(diffId: string, root: string): LedgerWord {
    return this.#word(`root ${diffId}`, root);
  }

  /** Of an image's flat metadata. */
  flat(manifest: string, flat: string): LedgerWord {
    return this.#word(`flat ${manifest}`, flat);
  }

  /** Members that have vouched for what this node has found to be otherwise. */
  get liars(): ReadonlySet<string> {
    return this.#liars;
  }

  get size(): number {
    return this.#subjects.size;
  }

  /** Layers and images about which members disagree, at most so many: for `status`. */
  disputed(most: number): string[] {
    const list: string[] = [];
    for (const [name, subject] of this.#subjects) {
      if (list.length >= most) break;
      if (
        subject.own.size === 0 &&
        [...subject.claims.keys()].some((value) => this.#word(name, value) === 'disputed')
      )
        list.push(name);
    }
    return list;
  }

  #word(name: string, value: string): LedgerWord {
    const subject = this.#subjects.get(name);
    if (subject === undefined) return 'unknown';
    const own = subject.own.get(value);
    if (own !== undefined) return own;
    // Another one is proven here: this one cannot be it.
    for (const verdict of subject.own.values()) if (verdict === 'proven') return 'refuted';
    const proven = this.#membersOf(subject, value, 'proven');
    const refuted = this.#membersOf(subject, value, 'refuted');
    const isOtherProven = [...subject.claims.keys()].some(
      (other) => other !== value && this.#membersOf(subject, other, 'proven') > 0,
    );
    if (proven > 0 && (refuted > 0 || isOtherProven)) return 'disputed';
    if (proven >= this.#limits.witnesses) return 'proven';
    return refuted >= this.#limits.witnesses ? 'refuted' : 'unknown';
  }

  #membersOf(subject: Subject, value: string, verdict: keyof Claim): number {
    let count = 0;
    for (const member of subject.claims.get(value)?.[verdict] ?? []) if (!this.#liars.has(member)) count += 1;
    return count;
  }

  /** Who has vouched for what this node knows to be wrong, or against what it knows to be right. */
  #judge({ claims, own }: Subject): void {
    if (own.size === 0) return;
    const proven = [...own].find(([, verdict]) => verdict === 'proven')?.[0];
    for (const [value, claim] of claims) {
      const isWrong = own.get(value) === 'refuted' || (proven !== undefined && value !== proven);
      if (isWrong) for (const member of claim.proven) this.#liars.add(member);
      if (value === proven) for (const member of claim.refuted) this.#liars.add(member);
    }
  }

  #subject(name: string): Subject {
    const known = this.#subjects.get(name);
    const subject = known ?? {
      claims: new Map<string, Claim>(),
      own: new Map<string, 'proven' | 'refuted'>(),
    };
    this.#subjects.delete(name);
    this.#subjects.set(name, subject);
    if (this.#subjects.size > this.#limits.subjects)
      this.#subjects.delete(this.#subjects.keys().next().value as string);
    return subject;
  }
}

const subjectOf = (entry: LedgerEntry): string =>
  entry.kind === 'root' ? `root ${entry.diffId}` : `flat ${entry.manifest}`;

const valueOf = (entry: LedgerEntry): string => (entry.kind === 'root' ? entry.root : entry.flat);
