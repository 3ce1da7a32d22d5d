/**
 * Whether a trusted key has signed a digest: pure functions over bytes that a stranger wrote, for both formats
 * (formats.ts). They compare what cosign compares: the signature, and that what was signed is a signature of this digest.
 */
import { verify } from 'node:crypto';
import { hexOf } from '../../schemas/digest.ts';
import { toErrorRecord } from '../../schemas/errors.ts';
import {
  bundleSchema,
  parseJson,
  preAuthentication,
  readJson,
  SIGNED,
  SIMPLE_CLAIM,
  simpleSchema,
  statementSchema,
} from './formats.ts';
import type { SignerIdentity, TrustedIdentity } from './identities.ts';
import { hashFor, hintOf, isIdentity, type Trusted, type TrustedKey, voucherOfKey } from './keys.ts';

/**
 *     malformed         it is not what its type says
 *     other             it is about another digest, or no signature (an attestation)
 *     unknown-key       no given key has signed it
 *     unknown-identity  it is signed with a certificate, and no given identity's
 *     out-of-scope      a trusted key or identity has signed it that may not vouch for this repository
 */
export type Refusal = 'malformed' | 'other' | 'unknown-key' | 'unknown-identity' | 'out-of-scope';

interface Refused {
  refusal: Refusal;
  why: string;
}
export type Verdict = { key: TrustedKey } | Refused;

/** Who has signed. */
export interface Vouching {
  by: Trusted;
  /** As the log names it: `key:…` or `identity:…`. */
  voucher: string;
  /** Of a certificate. */
  identity?: SignerIdentity;
}

/** Who of the given ones has signed the digest in a sigstore bundle, by a key or by a certificate. Never throws. */
export async function judgeBundle(
  bytes: Uint8Array,
  digest: string,
  trusted: readonly Trusted[],
): Promise<Vouching | Refused> {
  const keys = trusted.filter((one): one is TrustedKey => !isIdentity(one));
  const verdict = verifyBundle(bytes, digest, keys);
  if ('key' in verdict) return vouchingOf(verdict.key);
  if (verdict.refusal !== 'unknown-identity') return verdict;
  const identities = trusted.filter(isIdentity);
  return identities.length === 0 ? verdict : await judgeCertificate(bytes, identities);
}

/** The bundle is known to be well formed, and about the right digest. */
async function judgeCertificate(
  bytes: Uint8Array,
  identities: readonly TrustedIdentity[],
): Promise<Vouching | Refused> {
  const { verifyKeyless } = await import('./keyless.ts');
  const { payload } = readJson(bytes, bundleSchema, 'the bundle').dsseEnvelope;
  const verdict = verifyKeyless(parseJson(bytes, 'the bundle'), payload, identities);
  if ('identity' in verdict) {
    const { identity: by, signer: identity, voucher } = verdict;
    return { by, voucher, identity };
  }
  return { refusal: verdict.isMalformed ? 'malformed' : 'unknown-identity', why: verdict.why };
}

export const vouchingOf = (key: TrustedKey): Vouching => ({ by: key, voucher: voucherOfKey(key) });

/** Which of the keys has signed the digest (`sha256:<hex>`) in a sigstore bundle. Never throws. */
export function verifyBundle(bytes: Uint8Array, digest: string, keys: readonly TrustedKey[]): Verdict {
  return judged(() => {
    const { dsseEnvelope, verificationMaterial } = readJson(bytes, bundleSchema, 'the bundle');
    const { payload, signatures } = dsseEnvelope;
    const statement = readJson(payload, statementSchema, "the bundle's statement");
    if (statement.predicateType !== SIGNED) return other('it is an attestation, not a signature');
    const hex = hexOf(digest);
    const isNamed = statement.subject.some(
      (one) => Object.hasOwn(one.digest, 'sha256') && one.digest['sha256'] === hex,
    );
    if (!isNamed) return other('it signs another digest');
    const { certificate, publicKey } = verificationMaterial;
    // Only a matter of speed: a hint may be missing, and anyone may write one.
    const likely = keys.filter((key) => hintOf(key) === publicKey?.hint);
    const others = keys.filter((key) => !likely.includes(key));
    const verdict = signer(preAuthentication(payload), signatures[0].sig, [...likely, ...others]);
    return 'key' in verdict || certificate === undefined ? verdict : UNKNOWN_IDENTITY;
  });
}

const UNKNOWN_IDENTITY: Refused = {
  refusal: 'unknown-identity',
  why: 'it is signed with a certificate, and this node has no rule for identities (cofa trust add --issuer)',
};

/**
 * Which of the keys has signed the digest by a claim in the old format. `signature`: the layer's annotation, base64.
 * Never throws.
 */
export function verifySimple(
  claim: Uint8Array,
  signature: string,
  digest: string,
  keys: readonly TrustedKey[],
): Verdict {
  return judged(() => {
    const { image, type } = readJson(claim, simpleSchema, 'the claim').critical;
    if (type !== SIMPLE_CLAIM) return other('it is not a signature of an image');
    if (image['docker-manifest-digest'] !== digest) return other('it signs another digest');
    const bytes = Buffer.from(signature, 'base64');
    if (bytes.toString('base64') !== signature)
      return { refusal: 'malformed', why: 'its signature is not base64' };
    return signer(claim, bytes, keys);
  });
}

function judged(judge: () => Verdict): Verdict {
  try {
    return judge();
  } catch (error) {
    return { refusal: 'malformed', why: toErrorRecord(error).message };
  }
}

const other = (why: string): Verdict => ({ refusal: 'other', why });

function signer(signed: Uint8Array, signature: Buffer, keys: readonly TrustedKey[]): Verdict {
  const key = keys.find(({ key, kind }) => verify(hashFor(kind), signed, key, signature));
  return key === undefined ? { refusal: 'unknown-key', why: 'no trusted key has signed it' } : { key };
}
