/**
 * Looks for signatures of a manifest beside it in its repository, as cosign stores them (formats.ts): referrers, from the
 * API or the fallback tag; then the old format's tag. Every account that may push can add some, so one that is broken or
 * foreign is passed over with a reason, and the next one is tried.
 *
 * A signature of cofa (sign.ts) is carried by the list of referrers itself: one round trip finds and checks it.
 */
import { setImmediate } from 'node:timers/promises';
import { hexOf } from '../../schemas/digest.ts';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import type { Descriptor, RegistryClient } from '../registry/client.ts';
import { RequestFailure } from '../registry/failure.ts';
import type { Reference } from '../registry/reference.ts';
import { BUNDLE, MAX_SIGNATURE, SIMPLE, SIMPLE_SIGNATURE } from './formats.ts';
import { mayVouchFor, type TrustedKey } from './keys.ts';
import { type Refusal, type Verdict, verifyBundle, verifySimple } from './verify.ts';

/** Annotation of a signature's manifest, and so of its entry in a list of referrers: the bundle, as JSON. */
export const CARRIED = 'io.cofa.bundle';

export interface Signatures {
  /** Trusted keys that signed it and may vouch for this repository; the first one alone unless `all` was asked for. */
  keys: readonly TrustedKey[];
  /** Those that were looked at and vouch for nothing. */
  refused: ReadonlyArray<{ refusal: Refusal | 'unreadable'; why: string }>;
}

export interface FindOptions {
  signal?: AbortSignal | undefined;
  /** Looks at every signature and at the registry even without keys; by default the first that vouches is enough. */
  all?: boolean;
  /** The search ends after this time, ms, however slowly the registry answers; 30 s by default. */
  limitMs?: number;
}

/** Signatures that the list of referrers carries: each costs the time of a verification, a fraction of a millisecond. */
const MAX_CARRIED = 256;
const LIMIT_MS = 30_000;
/** Signatures that are fetched, of each format. */
const MAX_FETCHED = 64;
const AT_ONCE = 8;
/** Bytes of a signature's manifest, as its entry says; cosign's have less than 1 KB. */
const MAX_MANIFEST = 64 * 1024;

/**
 * Which trusted keys have signed a manifest. `reference` names its repository, `digest` the manifest. Throws what the
 * registry client throws where the registry cannot be asked and no key vouches, `timeout`, and the signal's reason.
 */
export async function signaturesOf(
  client: RegistryClient,
  reference: Reference,
  digest: string,
  keys: readonly TrustedKey[],
  options: FindOptions = {},
): Promise<Signatures> {
  if (keys.length === 0 && options.all !== true) return { keys: [], refused: [] };
  return await new Search(client, reference, digest, keys, options).run();
}

/**
 * In one word what was found:
 *
 *     signed        a trusted key vouches for it
 *     out-of-scope  a trusted key signed it, and may not vouch for this repository
 *     unknown-key   it is signed, by no trusted key
 *     unsigned      no signature of it could be read
 */
export type SignatureState = 'signed' | 'out-of-scope' | 'unknown-key' | 'unsigned';

export function stateOf({ keys, refused }: Signatures): SignatureState {
  if (keys.length > 0) return 'signed';
  const first = (['out-of-scope', 'unknown-key'] as const).find((one) =>
    refused.some(({ refusal }) => refusal === one),
  );
  return first ?? 'unsigned';
}

/** One search; it ends with the first key that vouches unless all are wanted. */
class Search {
  readonly #client: RegistryClient;
  readonly #reference: Reference;
  readonly #digest: string;
  readonly #inScope: TrustedKey[];
  readonly #outOfScope: TrustedKey[];
  readonly #all: boolean;
  readonly #stop = new AbortController();
  readonly #outer: AbortSignal | undefined;
  readonly #late: AbortSignal;
  readonly #signal: AbortSignal;
  readonly #found = new Map<string, TrustedKey>();
  readonly #refused: Array<{ refusal: Refusal | 'unreadable'; why: string }> = [];
  /** Of the registry; it says nothing about signatures. */
  #failure: unknown;

  constructor(
    client: RegistryClient,
    reference: Reference,
    digest: string,
    keys: readonly TrustedKey[],
    { signal, all = false, limitMs = LIMIT_MS }: FindOptions,
  ) {
    this.#client = client;
    this.#reference = reference;
    this.#digest = digest;
    this.#inScope = keys.filter((key) => mayVouchFor(key, reference));
    this.#outOfScope = keys.filter((key) => !mayVouchFor(key, reference));
    this.#all = all;
    this.#outer = signal;
    this.#late = AbortSignal.timeout(limitMs);
    this.#signal = AbortSignal.any([
      this.#stop.signal,
      this.#late,
      ...(signal === undefined ? [] : [signal]),
    ]);
  }

  async run(): Promise<Signatures> {
    await this.#look('the list of its referrers', () => this.#newOnes());
    if (!this.#isDone()) await this.#look('its signature tag', () => this.#oldOnes());
    this.#outer?.throwIfAborted();
    if (this.#found.size === 0 && this.#late.aborted) {
      const { registry } = this.#reference;
      this.#failure ??= new CofaError(
        'timeout',
        `the signatures of ${this.#digest} did not arrive from ${registry} in time`,
      );
    }
    if (this.#found.size === 0 && this.#failure !== undefined) throw this.#failure;
    return { keys: [...this.#found.values()], refused: this.#refused };
  }

  async #newOnes(): Promise<void> {
    const digest = this.#digest;
    const list = await this.#client.referrers(this.#reference, digest, undefined, this.#signal);
    const unique = new Map(list.map((entry) => [entry.digest, entry]));
    const bundles = [...unique.values()].filter(({ artifactType }) => artifactType === BUNDLE);
    const isCarried = ({ annotations }: Descriptor) => annotations?.[CARRIED] !== undefined;
    const carried = this.#atMost(bundles.filter(isCarried), MAX_CARRIED);
    for (const entry of carried) {
      if (this.#isDone()) return;
      const bytes = Buffer.from(entry.annotations?.[CARRIED] ?? '');
      // Each may take a millisecond, and other work waits.
      await setImmediate();
      this.#judge(entry.digest, (keys) => verifyBundle(bytes, digest, keys));
    }
    const others = this.#atMost(
      bundles.filter((entry) => !isCarried(entry)),
      MAX_FETCHED,
    );
    await this.#each(others, (entry) => this.#fetchBundle(entry));
  }

  async #fetchBundle(entry: Descriptor): Promise<void> {
    if (entry.size > MAX_MANIFEST)
      return this.#refuse(entry.digest, 'malformed', 'its manifest is too large');
    const { parsed } = await this.#client.manifest(this.#reference, entry.digest, this.#signal);
    const layer =
      parsed.kind === 'manifest'
        ? parsed.manifest.layers.find(({ mediaType }) => mediaType === BUNDLE)
        : undefined;
    if (layer === undefined) return this.#refuse(entry.digest, 'malformed', 'it has no bundle');
    const bytes = await this.#client.blob(this.#reference, layer, this.#signal, MAX_SIGNATURE);
    this.#judge(entry.digest, (keys) => verifyBundle(bytes, this.#digest, keys));
  }

  async #oldOnes(): Promise<void> {
    const tag = `sha256-${hexOf(this.#digest)}.sig`;
    const fetched = await this.#client
      .manifest(this.#reference, tag, this.#signal)
      .catch((error: unknown) => {
        if (error instanceof RequestFailure && error.status === 404) return undefined;
        throw error;
      });
    if (fetched === undefined) return;
    if (fetched.parsed.kind !== 'manifest') return this.#refuse(tag, 'malformed', 'it is an index');
    const layers = fetched.parsed.manifest.layers.filter(
      ({ mediaType, annotations }) => mediaType === SIMPLE && annotations?.[SIMPLE_SIGNATURE] !== undefined,
    );
    await this.#each(this.#atMost(layers, MAX_FETCHED), async (layer) => {
      const claim = await this.#client.blob(this.#reference, layer, this.#signal, MAX_SIGNATURE);
      const signature = layer.annotations?.[SIMPLE_SIGNATURE] ?? '';
      this.#judge(layer.digest, (keys) => verifySimple(claim, signature, this.#digest, keys));
    });
  }

  #isDone(): boolean {
    return this.#signal.aborted;
  }

  #judge(what: string, verify: (keys: readonly TrustedKey[]) => Verdict): void {
    const verdict = verify(this.#inScope);
    if ('key' in verdict) {
      this.#found.set(verdict.key.name, verdict.key);
      if (!this.#all) this.#stop.abort();
      return;
    }
    const elsewhere = verdict.refusal === 'unknown-key' ? verify(this.#outOfScope) : verdict;
    if ('key' in elsewhere)
      this.#refuse(what, 'out-of-scope', `key ${elsewhere.key.name} may not vouch for this repository`);
    else this.#refuse(what, elsewhere.refusal, elsewhere.why);
  }

  #refuse(what: string, refusal: Refusal | 'unreadable', why: string): void {
    this.#refused.push({ refusal, why: `signature ${what}: ${why}`.slice(0, 300) });
  }

  /** Each of them, some at a time, until one vouches. */
  async #each<T extends Descriptor>(all: readonly T[], look: (one: T) => Promise<void>): Promise<void> {
    const left = [...all];
    const lane = async () => {
      for (let one = left.shift(); one !== undefined && !this.#isDone(); one = left.shift()) {
        const { digest } = one;
        const next = one;
        await this.#look(digest, () => look(next));
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, lane));
  }

  /** What cannot be read of a signature is its fault; what the registry does not answer is kept for the end. */
  async #look(what: string, look: () => Promise<void>): Promise<void> {
    try {
      await look();
    } catch (error) {
      if (this.#isDone()) return;
      const { code, message } = toErrorRecord(error);
      if (UNREADABLE.has(code)) this.#refuse(what, 'unreadable', message);
      else this.#failure ??= error;
    }
  }

  #atMost<T>(all: readonly T[], most: number): readonly T[] {
    if (all.length > most)
      this.#refuse('list', 'unreadable', `only ${most} of ${all.length} signatures are looked at`);
    return all.slice(0, most);
  }
}

const UNREADABLE: ReadonlySet<string> = new Set([
  'integrity',
  'unsupported',
  'not-found',
  'conflict',
  // The repository itself can be read: its sidecar was.
  'unauthorized',
]);
