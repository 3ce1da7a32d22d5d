/** A Sigstore of one's own: a CA, its log of certificates, a log of signatures; and what is signed by it without a key. */
import { createHash, generateKeyPairSync, sign } from 'node:crypto';
import { type CA, initializeCA, initializeCTLog } from '@sigstore/mock/dist/fulcio/index.js';
import { initializeTLog, type TLog } from '@sigstore/mock/dist/rekor/index.js';
import { hexOf } from '../../schemas/digest.ts';
import type { Descriptor, RegistryClient, Source } from '../../src/registry/client.ts';
import { MEDIA_TYPES } from '../../src/registry/manifest.ts';
import { BUNDLE, preAuthentication, SIGNED, STATEMENT, STATEMENT_TYPE } from '../../src/signature/formats.ts';

export const ISSUER = 'https://issuer.example';
export const SUBJECT = 'https://code.example/team/app/release.yml@refs/heads/main';
const FULCIO = '1.3.6.1.4.1.57264.1';
const DAY_MS = 86_400_000;
/** Tomorrow: the certificates of these tests are never valid now, so nothing may look at the clock. */
export const THEN = new Date(Date.now() + DAY_MS);

export interface Sigstore {
  /** Its trusted_root.json. */
  root: TrustedRootJson;
  ca: CA;
  tlog: TLog;
  /** The same log with its clock a while later. */
  laterLog: TLog;
}

interface Key {
  rawBytes: string;
  keyDetails: string;
  validFor: { start: string };
}
interface Log {
  baseUrl: string;
  hashAlgorithm: string;
  publicKey: Key;
  logId: { keyId: string };
}
export interface TrustedRootJson {
  mediaType: string;
  tlogs: Log[];
  ctlogs: Log[];
  certificateAuthorities: object[];
  timestampAuthorities: object[];
}

const base64 = (bytes: ArrayBufferView | Buffer): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64');
const START = new Date(0).toISOString();

const logOf = (baseUrl: string, publicKey: Buffer): Log => ({
  baseUrl,
  hashAlgorithm: 'SHA2_256',
  publicKey: {
    rawBytes: base64(publicKey),
    keyDetails: 'PKIX_ECDSA_P256_SHA_256',
    validFor: { start: START },
  },
  logId: { keyId: createHash('sha256').update(publicKey).digest('base64') },
});

/** `then`: what its clocks say. */
export async function startSigstore(host = 'sigstore.example', then = THEN): Promise<Sigstore> {
  const pair = () => generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const ctlog = await initializeCTLog(pair(), then);
  const ca = await initializeCA(pair(), ctlog, then);
  const logPair = pair();
  const tlog = await initializeTLog(`https://rekor.${host}`, logPair, then);
  const laterLog = await initializeTLog(
    `https://rekor.${host}`,
    logPair,
    new Date(then.getTime() + 3_600_000),
  );
  const root: TrustedRootJson = {
    mediaType: 'application/vnd.dev.sigstore.trustedroot+json;version=0.1',
    tlogs: [logOf(`https://rekor.${host}`, tlog.publicKey)],
    certificateAuthorities: [
      {
        subject: { organization: 'sigstore.mock', commonName: 'sigstore' },
        uri: `https://fulcio.${host}`,
        certChain: { certificates: [{ rawBytes: base64(ca.rootCertificate) }] },
        validFor: { start: START },
      },
    ],
    ctlogs: [logOf(`https://ctfe.${host}`, ctlog.publicKey)],
    timestampAuthorities: [],
  };
  return { root, ca, tlog, laterLog };
}

export interface BundleJson {
  mediaType: string;
  verificationMaterial: {
    certificate: { rawBytes: string };
    tlogEntries: Array<{ canonicalizedBody: string; [field: string]: unknown }>;
    [field: string]: unknown;
  };
  dsseEnvelope: { payload: string; payloadType: string; signatures: Array<{ sig: string }> };
  [field: string]: unknown;
}

export interface Signing {
  subject?: string;
  issuer?: string;
  /** Fulcio's older form of the issuer. */
  legacy?: boolean;
  predicateType?: string;
  log?: TLog;
}

/** What `cosign sign` without a key makes of a digest. */
export async function signKeyless(sigstore: Sigstore, digest: string, as: Signing = {}): Promise<BundleJson> {
  const {
    subject = SUBJECT,
    issuer = ISSUER,
    legacy = false,
    predicateType = SIGNED,
    log = sigstore.tlog,
  } = as;
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const certificate = await sigstore.ca.issueCertificate({
    publicKey: Uint8Array.from(publicKey.export({ type: 'spki', format: 'der' })),
    subjectAltName: subject,
    extensions: [{ oid: `${FULCIO}.${legacy ? 1 : 8}`, value: issuer, legacy }],
  });
  const payload = Buffer.from(
    JSON.stringify({
      _type: STATEMENT,
      subject: [{ digest: { sha256: hexOf(digest) }, annotations: {} }],
      predicateType,
      predicate: {},
    }),
  );
  const sig = sign('sha256', preAuthentication(payload), privateKey).toString('base64');
  const pem = `-----BEGIN CERTIFICATE-----\n${base64(certificate).replace(/.{64}/g, '$&\n')}\n-----END CERTIFICATE-----\n`;
  return {
    mediaType: BUNDLE,
    verificationMaterial: {
      certificate: { rawBytes: base64(certificate) },
      tlogEntries: [await entryOf(log, payload, sig, pem)],
      timestampVerificationData: { rfc3161Timestamps: [] },
    },
    dsseEnvelope: {
      payload: payload.toString('base64'),
      payloadType: STATEMENT_TYPE,
      signatures: [{ sig }],
    },
  };
}

/** Pushes a bundle as cosign v3 does. */
export async function attachBundle(
  client: RegistryClient,
  source: Source,
  subject: Descriptor,
  bundle: object,
): Promise<Descriptor> {
  const layer = await client.pushBlob(source, Buffer.from(JSON.stringify(bundle)), BUNDLE);
  const config = await client.pushBlob(source, Buffer.from('{}'), MEDIA_TYPES.ociEmpty);
  const { mediaType, digest, size } = subject;
  const manifest = {
    schemaVersion: 2,
    mediaType: MEDIA_TYPES.ociManifest,
    artifactType: BUNDLE,
    config,
    layers: [layer],
    subject: { mediaType, digest, size },
  };
  return await client.pushManifest(source, Buffer.from(JSON.stringify(manifest)), manifest.mediaType);
}

/** As the log answers. */
interface RekorEntry {
  body: string;
  integratedTime: number;
  logID: string;
  logIndex: number;
  verification: {
    signedEntryTimestamp: string;
    inclusionProof: {
      logIndex: number;
      treeSize: number;
      rootHash: string;
      hashes: string[];
      checkpoint: string;
    };
  };
}

/** Of Rekor, as a bundle shows it. */
async function entryOf(log: TLog, payload: Buffer, sig: string, pem: string) {
  const envelope = JSON.stringify({ payload: payload.toString('base64'), signatures: [{ sig }] });
  const hash = (text: string | Buffer) => ({
    algorithm: 'sha256',
    value: createHash('sha256').update(text).digest('hex'),
  });
  const answer = await log.log({
    apiVersion: '0.0.1',
    kind: 'dsse',
    spec: {
      envelopeHash: hash(envelope),
      payloadHash: hash(payload),
      signatures: [{ signature: sig, verifier: Buffer.from(pem).toString('base64') }],
    },
  });
  const [entry] = Object.values(answer as Record<string, RekorEntry>);
  if (entry === undefined) throw new Error('the log has no entry');
  const { inclusionProof: proof, signedEntryTimestamp } = entry.verification;
  return {
    logIndex: `${entry.logIndex}`,
    logId: { keyId: Buffer.from(entry.logID, 'hex').toString('base64') },
    kindVersion: { kind: 'dsse', version: '0.0.1' },
    integratedTime: `${entry.integratedTime}`,
    inclusionPromise: { signedEntryTimestamp },
    inclusionProof: {
      logIndex: `${proof.logIndex}`,
      rootHash: Buffer.from(proof.rootHash, 'hex').toString('base64'),
      treeSize: `${proof.treeSize}`,
      hashes: proof.hashes,
      checkpoint: { envelope: proof.checkpoint },
    },
    canonicalizedBody: entry.body,
  };
}
