/** Askers that wait for pieces at a home, by piece: those for whom a reader waits come first. Bounded in all. */
import type { BlobSource, JobClass } from '../schemas/fetch.ts';

/** What an asker wants to know of a piece. */
export interface Question {
  from: string;
  source: BlobSource;
  index: number;
  class: JobClass;
  token: boolean;
  tried: readonly string[];
  /** It is asked as home of this cell. */
  cell?: number | undefined;
}

type Askers = Record<JobClass, Map<string, Question>>;

export class Waiting {
  readonly #most: number;
  /** The piece whose turn was longest ago comes first. */
  readonly #byKey = new Map<string, Askers>();
  /** Of each piece and member, those who wait and have tried that member in vain: thousands, where a home answers late. */
  readonly #triers = new Map<string, Map<string, Set<string>>>();
  #size = 0;
  #demand = 0;

  constructor(most: number) {
    this.#most = most;
  }

  get size(): number {
    return this.#size;
  }

  /** Askers for whom a reader waits. */
  get demand(): number {
    return this.#demand;
  }

  has(key: string): boolean {
    return this.#byKey.has(key);
  }

  /** False: too many wait. One that waits already keeps its place. Demand has room that prefetch cannot take. */
  add(key: string, question: Question): boolean {
    const known = this.#byKey.get(key);
    const before = known?.[question.class].get(question.from);
    if (known !== undefined && before !== undefined) {
      this.#forgetTrier(key, before);
      known[question.class].set(question.from, question);
      this.#noteTrier(key, question);
      return true;
    }
    this.delete(key, question.from);
    const isFull = question.class === 'demand' ? this.#demand >= this.#most : this.#size >= this.#most;
    if (isFull) return false;
    const askers = this.#byKey.get(key) ?? { demand: new Map(), prefetch: new Map() };
    this.#byKey.set(key, askers);
    askers[question.class].set(question.from, question);
    this.#noteTrier(key, question);
    this.#count(question, 1);
    return true;
  }

  /** The next one of a piece. */
  first(key: string): Question | undefined {
    const askers = this.#byKey.get(key);
    return first(askers?.demand) ?? first(askers?.prefetch);
  }

  /** The member has got the piece: who tried it in vain may try it again. */
  retry(key: string, member: string): void {
    const askers = this.#byKey.get(key);
    const triers = this.#triers.get(key)?.get(member);
    if (askers === undefined || triers === undefined) return;
    this.#triers.get(key)?.delete(member);
    for (const asker of triers)
      for (const questions of [askers.demand, askers.prefetch]) {
        const question = questions.get(asker);
        if (question !== undefined)
          questions.set(asker, { ...question, tried: question.tried.filter((one) => one !== member) });
      }
  }

  /** The asker wants it no more, or is gone. */
  delete(key: string, asker: string): void {
    const askers = this.#byKey.get(key);
    if (askers === undefined) return;
    for (const questions of [askers.demand, askers.prefetch]) {
      const question = questions.get(asker);
      if (question === undefined) continue;
      questions.delete(asker);
      this.#forgetTrier(key, question);
      this.#count(question, -1);
    }
    if (askers.demand.size + askers.prefetch.size > 0) return;
    this.#byKey.delete(key);
    this.#triers.delete(key);
  }

  /** The piece whose turn it is of those that are waited for in this class; its turn is over with that. */
  turn(urgency: JobClass): string | undefined {
    const waits = urgency === 'demand' ? this.#demand : this.#size - this.#demand;
    if (waits === 0) return undefined;
    for (const [key, askers] of this.#byKey) {
      if (askers[urgency].size === 0) continue;
      this.#byKey.delete(key);
      this.#byKey.set(key, askers);
      return key;
    }
    return undefined;
  }

  #noteTrier(key: string, { from, tried }: Question): void {
    if (tried.length === 0) return;
    const byMember = this.#triers.get(key) ?? new Map<string, Set<string>>();
    this.#triers.set(key, byMember);
    for (const member of tried) byMember.set(member, (byMember.get(member) ?? new Set()).add(from));
  }

  #forgetTrier(key: string, { from, tried }: Question): void {
    const byMember = this.#triers.get(key);
    for (const member of tried) {
      const triers = byMember?.get(member);
      triers?.delete(from);
      if (triers?.size === 0) byMember?.delete(member);
    }
  }

  #count(question: Question, by: number): void {
    this.#size += by;
    if (question.class === 'demand') this.#demand += by;
  }
}

const first = (questions: Map<string, Question> | undefined): Question | undefined =>
  questions?.values().next().value;
