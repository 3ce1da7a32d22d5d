/**
 * Who gets what a home has. The registry decides, for each asker: a home has no credentials, and what it holds proves nothing.
 *
 * - What the registry gives to everyone, every member gets.
 * - Anything else is given to a member that comes with the registry's token of its own pull. The home shows the token to the
 *   registry, once a while for each member and blob, and keeps none: what it remembers is that this member may.
 * - Where a registry gives no tokens (a password with each request), nothing can be shown without giving it away: members
 *   fetch such blobs by themselves.
 *
 * While the registry does not answer, what was public lately is so still. No one else is let in.
 */
import { CofaError } from '../../schemas/errors.ts';
import type { BlobSource } from '../../schemas/fetch.ts';
import type { RegistryClient, Right } from '../registry/client.ts';
import { Refusal } from './refusal.ts';

export interface RightsOptions {
  registry: Pick<RegistryClient, 'isBlobGiven'>;
  /** ms. */
  now: () => number;
}

/** As on one node (docs/private-images.md). */
const PUBLIC_MS = 600_000;
const PRIVATE_MS = 60_000;
/** What a member has shown counts for so long, ms: a password that is taken back ends it. */
const SHOWN_MS = 60_000;
const STALE_MS = 3_600_000;
const ANSWER_MS = 5_000;
/** A registry that did not answer is not asked again for so long, ms: behind mirrors alone it never does. */
const SILENT_MS = 30_000;
/** Verdicts that are remembered. */
const MOST = 10_000;

interface Verdict {
  isPublic: boolean;
  at: number;
}

export class Rights {
  readonly #options: RightsOptions;
  /** By repository and blob, oldest first. */
  readonly #public = new Map<string, Verdict>();
  readonly #asking = new Map<string, Promise<boolean>>();
  /** Registries that did not answer, and until when they are not asked. */
  readonly #silent = new Map<string, number>();
  /** By member, repository and blob: since when. */
  readonly #shown = new Map<string, number>();

  constructor(options: RightsOptions) {
    this.#options = options;
  }

  /**
   * With whose right the blob may be fetched for this member, and given to it. Errors: Refusal (`bring`: come with a token; `none`:
   * the registry does not give it to this member, or does not answer).
   */
  async of(source: BlobSource, member: string, token: string | undefined): Promise<Right> {
    if (await this.#isPublic(source)) return 'everyone';
    if (token === undefined)
      throw new Refusal(
        'bring',
        'the registry does not give this to everyone: come with a token of your pull',
      );
    const key = `${member} ${keyOf(source)}`;
    const { registry, now } = this.#options;
    const right: Right = { token };
    if (now() - (this.#shown.get(key) ?? Number.NEGATIVE_INFINITY) < SHOWN_MS) return right;
    const isGiven = await registry
      .isBlobGiven(source, source.digest, right, AbortSignal.timeout(ANSWER_MS))
      .catch((error: unknown) => {
        throw new Refusal('none', `the registry does not say whether you may have it: ${text(error)}`);
      });
    if (!isGiven) throw new Refusal('none', 'the registry does not give it to you');
    remember(this.#shown, key, now());
    return right;
  }

  async #isPublic(source: BlobSource): Promise<boolean> {
    const key = keyOf(source);
    const now = this.#options.now();
    const known = this.#public.get(key);
    if (known !== undefined && now - known.at < (known.isPublic ? PUBLIC_MS : PRIVATE_MS))
      return known.isPublic;
    try {
      if ((this.#silent.get(source.registry) ?? 0) > now)
        throw new CofaError('unavailable', `${source.registry} did not answer lately`);
      return await this.#ask(source, key);
    } catch (error) {
      if (known?.isPublic === true && now - known.at < STALE_MS) return true;
      throw new Refusal('none', `the registry does not say who may have it: ${text(error)}`);
    }
  }

  /** Members that ask at the same time share one question. */
  #ask(source: BlobSource, key: string): Promise<boolean> {
    const { registry, now } = this.#options;
    let asking = this.#asking.get(key);
    if (asking === undefined) {
      asking = registry
        .isBlobGiven(source, source.digest, 'everyone', AbortSignal.timeout(ANSWER_MS))
        .then((isPublic) => {
          remember(this.#public, key, { isPublic, at: now() });
          return isPublic;
        })
        .catch((error: unknown) => {
          remember(this.#silent, source.registry, now() + SILENT_MS);
          throw error;
        })
        .finally(() => this.#asking.delete(key));
      this.#asking.set(key, asking);
    }
    return asking;
  }
}

const keyOf = ({ registry, repository, digest }: BlobSource): string => `${registry}/${repository}@${digest}`;

const text = (error: unknown): string => (error instanceof CofaError ? error.message : String(error));

function remember<Value>(map: Map<string, Value>, key: string, value: Value): void {
  map.delete(key);
  map.set(key, value);
  if (map.size > MOST) map.delete(map.keys().next().value as string);
}
