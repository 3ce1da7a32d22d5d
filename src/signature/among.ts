/**
 * Which of several sidecars a trusted key or identity has signed. Every account that may push can put any number of sidecars beside an
 * image, so signed ones are looked for before the others are: none of those can take their place.
 */
import type { RegistryClient } from '../registry/client.ts';
import type { Reference } from '../registry/reference.ts';
import type { Prefer } from '../registry/sidecars.ts';
import { type Signatures, signaturesOf } from './find.ts';
import type { Trusted } from './keys.ts';

/** Sidecars whose signatures are asked for; it takes two requests for each. */
const MOST_ASKED = 256;
const AT_ONCE = 16;
/** The search ends after this time, ms. */
const LIMIT_MS = 30_000;

/**
 * What is known of the signatures of the first sidecars, by digest: of all up to the first one that one vouches for, and
 * perhaps of some after it. One whose signatures the registry did not tell has no entry. `digests` in the order in which
 * they are preferred. Error: the signal's reason.
 */
export async function signaturesAmong(
  client: RegistryClient,
  reference: Reference,
  digests: readonly string[],
  trusted: readonly Trusted[],
  signal?: AbortSignal,
): Promise<Map<string, Signatures>> {
  const found = new Map<string, Signatures>();
  if (trusted.length === 0) return found;
  const stop = new AbortController();
  const late = AbortSignal.timeout(LIMIT_MS);
  const ended = AbortSignal.any([stop.signal, late, ...(signal === undefined ? [] : [signal])]);
  const left = digests.slice(0, MOST_ASKED);
  const asked: Array<Promise<boolean>> = [];
  const ask = async (digest: string): Promise<boolean> => {
    const signatures = await signaturesOf(client, reference, digest, trusted, { signal: ended });
    found.set(digest, signatures);
    return signatures.signers.length > 0;
  };
  while (left.length > 0 || asked.length > 0) {
    if (ended.aborted) break;
    while (asked.length < AT_ONCE) {
      const next = left.shift();
      if (next === undefined) break;
      asked.push(ask(next).catch(() => false));
    }
    if ((await asked.shift()) === true) break;
  }
  stop.abort();
  signal?.throwIfAborted();
  return found;
}

/** Those that a trusted key or identity vouches for come first. */
export function signedFirst(
  client: RegistryClient,
  reference: Reference,
  trusted: readonly Trusted[],
  signal?: AbortSignal,
): Prefer {
  return async (candidates) => {
    const digests = candidates.map(({ digest }) => digest);
    const found = await signaturesAmong(client, reference, digests, trusted, signal);
    return new Set(digests.filter((digest) => (found.get(digest)?.signers.length ?? 0) > 0));
  };
}
