/**
 * What a member says to others, put together: what it says to one of them in one turn of the event loop about pieces of the same
 * blob is one message. A process wants several pieces at once, and neighbouring ones have the same home; so a question, its answer
 * and what comes of it are a message each, and not one for each piece.
 *
 * The order of what is said to a member stays: only what follows each other is put together.
 */
import type { BlobSource } from '../schemas/fetch.ts';
import { type FleetAnswer, type FleetAsk, type FleetHold, MAX_ASKED } from '../schemas/fleet.ts';

export type Outgoing =
  | ({ kind: 'ask' } & FleetAsk)
  | ({ kind: 'answer' } & FleetAnswer)
  | ({ kind: 'hold' } & FleetHold);

export class Outbox<Other extends { kind: string } = never> {
  readonly #waiting = new Map<string, Array<Outgoing | Other>>();

  /** True: it is the first one that waits, so all of them have to be taken at the end of this turn. */
  add(to: string, said: Outgoing | Other): boolean {
    const isFirst = this.#waiting.size === 0;
    const waiting = this.#waiting.get(to) ?? [];
    this.#waiting.set(to, waiting);
    const last = waiting.at(-1);
    const both = last === undefined ? undefined : joined(last, said);
    if (both === undefined) waiting.push(said);
    else waiting[waiting.length - 1] = both;
    return isFirst;
  }

  /** Takes all that waits, each member's in the order in which it was said. */
  take(): Array<readonly [to: string, said: Outgoing | Other]> {
    const taken = [...this.#waiting].flatMap(([to, list]) => list.map((said) => [to, said] as const));
    this.#waiting.clear();
    return taken;
  }
}

/** Both as one; undefined where that would say something else. */
function joined<Other extends { kind: string }>(
  a: Outgoing | Other,
  b: Outgoing | Other,
): Outgoing | undefined {
  if (isAsk(a) && isAsk(b)) return joinedAsks(a, b);
  if (isHold(a) && isHold(b)) return joinedHolds(a, b);
  return isAnswer(a) && isAnswer(b) ? joinedAnswers(a, b) : undefined;
}

type Of<Kind extends Outgoing['kind']> = Extract<Outgoing, { kind: Kind }>;
const isAsk = (said: { kind: string }): said is Of<'ask'> => said.kind === 'ask';
const isHold = (said: { kind: string }): said is Of<'hold'> => said.kind === 'hold';
const isAnswer = (said: { kind: string }): said is Of<'answer'> => said.kind === 'answer';

function joinedAsks(a: Of<'ask'>, b: Of<'ask'>): Outgoing | undefined {
  const isSame =
    a.class === b.class &&
    a.token === b.token &&
    a.cell === b.cell &&
    isSameBlob(a.source, b.source) &&
    isSameList(a.tried ?? [], b.tried ?? []) &&
    a.proof?.nonce === b.proof?.nonce;
  const pieces = isSame ? apart(a.pieces, b.pieces) : undefined;
  return pieces && { ...a, pieces };
}

function joinedHolds(a: Of<'hold'>, b: Of<'hold'>): Outgoing | undefined {
  const isSame = a.cell === b.cell && isSameBlob(a.source, b.source);
  const pieces = isSame ? apart(a.pieces, b.pieces) : undefined;
  const failed = pieces && apart(a.failed ?? [], b.failed ?? []);
  // What failed may have come since: which of both is meant the order says.
  if (failed === undefined || pieces?.some((one) => failed.includes(one)) !== false) return undefined;
  return { ...a, pieces, ...(failed.length === 0 ? {} : { failed }) };
}

function joinedAnswers(a: Of<'answer'>, b: Of<'answer'>): Outgoing | undefined {
  if (a.registry !== b.registry || a.digest !== b.digest) return undefined;
  const indexes = (answer: FleetAnswer) => answer.pieces.map(({ index }) => index);
  return apart(indexes(a), indexes(b)) && { ...a, pieces: [...a.pieces, ...b.pieces] };
}

/** Of both, rising; undefined where one is in both, or they are too many for a message. */
function apart(a: readonly number[], b: readonly number[]): number[] | undefined {
  if (a.length + b.length > MAX_ASKED || b.some((one) => a.includes(one))) return undefined;
  return [...a, ...b].sort((one, other) => one - other);
}

const isSameBlob = (a: BlobSource, b: BlobSource): boolean =>
  a.digest === b.digest && a.registry === b.registry && a.repository === b.repository && a.size === b.size;

const isSameList = (a: readonly string[], b: readonly string[]): boolean =>
  a.length === b.length && a.every((one, at) => one === b[at]);
