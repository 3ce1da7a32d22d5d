/**
 * Signatures without a key (`cosign sign` by an identity): a certificate of a CA that lives for minutes (Fulcio), the entry of a
 * transparency log (Rekor) or a timestamp (RFC 3161) that says when it signed, all in one bundle. Everything is checked here
 * against the operator's trust root; nothing is asked of anyone.
 *
 * @sigstore/verify checks certificates, their log, the entry, the time and the signature. What it leaves to its caller is here:
 * what was signed (verify.ts), who may sign, and which of its checks the trust root makes necessary. This module loads some
 * sixty others, so it is imported where a bundle with a certificate meets a rule, and not before.
 */
import { X509Certificate } from 'node:crypto';
import { bundleFromJSON } from '@sigstore/bundle';
import { TrustedRoot } from '@sigstore/protobuf-specs';
import { type Signer, toSignedEntity, toTrustMaterial, Verifier } from '@sigstore/verify';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import {
  MAX_TEXT,
  type SignerIdentity,
  type TrustedIdentity,
  type TrustRoot,
  voucherOfIdentity,
} from './identities.ts';

export type KeylessVerdict =
  | { identity: TrustedIdentity; signer: SignerIdentity; voucher: string }
  | { why: string; isMalformed: boolean };

/** Id of "code signing" among a certificate's extended key usages. */
const CODE_SIGNING = '1.3.6.1.5.5.7.3.3';
/** Fulcio's extensions that name the issuer: UTF8String, and the older bare text. */
const ISSUER = ['1.3.6.1.4.1.57264.1.8', '1.3.6.1.4.1.57264.1.1'];
/** Texts are shown on terminals. */
const PLAIN = new RegExp(`^[\\x20-\\x7e]{1,${MAX_TEXT}}$`);
/** Trust roots that stay read. */
const MOST_ROOTS = 16;

/**
 * Which of the identities has signed a bundle; the first whose rule takes it. `bundle`: its JSON, `payload`: what was read of
 * it as the statement. Throws nothing.
 */
export function verifyKeyless(
  bundle: unknown,
  payload: Buffer,
  identities: readonly TrustedIdentity[],
): KeylessVerdict {
  let entity: ReturnType<typeof entityOf>;
  try {
    entity = entityOf(bundle, payload);
  } catch (error) {
    return { isMalformed: true, why: `its form is wrong: ${plain(error)}` };
  }
  /** By root; what was wrong instead of a signer. */
  const signers = new Map<string, { signer: SignerIdentity; anchor: string } | string>();
  for (const identity of identities) {
    const { root, issuer, subject } = identity;
    const known = signers.get(root.digest) ?? signerUnder(root, entity);
    signers.set(root.digest, known);
    if (typeof known === 'string') continue;
    const { signer, anchor } = known;
    if (issuer.matches(signer.issuer) && subject.matches(signer.subject))
      return { identity, signer, voucher: voucherOfIdentity(identity, anchor) };
  }
  const all = [...signers.values()];
  const other = all.find((one) => typeof one !== 'string');
  const why =
    other === undefined
      ? (all.find((one) => typeof one === 'string') ?? 'no rule names an identity')
      : `no rule takes ${other.signer.subject} of ${other.signer.issuer}`;
  return { isMalformed: false, why };
}

/** A bundle may hold another signature beside the envelope, and the library would look at that: error. */
function entityOf(json: unknown, payload: Buffer) {
  const bundle = bundleFromJSON(json);
  const { content } = bundle;
  if (content.$case !== 'dsseEnvelope' || !content.dsseEnvelope.payload.equals(payload))
    throw new Error('it has another signature beside the envelope');
  const { content: material } = bundle.verificationMaterial;
  if (material.$case !== 'certificate') throw new Error('it has other keys beside the certificate');
  const leaf = new X509Certificate(material.certificate.rawBytes);
  if (leaf.ca) throw new Error('its certificate is that of a CA');
  if (leaf.keyUsage?.includes(CODE_SIGNING) !== true) throw new Error('its certificate is not for signing');
  return { signed: toSignedEntity(bundle), leaf };
}

/** Who has signed, as a CA of the root says; else what is wrong, in words. */
function signerUnder(
  root: TrustRoot,
  { signed, leaf }: ReturnType<typeof entityOf>,
): { signer: SignerIdentity; anchor: string } | string {
  let verifiers: ReadonlyArray<{ verifier: Verifier; anchor: string }>;
  try {
    verifiers = verifiersOf(root);
  } catch (error) {
    return toErrorRecord(error).message;
  }
  let wrong: unknown;
  for (const { verifier, anchor } of verifiers) {
    try {
      return { signer: identityOf(verifier.verify(signed), leaf), anchor };
    } catch (error) {
      wrong = error;
    }
  }
  return sentenceOf(wrong);
}

const readRoots = new Map<string, ReadonlyArray<{ verifier: Verifier; anchor: string }>>();

/**
 * One verifier for each CA of a root. What the root names is needed: with logs the entry of one, with logs of certificates the
 * word of one, and always a time. Error `invalid-argument` for a root that cannot be used.
 */
function verifiersOf(root: TrustRoot): ReadonlyArray<{ verifier: Verifier; anchor: string }> {
  const known = readRoots.get(root.digest);
  if (known !== undefined) return known;
  const verifiers = readRoot(root);
  if (readRoots.size >= MOST_ROOTS) readRoots.clear();
  readRoots.set(root.digest, verifiers);
  return verifiers;
}

function readRoot({ path, text, anchors }: TrustRoot) {
  try {
    const parsed = TrustedRoot.fromJSON(JSON.parse(text));
    const { certificateAuthorities, tlogs, ctlogs, timestampAuthorities } = parsed;
    if (tlogs.length === 0 && timestampAuthorities.length === 0)
      throw new Error(
        'it names no log and no timestamp authority, so nothing says when a signature was made',
      );
    const needs = {
      tlogThreshold: Math.min(tlogs.length, 1),
      ctlogThreshold: Math.min(ctlogs.length, 1),
      timestampThreshold: 1,
    };
    return certificateAuthorities.map((ca, at) => ({
      verifier: new Verifier(toTrustMaterial({ ...parsed, certificateAuthorities: [ca] }), needs),
      anchor: anchors[at] ?? '',
    }));
  } catch (cause) {
    throw new CofaError('invalid-argument', `the trust root ${path} cannot be used: ${plain(cause)}`, {
      cause,
    });
  }
}

/** Undefined where the root can be used; else why not, a sentence. */
export function rootProblem(root: TrustRoot): string | undefined {
  try {
    verifiersOf(root);
    return undefined;
  } catch (error) {
    return toErrorRecord(error).message;
  }
}

/**
 * The library reads texts of a certificate as ASCII and drops the eighth bit, so a text of other bytes could look like another
 * one. Two readers have to agree: OpenSSL on the subject, of which there may be one only, and the bytes on the issuer.
 */
function identityOf({ identity }: Signer, leaf: X509Certificate): SignerIdentity {
  const subject = identity?.subjectAlternativeName ?? '';
  const issuer = identity?.extensions?.issuer ?? '';
  const names = ['URI', 'email'].flatMap((kind) => [
    `${kind}:${subject}`,
    `${kind}:${JSON.stringify(subject)}`,
  ]);
  if (!PLAIN.test(subject) || !names.includes(leaf.subjectAltName ?? ''))
    throw new Error('its certificate does not name one subject, by an address of the web or of mail');
  const raw = ISSUER.map((id) => identity?.oids?.find(({ oid }) => oid?.id.join('.') === id)?.value).find(
    (value) => value !== undefined,
  );
  const said = Buffer.from(issuer, 'latin1');
  if (!PLAIN.test(issuer) || raw?.subarray(-said.length).equals(said) !== true)
    throw new Error('its certificate does not name the issuer of its identity');
  return { issuer, subject };
}

function sentenceOf(error: unknown): string {
  const code = (error as { code?: string } | undefined)?.code ?? '';
  return SENTENCES[code] ?? plain(error);
}

/** By codes of @sigstore/verify. */
const SENTENCES: Readonly<Record<string, string>> = {
  CERTIFICATE_ERROR: 'its certificate is not one that the trust root takes for the time of signing',
  SIGNATURE_ERROR: 'its signature is not that of its certificate',
  TIMESTAMP_ERROR: 'nothing that the trust root names says when it was signed',
  TLOG_ERROR: 'it has no entry of a log, and the trust root names one',
  TLOG_BODY_ERROR: 'its entry of the log is about another signature',
  TLOG_INCLUSION_PROOF_ERROR: 'its entry is not in a log that the trust root names',
  TLOG_INCLUSION_PROMISE_ERROR: 'its entry is not of a log that the trust root names',
  TLOG_MISSING_INCLUSION_ERROR: 'its entry has no proof that a log has it',
};

const plain = (error: unknown): string => toErrorRecord(error).message.slice(0, 200);
