/**
 * A route: one address below /api that answers with a document. Routes only read. A view of the page is a file in web/views/
 * and a route here; routes.ts lists routes, web/views.ts lists views (docs/console.md, Adding a view).
 */
import { z } from 'zod';
import type { Source } from './source.ts';

export interface Asked {
  /** Aborted when the client has gone. */
  signal: AbortSignal;
}

/** A document becomes JSON; bytes are sent as they are. */
export type Answer = object | Uint8Array<ArrayBuffer>;

export interface Route {
  /** Below `/api/`. */
  path: string;
  /** Error: `invalid-argument` where the query is not as its schema says; those of the answer. */
  answer: (source: Source, query: Readonly<Record<string, string>>, asked: Asked) => Promise<Answer>;
}

/**
 * `query`: the schema of the words behind the `?`. All of them are text, so numbers are read by `number` and `z.coerce`. Bound
 * every one of them: a page asks for what it shows.
 */
export function route<Q extends z.ZodType>(
  path: string,
  query: Q,
  answer: (source: Source, query: z.output<Q>, asked: Asked) => Answer | Promise<Answer>,
): Route {
  return { path, answer: async (source, words, asked) => await answer(source, query.parse(words), asked) };
}

/** A whole number from `min` to `max` in a query. */
export const number = (min: number, max: number) =>
  z
    .string()
    .regex(/^\d{1,15}$/, 'must be a whole number')
    .transform(Number)
    .pipe(z.int().min(min).max(max));

/** A place in a log: a number of events. The routes hold it at the end of the log. */
export const position = number(0, 2 ** 40);
