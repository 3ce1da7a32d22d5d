/**
 * The operator's keys and identities, as the supervisor uses them: which of them may vouch for a repository now, and which of
 * them has signed a sidecar. The folder is read before each choice, so a key counts as long as its file is there.
 */
import type { Logger } from 'pino';
import type { Conditions } from '../../process/conditions.ts';
import type { RegistryClient, ResolvedImage } from '../../registry/client.ts';
import { domainOf } from '../../registry/reference.ts';
import type { SidecarHandle } from '../../registry/sidecars.ts';
import { signaturesAmong } from '../../signature/among.ts';
import { signaturesOf } from '../../signature/find.ts';
import { type KeySet, readKeys, trustedOf } from '../../signature/key-directory.ts';
import { voucherOfIdentity } from '../../signature/identities.ts';
import { isIdentity, mayVouchFor, type Trusted, voucherOfKey } from '../../signature/keys.ts';
import type { Signers } from './sidecar-choice.ts';

export interface KeysOptions {
  /** Folder of the keys. */
  directory: string;
  registry: RegistryClient;
  conditions: Conditions;
  log: Logger;
}

/** How the event `image.prepared` may name one that has vouched: an identity by each CA that can have said so. */
const vouchersOf = (one: Trusted): string[] =>
  isIdentity(one) ? one.root.anchors.map((anchor) => voucherOfIdentity(one, anchor)) : [voucherOfKey(one)];

export class Keys implements Signers {
  readonly #options: KeysOptions;
  #set: KeySet = { keys: [], identities: [], problems: [] };
  /** Paths of files whose problem is a condition. */
  #told = new Set<string>();

  constructor(options: KeysOptions) {
    this.#options = options;
  }

  /** Reads the folder again. Files that are no key are conditions of the engine until they are put right. */
  async refresh(): Promise<void> {
    const { directory, conditions } = this.#options;
    const set = await readKeys(directory);
    this.#set = set;
    const told = new Set(set.problems.map(({ path }) => path));
    for (const { path, message } of set.problems) conditions.set(`key:${path}`, message);
    for (const path of this.#told) if (!told.has(path)) conditions.clear(`key:${path}`);
    this.#told = told;
  }

  /** Who may vouch for what lies in a repository, as of the last refresh; `registry`: the host that is asked. */
  namesFor({ registry, repository }: { registry: string; repository: string }): ReadonlySet<string> {
    const place = { domain: domainOf(registry), repository };
    return new Set(
      trustedOf(this.#set)
        .filter((one) => mayVouchFor(one, place))
        .flatMap(vouchersOf),
    );
  }

  async signersAmong(
    image: ResolvedImage,
    digests: readonly string[],
  ): Promise<ReadonlyMap<string, string | false>> {
    const { registry } = this.#options;
    const found = await signaturesAmong(registry, image.reference, digests, trustedOf(this.#set));
    return new Map([...found].map(([digest, { signers }]) => [digest, signers[0]?.voucher ?? false]));
  }

  async signerOf(image: ResolvedImage, sidecar: SidecarHandle['descriptor']): Promise<string | undefined> {
    const { registry, log } = this.#options;
    const trusted = trustedOf(this.#set);
    const { signers, refused } = await signaturesOf(registry, image.reference, sidecar.digest, trusted);
    const [signer] = signers;
    if (signer !== undefined) {
      const { by, identity, voucher } = signer;
      // The log of events names the rule alone.
      if (identity !== undefined)
        log.info({ sidecar: sidecar.digest, rule: by.name, ...identity }, 'an identity vouches');
      return voucher;
    }
    if (refused.length > 0)
      log.warn(
        { image: image.reference.text, sidecar: sidecar.digest, refused },
        'signatures that do not count',
      );
    return undefined;
  }
}
