/**
 * Whether a record is what its type says. The log's writer asks before it writes, each reader before it folds: a wrong type
 * or a value without bounds must not get into what a node knows.
 */
import { EVENT_SCHEMAS, EVENT_VERSION, type EventType } from './events.ts';
import { type Predicate, predicateOf } from './predicate.ts';

export interface Flaw {
  /** Of the record; undefined: the bytes are none. */
  type: string | undefined;
  /** Path of the field, such as `ranges.3.1`; empty: the record as a whole. */
  field: string;
  problem: string;
}

/** Made when the first record of the type comes: a process that starts meets a few of them. */
const predicates = new Map<string, Predicate>();

/** Undefined for a type that is not known. */
function predicateFor(type: string): Predicate | undefined {
  const known = predicates.get(type);
  if (known !== undefined || !Object.hasOwn(EVENT_SCHEMAS, type)) return known;
  const made = predicateOf(EVENT_SCHEMAS[type as EventType]);
  predicates.set(type, made);
  return made;
}

/**
 * What is wrong with a record; undefined: nothing. A type or a version that this cofa does not know is not judged, and a field
 * that it does not know may come from a later one.
 */
export function flawOf(record: unknown): Flaw | undefined {
  const { v, type } = (record ?? {}) as { v?: unknown; type?: unknown };
  if (typeof type !== 'string') return { type: undefined, field: '', problem: 'no record of an event' };
  const isSound = predicateFor(type);
  if (isSound === undefined || v !== EVENT_VERSION || isSound(record)) return undefined;
  const { error } = EVENT_SCHEMAS[type as EventType].safeParse(record);
  const issue = error?.issues.find(({ code }) => code !== 'unrecognized_keys');
  return { type, field: issue?.path.join('.') ?? '', problem: issue?.message ?? 'not what its type says' };
}

/** What reads waited for, and what a start read: they say nothing of the state. */
const ACCOUNTS: ReadonlySet<unknown> = new Set<EventType>(['layer.trace', 'layer.started']);

/** The same for a record that is in the log. Accounts are not judged there: they are no reason to start no engine. */
export const flawOfStored = (record: unknown): Flaw | undefined =>
  ACCOUNTS.has((record as { type?: unknown } | undefined)?.type) ? undefined : flawOf(record);

/** `ranges.3.1: too small`, for a message. */
export const flawSentence = ({ field, problem }: Flaw): string =>
  field === '' ? problem : `${field}: ${problem}`;
