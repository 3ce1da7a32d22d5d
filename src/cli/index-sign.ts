/**
 * `cofa index --sign KEY`: who signs, and what. A signature says that the holder of the key vouches for a sidecar, and
 * everyone who may push can have put one beside the image. So a sidecar that is there already is signed as it is only where a
 * trusted key vouches for it, or the user names its digest. Otherwise the image is read again: the same layers give the
 * same sidecar, and what this machine has made itself is signed.
 */
import { resolve } from 'node:path';
import { isDigest } from '../../schemas/digest.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { Descriptor, RegistryClient, ResolvedImage } from '../registry/client.ts';
import type { SidecarHandle } from '../registry/sidecars.ts';
import type { Trusted, TrustedKey } from '../signature/keys.ts';
import type { SigningKey } from '../signature/private-key.ts';
import type { Context } from './context.ts';
import { readSigningKey } from './signing-key.ts';

export interface SignOptions {
  /** A file, or env:NAME. */
  sign?: string;
  /** Digest of the sidecar to sign. */
  sidecar?: string;
  /** Folder of trusted keys. */
  keys: string;
}

/** What was signed. */
export interface Signed {
  /** Of the key. */
  fingerprint: string;
  /** Digest of the signature's manifest; undefined: this key has signed it before. */
  signature: string | undefined;
}

/** Undefined where nothing is to be signed. Errors: of the key; `invalid-argument`. */
export async function signerOf(options: SignOptions, context: Context): Promise<Signer | undefined> {
  const { sign, sidecar, keys } = options;
  if (sidecar !== undefined && sign === undefined)
    throw new CofaError('invalid-argument', '--sidecar needs --sign');
  if (sidecar !== undefined && !isDigest(sidecar))
    throw new CofaError('invalid-argument', `--sidecar: ${JSON.stringify(sidecar)} is not a sha256 digest`);
  if (sign === undefined) return undefined;
  const { readKeys, trustedOf } = await import('../signature/key-directory.ts');
  const key = await readSigningKey(sign, context);
  return new Signer(key, trustedOf(await readKeys(resolve(keys))), sidecar);
}

export class Signer {
  readonly #key: SigningKey;
  readonly #own: TrustedKey;
  readonly #trusted: readonly Trusted[];
  readonly #sidecar: string | undefined;

  constructor(key: SigningKey, trusted: readonly Trusted[], sidecar: string | undefined) {
    this.#key = key;
    this.#own = { ...key.publicKey, name: 'the signing key', scope: undefined };
    this.#trusted = trusted;
    this.#sidecar = sidecar;
  }

  /**
   * A sidecar of the image that may be signed as it is: the named one, else the first that a trusted key vouches for.
   * Error: `not-found` where the image has no sidecar of that name.
   */
  async existing(
    client: RegistryClient,
    image: ResolvedImage,
    signal: AbortSignal,
  ): Promise<SidecarHandle | undefined> {
    const [{ sidecarsOf }, { signaturesOf }, { signedFirst }] = await Promise.all([
      import('../registry/sidecars.ts'),
      import('../signature/find.ts'),
      import('../signature/among.ts'),
    ]);
    const keys = [this.#own, ...this.#trusted];
    const named = this.#sidecar;
    const prefer =
      named === undefined ? signedFirst(client, image.reference, keys, signal) : async () => new Set([named]);
    for await (const handle of sidecarsOf(client, image, signal, undefined, prefer)) {
      const { digest } = handle.descriptor;
      if (this.#sidecar === undefined) {
        const found = await signaturesOf(client, image.reference, digest, keys, { signal });
        if (found.signers.length > 0) return handle;
      } else if (digest === this.#sidecar) return handle;
    }
    if (this.#sidecar === undefined) return undefined;
    throw new CofaError('not-found', `${image.reference.text} has no sidecar ${this.#sidecar}`, {
      hint: 'cofa inspect shows which it has; without --sidecar the image is indexed',
    });
  }

  /** Signs a sidecar, unless this key has signed it before. */
  async sign(
    client: RegistryClient,
    image: ResolvedImage,
    sidecar: Descriptor,
    signal: AbortSignal,
  ): Promise<Signed> {
    const [{ signaturesOf }, { attachSignature }] = await Promise.all([
      import('../signature/find.ts'),
      import('../signature/sign.ts'),
    ]);
    const { fingerprint } = this.#own;
    const found = await signaturesOf(client, image.reference, sidecar.digest, [this.#own], { signal });
    if (found.signers.length > 0) return { fingerprint, signature: undefined };
    const now = new Date();
    const { digest } = await attachSignature(client, image.reference, sidecar, this.#key, { now, signal });
    return { fingerprint, signature: digest };
  }
}

/** For `--json`: null where nothing was asked for; `signature` is null where it was there before. */
export const signedView = (signed: Signed | undefined) => ({
  signedBy: signed?.fingerprint ?? null,
  signature: signed?.signature ?? null,
});

export const signedText = ({ fingerprint, signature }: Signed): string =>
  signature === undefined ? `signed before by ${fingerprint}` : `signed now by ${fingerprint}`;
