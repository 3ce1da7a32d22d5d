/** Private keys that sign: PEM in PKCS #8 (RFC 5958), as such or encrypted; also SEC 1 (`EC PRIVATE KEY`). */
import { createPrivateKey, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { CofaError } from '../../schemas/errors.ts';
import { describeKey, type PublicKey } from './keys.ts';

export interface SigningKey {
  privateKey: KeyObject;
  publicKey: PublicKey;
}

/** Whether it takes a passphrase to read this PEM. */
export const isEncrypted = (pem: string): boolean =>
  pem.includes('-----BEGIN ENCRYPTED PRIVATE KEY-----') || /^Proc-Type: 4,ENCRYPTED/m.test(pem);

/**
 * Reads a PEM private key; `where` names it in errors. Errors: `invalid-argument` for what is none, and for a passphrase
 * that is missing or wrong; `unsupported` for a key of another kind, and for cosign's own encryption.
 */
export function parsePrivateKey(pem: string, where: string, passphrase?: string): SigningKey {
  if (/-----BEGIN ENCRYPTED (?:SIGSTORE|COSIGN) PRIVATE KEY-----/.test(pem)) {
    throw new CofaError('unsupported', `${where} is encrypted in cosign's own way`, {
      hint: 'sign with it by cosign sign --key; a key of cofa key create serves both: cosign import-key-pair',
    });
  }
  if (!/-----BEGIN (?:ENCRYPTED |EC )?PRIVATE KEY-----/.test(pem)) {
    throw new CofaError('invalid-argument', `${where} is not a PEM private key`, {
      hint: 'cofa key create makes one',
    });
  }
  if (isEncrypted(pem) && (passphrase === undefined || passphrase === '')) {
    throw new CofaError('invalid-argument', `${where} is encrypted, and there is no passphrase`, {
      hint: 'set COFA_KEY_PASSWORD',
    });
  }
  let key: KeyObject;
  try {
    key = createPrivateKey({ key: pem, format: 'pem', ...(isEncrypted(pem) ? { passphrase } : {}) });
  } catch (cause) {
    const why = isEncrypted(pem)
      ? 'cannot be decrypted with this passphrase'
      : 'is not a valid PEM private key';
    throw new CofaError('invalid-argument', `${where} ${why}`, { cause });
  }
  return { privateKey: key, publicKey: describeKey(key, where) };
}

/** A new ECDSA P-256 key pair as PEM: PKCS #8, encrypted where there is a passphrase, and SubjectPublicKeyInfo. */
export function createKeyPair(passphrase?: string): { privatePem: string; publicPem: string } {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'prime256v1' });
  const encryption =
    passphrase === undefined || passphrase === '' ? {} : { cipher: 'aes-256-cbc', passphrase };
  return {
    privatePem: privateKey.export({ type: 'pkcs8', format: 'pem', ...encryption }).toString(),
    publicPem: publicKey.export({ type: 'spki', format: 'pem' }).toString(),
  };
}
