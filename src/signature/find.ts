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
import { isIdentity, mayVouchFor, type Trusted, type TrustedKey } from './keys.ts';
import { judgeBundle, type Refusal, verifySimple, type Vouching, vouchingOf } from './verify.ts';

/** Annotation of a signature's manifest, and so of its entry in a list of referrers: the bundle, as JSON. */
export const CARRIED = 'io.cofa.bundle';

export interface Signatures {
  /**
   * Trusted keys and identities that signed it and may vouch for this repository; the first one alone unless `all` was asked
   * for.
   */
  signers: readonly Vouching[];
  /** Those that were looked at and vouch for nothing. */
  refused: ReadonlyArray<{ refusal: Refusal | 'unreadable'; why: string }>;
}

export interface FindOptions {
  signal?: AbortSignal | undefined;
  /** Looks at every signature, and at the registry even where no one is trusted; by default the first that vouches is enough. */
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
/** Signatures with a certificate: each takes some milliseconds. */
const MAX_CERTIFICATES = 64;
/** Bytes of a signature's manifest, as its entry says; cosign's have less than 1 KB. */
const MAX_MANIFEST = 64 * 1024;

/**
 * Which trusted keys and identities have signed a manifest. `reference` names its repository, `digest` the manifest. Throws what the
 * registry client throws where the registry cannot be asked and no one vouches, `timeout`, and the signal's reason.
 */
export async function signaturesOf(
  client: RegistryClient,
  reference: Reference,
  digest: string,
  trusted: readonly Trusted[],
  options: FindOptions = {},
): Promise<Signatures> {
  if (trusted.length === 0 && options.all !== true) return { signers: [], refused: [] };
  return await new Search(client, reference, digest, trusted, options).run();
}

/**
 * In one word what was found:
 *
 *     signed            a trusted key or identity vouches for it
 *     out-of-scope      one signed it, and may not vouch for this repository
 *     unknown-identity  it is signed with a certificate, by no trusted identity
 *     unknown-key       it is signed, by no trusted key
 *     unsigned          no signature of it could be read
 */
export type SignatureState = 'signed' | 'out-of-scope' | 'unknown-identity' | 'unknown-key' | 'unsigned';

export function stateOf({ signers, refused }: Signatures): SignatureState {
  if (signers.length > 0) return 'signed';
  const first = (['out-of-scope', 'unknown-identity', 'unknown-key'] as const).find((one) =>
    refused.some(({ refusal }) => refusal === one),
  );
  return first ?? 'unsigned';
}

/** One search; it ends with the first that vouches unless all are wanted. */
class Search {
  readonly #client: RegistryClient;
  readonly #reference: Reference;
  readonly #digest: string;
  /** Those that may vouch for the repository first. */
  readonly #trusted: Trusted[];
  readonly #all: boolean;
  readonly #stop = new AbortController();
  readonly #outer: AbortSignal | undefined;
  readonly #late: AbortSignal;
  readonly #signal: AbortSignal;
  readonly #found = new Map<string, Vouching>();
  #certificates = 0;
  readonly #refused: Array<{ refusal: Refusal | 'unreadable'; why: string }> = [];
  /** Of the registry; it says nothing about signatures. */
  #failure: unknown;

  constructor(
    client: RegistryClient,
    reference: Reference,
    digest: string,
    trusted: readonly Trusted[],
    { signal, all = false, limitMs = LIMIT_MS }: FindOptions,
  ) {
    this.#client = client;
    this.#reference = reference;
    this.#digest = digest;
    const mayVouch = (one: Trusted) => mayVouchFor(one, reference);
    this.#trusted = [...trusted.filter(mayVouch), ...trusted.filter((one) => !mayVouch(one))];
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
    return { signers: [...this.#found.values()], refused: this.#refused };
  }

  async #newOnes(): Promise<void> {
    const list = await this.#client.referrers(this.#reference, this.#digest, undefined, this.#signal);
    const unique = new Map(list.map((entry) => [entry.digest, entry]));
    const bundles = [...unique.values()].filter(({ artifactType }) => artifactType === BUNDLE);
    const isCarried = ({ annotations }: Descriptor) => annotations?.[CARRIED] !== undefined;
    const carried = this.#atMost(bundles.filter(isCarried), MAX_CARRIED);
    for (const entry of carried) {
      if (this.#isDone()) return;
      const bytes = Buffer.from(entry.annotations?.[CARRIED] ?? '');
      // Each may take a millisecond, and other work waits.
      await setImmediate();
      this.#take(entry.digest, await this.#judgeBundle(bytes));
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
    this.#take(entry.digest, await this.#judgeBundle(bytes));
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
    const keys = this.#trusted.filter((one): one is TrustedKey => !isIdentity(one));
    await this.#each(this.#atMost(layers, MAX_FETCHED), async (layer) => {
      const claim = await this.#client.blob(this.#reference, layer, this.#signal, MAX_SIGNATURE);
      const signature = layer.annotations?.[SIMPLE_SIGNATURE] ?? '';
      const verdict = verifySimple(claim, signature, this.#digest, keys);
      this.#take(layer.digest, 'key' in verdict ? vouchingOf(verdict.key) : verdict);
    });
  }

  #isDone(): boolean {
    return this.#signal.aborted;
  }

  async #judgeBundle(bytes: Uint8Array): ReturnType<typeof judgeBundle> {
    const keyed = await judgeBundle(
      bytes,
      this.#digest,
      this.#trusted.filter((one) => !isIdentity(one)),
    );
    if ('by' in keyed || keyed.refusal !== 'unknown-identity' || !this.#trusted.some(isIdentity))
      return keyed;
    this.#certificates += 1;
    if (this.#certificates > MAX_CERTIFICATES) {
      const why = `only ${MAX_CERTIFICATES} signatures with certificates are looked at`;
      return { refusal: 'unknown-identity', why };
    }
    return await judgeBundle(bytes, this.#digest, this.#trusted.filter(isIdentity));
  }

  #take(what: string, verdict: Awaited<ReturnType<typeof judgeBundle>>): void {
    if ('refusal' in verdict) return this.#refuse(what, verdict.refusal, verdict.why);
    const { by, voucher } = verdict;
    if (!mayVouchFor(by, this.#reference)) {
      const kind = isIdentity(by) ? 'identity' : 'key';
      return this.#refuse(what, 'out-of-scope', `${kind} ${by.name} may not vouch for this repository`);
    }
    this.#found.set(voucher, verdict);
    if (!this.#all) this.#stop.abort();
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
