/**
 * Whether a trusted key has signed a digest: pure functions over bytes that a stranger wrote, for both formats
 * (formats.ts). They compare what cosign compares: the signature, and that what was signed is a signature of this digest.
 */
import { verify } from 'node:crypto';
import { hexOf } from '../../schemas/digest.ts';
import { toErrorRecord } from '../../schemas/errors.ts';
import {
  bundleSchema,
  preAuthentication,
  readJson,
  SIGNED,
  SIMPLE_CLAIM,
  simpleSchema,
  statementSchema,
} from './formats.ts';
import { hashFor, hintOf, type TrustedKey } from './keys.ts';

/**
 *     malformed     it is not what its type says
 *     other         it is about another digest, or no signature (an attestation)
 *     unknown-key   no given key has signed it
 *     out-of-scope  a trusted key has signed it that may not vouch for this repository
 */
export type Refusal = 'malformed' | 'other' | 'unknown-key' | 'out-of-scope';

export type Verdict = { key: TrustedKey } | { refusal: Refusal; why: string };

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
    const hint = verificationMaterial.publicKey?.hint;
    // Only a matter of speed: a hint may be missing, and anyone may write one.
    const likely = keys.filter((key) => hintOf(key) === hint);
    const others = keys.filter((key) => !likely.includes(key));
    return signer(preAuthentication(payload), signatures[0].sig, [...likely, ...others]);
  });
}

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
