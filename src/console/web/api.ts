/** Asks the console's server. Every answer is a document of a route (src/console/routes.ts). */
import { signal } from '@preact/signals';

export class ApiError extends Error {
  readonly code: string;
  readonly hint: string | undefined;

  constructor({ code, message, hint }: { code: string; message: string; hint?: string }) {
    super(message);
    this.code = code;
    this.hint = hint;
  }
}

/** Why the server does not answer; undefined while it does. */
export const away = signal<string | undefined>(undefined);
export const NO_ANSWER = 'The console does not answer: has cofa console ended?';

/** The incident whose stretch of the log this page shows; undefined: it shows the console's log. */
export const incident = new URLSearchParams(location.search).get('incident') ?? undefined;

/** The page of an incident's stretch; `hash`: of a view. */
export const pageOfIncident = (name: string, hash: string): string =>
  `./?incident=${encodeURIComponent(name)}${hash}`;

/** Of an answer: about what this page shows. */
export function addressOfAnswer(path: string, query: Query = {}): string {
  const words = new URLSearchParams(Object.entries(query).map(([name, value]) => [name, String(value)]));
  if (incident !== undefined) words.set('incident', incident);
  return `./api/${path}${words.size > 0 ? `?${words}` : ''}`;
}

export type Query = Record<string, string | number>;

/** Errors: `ApiError`; what an abort throws. */
export async function ask<T>(path: string, query: Query = {}, stop?: AbortSignal): Promise<T> {
  return (await (await get(path, query, stop)).json()) as T;
}

export async function askBytes(path: string, query: Query = {}, stop?: AbortSignal): Promise<ArrayBuffer> {
  return await (await get(path, query, stop)).arrayBuffer();
}

/** Errors: as those of `ask`. */
export async function get(path: string, query: Query, stop: AbortSignal | undefined): Promise<Response> {
  const response = await fetch(addressOfAnswer(path, query), {
    ...(stop === undefined ? {} : { signal: stop }),
    credentials: 'same-origin',
  }).catch((error: unknown) => {
    if (stop?.aborted !== true) away.value = NO_ANSWER;
    throw error;
  });
  if (response.ok) {
    away.value = undefined;
    return response;
  }
  if (response.status === 401) away.value = 'The console has started anew: open the address that it printed.';
  const failure = (await response.json().catch(() => undefined)) as
    | { code: string; message: string; hint?: string }
    | undefined;
  throw new ApiError(failure ?? { code: 'internal', message: `${path}: ${response.status}` });
}

/** What failed, as one sentence. */
export const sentenceOf = (error: unknown): string =>
  error instanceof ApiError && error.hint !== undefined
    ? `${error.message} (${error.hint})`
    : error instanceof Error
      ? error.message
      : String(error);
