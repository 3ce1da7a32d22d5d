/**
 * How cosign stores signatures beside what they sign; both formats as cosign v3 reads and writes them.
 *
 *     new   an OCI artifact whose `subject` is what was signed. artifactType and the only layer's type are BUNDLE. The layer is
 *           a sigstore bundle (sigstore/protobuf-specs, sigstore_bundle.proto, v0.3) around a DSSE envelope
 *           (secure-systems-lab/dsse, envelope.md, protocol.md). Its payload is an in-toto statement (in-toto/attestation,
 *           spec/v1/statement.md) with the digest of what was signed as a subject, and the predicate type SIGNED.
 *     old   an image under the tag `sha256-<hex>.sig`. Each layer of the type SIMPLE is one signature: its blob is a claim
 *           (containers/image, docs/containers-signature.5.md, "JSON Data Format"), its annotation SIMPLE_SIGNATURE the
 *           signature of the blob's bytes, in base64.
 *
 * Neither names the repository in a way that a mirror would keep: what is bound is the digest.
 */
import { z } from 'zod';
import { CofaError } from '../../schemas/errors.ts';

export const BUNDLE = 'application/vnd.dev.sigstore.bundle.v0.3+json';
export const SIMPLE = 'application/vnd.dev.cosign.simplesigning.v1+json';
export const SIMPLE_SIGNATURE = 'dev.cosignproject.cosign/signature';

/** DSSE's payloadType of a statement. */
export const STATEMENT_TYPE = 'application/vnd.in-toto+json';
export const STATEMENT = 'https://in-toto.io/Statement/v1';
/** The predicate of `cosign sign`. Attestations, such as a list of packages, have others and vouch for nothing. */
export const SIGNED = 'https://sigstore.dev/cosign/sign/v1';
export const SIMPLE_CLAIM = 'cosign container image signature';

/**
 * Bytes of one signature, claim or bundle. Signed with a key they have less than 1 KB, with a certificate and the entry of
 * a log some 10 KB.
 */
export const MAX_SIGNATURE = 64 * 1024;

/** Entries of logs, and timestamps, of one bundle. */
const MAX_PROOFS = 4;

/** Base64 in its one canonical form, since Node takes any text. */
const base64 = z
  .string()
  .min(1)
  .max(MAX_SIGNATURE)
  .transform((text, context) => {
    const bytes = Buffer.from(text, 'base64');
    if (bytes.toString('base64') === text) return bytes;
    context.addIssue({ code: 'custom', message: 'not base64' });
    return z.NEVER;
  });

/** Fields that it does not name are for others: entries of logs, timestamps (keyless.ts). */
export const bundleSchema = z.object({
  mediaType: z.literal(BUNDLE),
  verificationMaterial: z.object({
    publicKey: z.object({ hint: z.string().max(1024).optional() }).optional(),
    certificate: z.object({}).optional(),
    // Each is verified, and compared with the others: signers have one or two.
    tlogEntries: z.array(z.unknown()).max(MAX_PROOFS).nullish(),
    timestampVerificationData: z
      .object({ rfc3161Timestamps: z.array(z.unknown()).max(MAX_PROOFS).nullish() })
      .nullish(),
  }),
  dsseEnvelope: z.object({
    payload: base64,
    payloadType: z.literal(STATEMENT_TYPE),
    // DSSE allows more; in a bundle there is one (sigstore_bundle.proto, "dsse_envelope").
    signatures: z.tuple([z.object({ sig: base64 })]),
  }),
});

export const statementSchema = z.object({
  _type: z.literal(STATEMENT),
  subject: z.array(z.object({ digest: z.record(z.string(), z.string()) })).max(1024),
  predicateType: z.string().max(1024),
});

export const simpleSchema = z.object({
  critical: z.object({
    image: z.object({ 'docker-manifest-digest': z.string().max(1024) }),
    type: z.string().max(1024),
  }),
});

/** Reads JSON of a known shape. Error `integrity` where it is another one, or larger than a signature. */
export function readJson<T>(bytes: Uint8Array, schema: z.ZodType<T>, what: string): T {
  const document = parseJson(bytes, what);
  const read = schema.safeParse(document);
  if (read.success) return read.data;
  const at = read.error.issues[0]?.path.map(String).join('.') ?? '';
  throw new CofaError(
    'integrity',
    `${what} is not one of cosign's: ${at.slice(0, 100) || 'its form'} is wrong`,
  );
}

/** Error `integrity` for what is no JSON, or larger than a signature. */
export function parseJson(bytes: Uint8Array, what: string): unknown {
  if (bytes.length > MAX_SIGNATURE)
    throw new CofaError('integrity', `${what} has ${bytes.length} bytes; the limit is ${MAX_SIGNATURE}`);
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new CofaError('integrity', `${what} is not JSON`, { cause });
  }
}

/** The bytes that a DSSE signature covers (dsse, protocol.md, "PAE"). */
export function preAuthentication(payload: Uint8Array): Buffer {
  const head = `DSSEv1 ${STATEMENT_TYPE.length} ${STATEMENT_TYPE} ${payload.length} `;
  return Buffer.concat([Buffer.from(head), payload]);
}
