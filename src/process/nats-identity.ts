/**
 * The key and the certificate by which the private nats-server proves to its clients that it is the one of their root. Both lie
 * in ROOT/run/nats.pem, readable by root only, from the root's first start on: so long as a root is used its processes know
 * the same server.
 *
 * The certificate is signed by its own key and believed because the clients were told which one it is (src/bus/tls.ts), so its
 * names are for other clients alone. It is valid at any time: a node whose clock is wrong starts as well.
 */
import { X509Certificate, createPrivateKey, randomBytes, webcrypto } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { writeWhole } from '../store/layout.ts';

/** Both as PEM. */
export interface NatsIdentity {
  key: string;
  certificate: string;
}

/**
 * The identity that lies in a file, or a new one, which then lies there. Errors: of the file system. `make`: `makeIdentity`, or
 * what stands in for it.
 */
export async function identityAt(
  path: string,
  make: () => Promise<NatsIdentity> = makeIdentity,
): Promise<NatsIdentity> {
  const found = parsed(await readFile(path, 'utf8').catch(() => ''));
  if (found !== undefined) return found;
  const made = await make();
  await writeWhole(path, Buffer.from(`${made.key}${made.certificate}`));
  return made;
}

/** Undefined where the text is not a key and the certificate for it, as after a disk was damaged. */
function parsed(text: string): NatsIdentity | undefined {
  const [key] = /-----BEGIN PRIVATE KEY-----[^-]*-----END PRIVATE KEY-----\n/.exec(text) ?? [];
  const [certificate] = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----\n/.exec(text) ?? [];
  if (key === undefined || certificate === undefined) return undefined;
  try {
    return new X509Certificate(certificate).checkPrivateKey(createPrivateKey(key))
      ? { key, certificate }
      : undefined;
  } catch {
    return undefined;
  }
}

/** RFC 5280, 4.1.2.5: what has no end is valid until then. */
const NO_END = new Date(Date.UTC(9999, 11, 31, 23, 59, 59));
const NO_BEGINNING = new Date(Date.UTC(1970, 0, 1));

/** OIDs of RFC 5280. */
const COMMON_NAME = '2.5.4.3';
const ALTERNATIVE_NAMES = '2.5.29.17';

/** A new key (P-256) and a certificate for it. */
export async function makeIdentity(): Promise<NatsIdentity> {
  // Only the first start of a root needs them.
  const [asn1, pki] = await Promise.all([import('asn1js'), import('pkijs')]);
  const keys = await webcrypto.subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, true, [
    'sign',
    'verify',
  ]);
  const certificate = new pki.Certificate({
    version: 2,
    serialNumber: new asn1.Integer({ valueHex: serialNumber() }),
    notBefore: new pki.Time({ type: pki.TimeType.UTCTime, value: NO_BEGINNING }),
    notAfter: new pki.Time({ type: pki.TimeType.GeneralizedTime, value: NO_END }),
  });
  const value = new asn1.Utf8String({ value: 'cofa nats-server' });
  for (const { typesAndValues } of [certificate.subject, certificate.issuer])
    typesAndValues.push(new pki.AttributeTypeAndValue({ type: COMMON_NAME, value }));
  const address = new asn1.OctetString({ valueHex: new Uint8Array([127, 0, 0, 1]).buffer });
  const names = new pki.GeneralNames({
    names: [
      new pki.GeneralName({ type: DNS_NAME, value: 'localhost' }),
      new pki.GeneralName({ type: IP_ADDRESS, value: address }),
    ],
  });
  certificate.extensions = [
    new pki.Extension({
      extnID: ALTERNATIVE_NAMES,
      critical: false,
      extnValue: names.toSchema().toBER(false),
    }),
  ];
  await certificate.subjectPublicKeyInfo.importKey(keys.publicKey);
  await certificate.sign(keys.privateKey, 'SHA-256');
  return {
    key: pem('PRIVATE KEY', await webcrypto.subtle.exportKey('pkcs8', keys.privateKey)),
    certificate: pem('CERTIFICATE', certificate.toSchema(true).toBER(false)),
  };
}

/** Choices of GeneralName in RFC 5280, 4.2.1.6. */
const DNS_NAME = 2;
const IP_ADDRESS = 7;

/** Positive, and without leading zeros. */
function serialNumber(): ArrayBuffer {
  const bytes = new Uint8Array(randomBytes(16));
  bytes[0] = ((bytes[0] as number) & 0x3f) | 0x40;
  return bytes.buffer;
}

const pem = (label: string, der: ArrayBuffer): string =>
  `-----BEGIN ${label}-----\n${Buffer.from(der)
    .toString('base64')
    .replaceAll(/.{1,64}/g, '$&\n')}-----END ${label}-----\n`;
