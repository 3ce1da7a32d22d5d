/** Keys and signatures for tests; keys are made once a file, since that takes a millisecond each. */
import { generateKeyPairSync } from 'node:crypto';
import { parsePublicKey, type TrustedKey } from '../../src/signature/keys.ts';
import { createKeyPair, parsePrivateKey, type SigningKey } from '../../src/signature/private-key.ts';

export interface Pair {
  privatePem: string;
  publicPem: string;
  signing: SigningKey;
  trusted: TrustedKey;
}

/** A key pair whose public key is trusted under a name. */
export function pair(name: string, kind: 'p256' | 'ed25519' = 'p256', scope?: string[]): Pair {
  const pems = kind === 'p256' ? createKeyPair() : ed25519();
  return {
    ...pems,
    signing: parsePrivateKey(pems.privatePem, name),
    trusted: { ...parsePublicKey(pems.publicPem, name), name, scope },
  };
}

function ed25519(): { privatePem: string; publicPem: string } {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  return {
    privatePem: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    publicPem: publicKey.export({ type: 'spki', format: 'pem' }).toString(),
  };
}

export const digest = (letter: string): string => `sha256:${letter.repeat(64)}`;
