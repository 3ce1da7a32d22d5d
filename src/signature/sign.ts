/**
 * Signs a manifest as `cosign sign` of cosign v3 does with a key and without a log: a sigstore bundle (formats.ts), pushed
 * as a referrer of what it signs. `cosign verify --key` accepts it.
 *
 * The manifest of the signature carries the bundle in the annotation CARRIED, which lists of referrers show, and in the
 * descriptor of its layer: a node that looks for it saves two round trips.
 */
import { sign } from 'node:crypto';
import { hexOf } from '../../schemas/digest.ts';
import type { Descriptor, RegistryClient, Source } from '../registry/client.ts';
import { MEDIA_TYPES } from '../registry/manifest.ts';
import { CARRIED } from './find.ts';
import { BUNDLE, preAuthentication, SIGNED, STATEMENT, STATEMENT_TYPE } from './formats.ts';
import { hashFor, hintOf } from './keys.ts';
import type { SigningKey } from './private-key.ts';

/** `{}`, the configuration of artifacts that have none. */
const EMPTY = Buffer.from('{}');

/** A bundle that says: the holder of this key has signed this digest. */
export function makeBundle(digest: string, { privateKey, publicKey }: SigningKey): Buffer {
  const statement = {
    _type: STATEMENT,
    subject: [{ digest: { sha256: hexOf(digest) }, annotations: {} }],
    predicateType: SIGNED,
    predicate: {},
  };
  const payload = Buffer.from(JSON.stringify(statement));
  const signature = sign(hashFor(publicKey.kind), preAuthentication(payload), privateKey);
  return Buffer.from(
    JSON.stringify({
      mediaType: BUNDLE,
      verificationMaterial: { publicKey: { hint: hintOf(publicKey) } },
      dsseEnvelope: {
        payload: payload.toString('base64'),
        payloadType: STATEMENT_TYPE,
        signatures: [{ sig: signature.toString('base64') }],
      },
    }),
  );
}

/**
 * Signs a manifest of a repository and pushes the signature beside it. Returns the descriptor of the signature's manifest.
 * `now`: the time of signing, which the signature does not cover. Errors are those of a push.
 */
export async function attachSignature(
  client: RegistryClient,
  source: Source,
  subject: Descriptor,
  key: SigningKey,
  { now, signal }: { now: Date; signal?: AbortSignal | undefined },
): Promise<Descriptor> {
  const bundle = makeBundle(subject.digest, key);
  const [layer, config] = await Promise.all([
    client.pushBlob(source, bundle, BUNDLE, signal),
    client.pushBlob(source, EMPTY, MEDIA_TYPES.ociEmpty, signal),
  ]);
  const { mediaType, digest, size } = subject;
  const manifest = {
    schemaVersion: 2,
    mediaType: MEDIA_TYPES.ociManifest,
    artifactType: BUNDLE,
    config: { ...config, artifactType: BUNDLE },
    layers: [{ ...layer, data: bundle.toString('base64') }],
    subject: { mediaType, digest, size },
    annotations: {
      'dev.sigstore.bundle.content': 'dsse-envelope',
      'dev.sigstore.bundle.predicateType': SIGNED,
      'org.opencontainers.image.created': now.toISOString().replace(/\.\d+Z$/, 'Z'),
      [CARRIED]: bundle.toString(),
    },
  };
  return await client.pushManifest(
    source,
    Buffer.from(JSON.stringify(manifest)),
    MEDIA_TYPES.ociManifest,
    undefined,
    signal === undefined ? {} : { signal },
  );
}
