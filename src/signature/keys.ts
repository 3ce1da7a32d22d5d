/**
 * Public keys that may vouch for sidecars, as PEM (RFC 7468): ECDSA P-256, which cosign makes, and Ed25519. A key may have a
 * scope: the repositories that it may vouch for.
 */
import { createPublicKey, type KeyObject } from 'node:crypto';
import { CofaError } from '../../schemas/errors.ts';
import { digestOf } from '../digest/digest.ts';
import type { TrustedIdentity } from './identities.ts';

export type KeyKind = 'ECDSA P-256' | 'Ed25519';

export interface PublicKey {
  key: KeyObject;
  kind: KeyKind;
  /** `sha256:<hex>` of the key's SubjectPublicKeyInfo in DER. In base64 it is the hint of a bundle. */
  fingerprint: string;
}

/** A public key that an operator trusts. */
export interface TrustedKey extends PublicKey {
  /** What its file is named, without `.pub`. */
  name: string;
  /** `HOST`, or `HOST/PATH`: repositories that it may vouch for. Undefined: all. Empty: none. */
  scope: readonly string[] | undefined;
}

/** Who may vouch for sidecars on this machine. */
export type Trusted = TrustedKey | TrustedIdentity;

export const isIdentity = (one: Trusted): one is TrustedIdentity => one.kind === 'identity';

/** Which repository a sidecar lies in: as references name it (`docker.io`, not the host that serves it). */
export interface Repository {
  domain: string;
  repository: string;
}

/** The hint by which a bundle names this key. */
export const hintOf = ({ fingerprint }: PublicKey): string =>
  Buffer.from(fingerprint.slice('sha256:'.length), 'hex').toString('base64');

/**
 * Reads a PEM public key; `where` names it in errors. Errors: `invalid-argument` for anything but one public key,
 * `unsupported` for one of another kind.
 */
export function parsePublicKey(pem: string, where: string): PublicKey {
  const labels = [...pem.matchAll(/-----BEGIN ([A-Z0-9 ]{1,64})-----/g)].map((found) => found[1] as string);
  if (labels.some((label) => label.endsWith('PRIVATE KEY'))) {
    throw new CofaError(
      'invalid-argument',
      `${where} holds a private key, which belongs to who signs alone`,
      {
        hint: 'take it away, and add the public key: openssl pkey -in KEY -pubout',
      },
    );
  }
  if (labels.length !== 1 || labels[0] !== 'PUBLIC KEY') {
    const has = labels.length === 0 ? 'no PEM block' : labels.slice(0, 4).join(', ').slice(0, 200);
    throw new CofaError('invalid-argument', `${where} has to be one PEM public key; it has: ${has}`, {
      hint: 'cofa key create makes one, cosign generate-key-pair, too',
    });
  }
  let key: KeyObject;
  try {
    key = createPublicKey({ key: pem, format: 'pem' });
  } catch (cause) {
    throw new CofaError('invalid-argument', `${where} is not a valid PEM public key`, { cause });
  }
  return describeKey(key, where);
}

/** What a key is. Error `unsupported` for kinds that do not sign here. */
export function describeKey(key: KeyObject, where: string): PublicKey {
  const kind = kindOf(key);
  if (kind === undefined) {
    const { asymmetricKeyType: type, asymmetricKeyDetails: details } = key;
    const curve = details?.namedCurve === undefined ? '' : ` (${details.namedCurve})`;
    throw new CofaError('unsupported', `${where} is a key of type ${type}${curve}`, {
      hint: 'keys are ECDSA P-256, which cofa key create and cosign make, or Ed25519',
    });
  }
  const isPublic = key.type === 'public';
  const own = isPublic ? key : createPublicKey(key);
  return { key: own, kind, fingerprint: digestOf(own.export({ type: 'spki', format: 'der' })) };
}

function kindOf({ asymmetricKeyType, asymmetricKeyDetails }: KeyObject): KeyKind | undefined {
  if (asymmetricKeyType === 'ed25519') return 'Ed25519';
  return asymmetricKeyType === 'ec' && asymmetricKeyDetails?.namedCurve === 'prime256v1'
    ? 'ECDSA P-256'
    : undefined;
}

/** Digest algorithm for node:crypto's sign and verify; Ed25519 has its own inside. */
export const hashFor = (kind: KeyKind): 'sha256' | null => (kind === 'Ed25519' ? null : 'sha256');

const ENTRY =
  /^(?:[A-Za-z0-9][A-Za-z0-9.-]{0,253}|\[[0-9A-Fa-f:]{2,64}\])(?::\d{1,5})?(?:\/[a-z0-9][a-z0-9._-]{0,254}){0,32}$/;
const MAX_ENTRIES = 256;

/**
 * Reads a scope: repository prefixes, one a line, `#` before a remark. Without lines the key vouches for nothing. Error
 * `invalid-argument` for a line that names no repository.
 */
export function parseScope(text: string, where: string): string[] {
  const entries: string[] = [];
  for (const [index, line] of text.split('\n').entries()) {
    const entry = line.replace(/#.*/, '').trim().replace(/\/$/, '');
    if (entry === '') continue;
    if (!ENTRY.test(entry))
      throw new CofaError('invalid-argument', `${where}, line ${index + 1}: no HOST or HOST/REPOSITORY`, {
        hint: 'such as registry.example/team, or docker.io/library/debian',
      });
    if (entries.push(entry) > MAX_ENTRIES)
      throw new CofaError('invalid-argument', `${where} has more than ${MAX_ENTRIES} lines`);
  }
  return entries;
}

/** Whether a key or an identity may vouch for what lies in a repository. `HOST/a` covers `HOST/a` and `HOST/a/b`, not `HOST/ab`. */
export function mayVouchFor(
  { scope }: Pick<TrustedKey, 'scope'>,
  { domain, repository }: Repository,
): boolean {
  const name = `${domain}/${repository}`;
  return scope?.some((entry) => name === entry || name.startsWith(`${entry}/`)) ?? true;
}

/** What the log calls a key that has vouched. */
export const voucherOfKey = ({ fingerprint }: PublicKey): string => `key:${fingerprint}`;
