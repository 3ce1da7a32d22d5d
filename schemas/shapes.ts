/**
 * Shapes of messages between processes, as predicates: what check-fetch.ts, check-front.ts and check-child.ts are written in.
 * They let a field through that they do not name, since another process may be of a later version (`cofa upgrade`), and are no
 * schemas of zod, which would take the start of a fetcher 50 ms to load.
 */
import { arrayOf, objectOf, oneOf, type Predicate } from './predicate.ts';

export { oneOf } from './predicate.ts';

/** Letters of a name: a node, a process, a registry, a repository. */
export const MAX_NAME = 256;
/** Letters of a sentence. */
export const MAX_TEXT = 1 << 16;

/** A predicate that says what a value is. */
export type Shape<Value> = (value: unknown) => value is Value;

export const text =
  (longest: number): Predicate =>
  (value) =>
    typeof value === 'string' && value.length <= longest;

export const name: Predicate = text(MAX_NAME);
export const sentence: Predicate = text(MAX_TEXT);

/** A whole number. */
export const count =
  (least: number, most = Number.MAX_SAFE_INTEGER): Predicate =>
  (value) =>
    Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most;

/** Any number that is one. */
export const figure: Predicate = (value) => Number.isFinite(value);
/** Any finite number that is not negative. */
export const amount: Predicate = (value) => Number.isFinite(value) && (value as number) >= 0;

export const flag: Predicate = (value) => typeof value === 'boolean';

/** The result of what answers nothing. */
export const isNothing: Shape<void> = (value): value is void => value === null || value === undefined;

export const only = (value: unknown): Predicate => oneOf([value]);

export const list = (item: Predicate, most: number): Predicate => {
  const isList = arrayOf(item);
  return (value) => Array.isArray(value) && value.length <= most && isList(value);
};

export const maybe =
  (inner: Predicate): Predicate =>
  (value) =>
    value === undefined || inner(value);

export const fields = (of: Readonly<Record<string, Predicate>>): Predicate => objectOf(Object.entries(of));

export const kindOf = (value: unknown): unknown => (value as { kind?: unknown } | null | undefined)?.kind;

/** Whether a message is what its `kind` says, and the kind is known. */
export const isKind = (kinds: Readonly<Record<string, Predicate>>, value: unknown): boolean => {
  const kind = kindOf(value);
  return typeof kind === 'string' && Object.hasOwn(kinds, kind) && kinds[kind]?.(value) === true;
};
