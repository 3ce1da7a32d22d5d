import { generateKeyPairSync, sign } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { preAuthentication, SIGNED, STATEMENT } from '../../src/signature/formats.ts';
import { hashFor, mayVouchFor, parsePublicKey, parseScope } from '../../src/signature/keys.ts';
import { createKeyPair, parsePrivateKey, type SigningKey } from '../../src/signature/private-key.ts';
import { makeBundle } from '../../src/signature/sign.ts';
import { type Verdict, verifyBundle, verifySimple } from '../../src/signature/verify.ts';
import { digest, pair } from './support.ts';

const ours = pair('ours');
const edward = pair('edward', 'ed25519');
const foreign = pair('foreign');
const keys = [edward.trusted, ours.trusted];
const D = digest('a');

const nameOf = (verdict: Verdict): string => ('key' in verdict ? verdict.key.name : verdict.refusal);
const bundleOf = (statement: object, { privateKey, publicKey }: SigningKey, change: object = {}): Buffer => {
  const payload = Buffer.from(JSON.stringify(statement));
  const signed = sign(hashFor(publicKey.kind), preAuthentication(payload), privateKey);
  const bundle = JSON.parse(makeBundle(D, foreign.signing).toString());
  const signatures = [{ sig: signed.toString('base64') }];
  Object.assign(bundle.dsseEnvelope, { payload: payload.toString('base64'), signatures }, change);
  return Buffer.from(JSON.stringify(bundle));
};
const statement = (change: object = {}) => ({
  _type: STATEMENT,
  subject: [{ digest: { sha256: 'a'.repeat(64) } }],
  predicateType: SIGNED,
  predicate: {},
  ...change,
});
const claimOf = (change: object = {}) =>
  Buffer.from(
    JSON.stringify({
      critical: {
        identity: { 'docker-reference': 'registry.example/app' },
        image: { 'docker-manifest-digest': D },
        type: 'cosign container image signature',
        ...change,
      },
      optional: null,
    }),
  );
const simple = (claim: Buffer, { privateKey, publicKey }: SigningKey) =>
  sign(hashFor(publicKey.kind), claim, privateKey).toString('base64');

describe('a bundle', () => {
  it.each([ours, edward])('names the key that signed this digest', ({ signing, trusted }) => {
    expect(nameOf(verifyBundle(makeBundle(D, signing), D, keys))).toBe(trusted.name);
  });

  it.each<[string, Buffer, string]>([
    ['of another digest', makeBundle(digest('b'), ours.signing), 'other'],
    ['of a foreign key', makeBundle(D, foreign.signing), 'unknown-key'],
    [
      'that is an attestation',
      bundleOf(statement({ predicateType: 'https://spdx.dev/Document' }), ours.signing),
      'other',
    ],
    ['without a subject', bundleOf(statement({ subject: [] }), ours.signing), 'other'],
    [
      'with the digest under another algorithm',
      bundleOf(statement({ subject: [{ digest: { sha512: 'a'.repeat(64) } }] }), ours.signing),
      'other',
    ],
    [
      'with a statement of another version',
      bundleOf(statement({ _type: 'https://in-toto.io/Statement/v2' }), ours.signing),
      'malformed',
    ],
    [
      'with another payloadType',
      bundleOf(statement(), ours.signing, { payloadType: 'application/json' }),
      'malformed',
    ],
    ['without a signature', bundleOf(statement(), ours.signing, { signatures: [] }), 'malformed'],
    ['of 65 KiB', Buffer.concat([makeBundle(D, ours.signing), Buffer.alloc(65 * 1024, ' ')]), 'malformed'],
  ])('%s is refused', (_, bytes, refusal) => {
    expect(nameOf(verifyBundle(bytes, D, keys))).toBe(refusal);
  });

  it('is accepted without a hint, with a foreign one, and among other subjects', () => {
    for (const verificationMaterial of [{}, { publicKey: {} }, { publicKey: { hint: 'AAAA' } }]) {
      const bundle = { ...JSON.parse(makeBundle(D, ours.signing).toString()), verificationMaterial };
      expect(nameOf(verifyBundle(Buffer.from(JSON.stringify(bundle)), D, keys))).toBe('ours');
    }
    const subject = [{ digest: { sha1: 'x' } }, { digest: { sha256: 'a'.repeat(64) }, name: 'app' }];
    expect(nameOf(verifyBundle(bundleOf(statement({ subject }), ours.signing), D, keys))).toBe('ours');
  });

  it('with a flipped bit vouches for nothing else: what was signed is intact, or it is refused', () => {
    const bundle = makeBundle(D, ours.signing);
    const { payload, signatures } = JSON.parse(bundle.toString()).dsseEnvelope;
    for (let bit = 0; bit < bundle.length * 8; bit++) {
      const flipped = Buffer.from(bundle);
      flipped[bit >> 3]! ^= 1 << (bit & 7);
      if (!('key' in verifyBundle(flipped, D, keys))) continue;
      // A bit of the hint, or of a name that no reader needs.
      const envelope = JSON.parse(flipped.toString()).dsseEnvelope;
      expect(envelope).toMatchObject({ payload, signatures });
    }
  });

  it('with any other payload or signature is refused', () => {
    const { dsseEnvelope, ...rest } = JSON.parse(makeBundle(D, ours.signing).toString());
    const parts = ['payload', 'sig'] as const;
    fc.assert(
      fc.property(fc.constantFrom(...parts), fc.nat(), fc.integer({ min: 1, max: 255 }), (part, at, by) => {
        const texts = { payload: dsseEnvelope.payload, sig: dsseEnvelope.signatures[0].sig };
        const bytes = Buffer.from(texts[part], 'base64');
        bytes[at % bytes.length]! ^= by;
        texts[part] = bytes.toString('base64');
        const envelope = { ...dsseEnvelope, payload: texts.payload, signatures: [{ sig: texts.sig }] };
        const changed = Buffer.from(JSON.stringify({ ...rest, dsseEnvelope: envelope }));
        expect(verifyBundle(changed, D, keys)).not.toHaveProperty('key');
      }),
      { numRuns: 300 },
    );
  });
});

describe('a claim in the old format', () => {
  it.each([ours, edward])('names the key that signed this digest', ({ signing, trusted }) => {
    const claim = claimOf();
    expect(nameOf(verifySimple(claim, simple(claim, signing), D, keys))).toBe(trusted.name);
  });

  it.each<[string, Buffer, SigningKey, string]>([
    ['of a foreign key', claimOf(), foreign.signing, 'unknown-key'],
    [
      'of another digest',
      claimOf({ image: { 'docker-manifest-digest': digest('b') } }),
      ours.signing,
      'other',
    ],
    ['of another type', claimOf({ type: 'atomic container signature' }), ours.signing, 'other'],
    ['without an image', claimOf({ image: undefined }), ours.signing, 'malformed'],
  ])('%s is refused', (_, claim, key, refusal) => {
    expect(nameOf(verifySimple(claim, simple(claim, key), D, keys))).toBe(refusal);
  });

  it('with a flipped bit is refused, in the claim as in the signature', () => {
    const claim = claimOf();
    const signature = simple(claim, ours.signing);
    for (let bit = 0; bit < claim.length * 8; bit++) {
      const flipped = Buffer.from(claim);
      flipped[bit >> 3]! ^= 1 << (bit & 7);
      expect(verifySimple(flipped, signature, D, keys)).not.toHaveProperty('key');
    }
    for (let at = 0; at < signature.length; at++) {
      const text = `${signature.slice(0, at)}${signature[at] === 'A' ? 'B' : 'A'}${signature.slice(at + 1)}`;
      expect(verifySimple(claim, text, D, keys)).not.toHaveProperty('key');
    }
  });
});

describe('bytes of a stranger', () => {
  const json = fc.json({ maxDepth: 6 }).map((text) => Buffer.from(text));
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 2_000 }),
    json,
    fc.constant(Buffer.alloc(64 * 1024, '[')),
  );
  it('are refused as malformed, at once', () => {
    const began = performance.now();
    fc.assert(
      fc.property(bytes, fc.string(), (some, text) => {
        expect(nameOf(verifyBundle(some, D, keys))).toBe('malformed');
        expect(nameOf(verifySimple(some, text, D, keys))).toBe('malformed');
      }),
      { numRuns: 200 },
    );
    expect(performance.now() - began).toBeLessThan(5_000);
  });

  it('in the fields of a real bundle never make it throw', () => {
    const real = JSON.parse(makeBundle(D, ours.signing).toString());
    const value = fc.oneof(
      fc.jsonValue(),
      fc.string().map((text) => Buffer.from(text).toString('base64')),
    );
    fc.assert(
      fc.property(fc.constantFrom('payload', 'payloadType', 'signatures'), value, (field, some) => {
        const envelope = { ...real.dsseEnvelope, [field]: some };
        const changed = Buffer.from(JSON.stringify({ ...real, dsseEnvelope: envelope }));
        expect(nameOf(verifyBundle(changed, D, keys))).toMatch(/malformed|unknown-key/);
      }),
    );
  });
});

describe('keys', () => {
  const pem = (key: { export(o: object): string | Buffer }, type: string) =>
    key.export({ type, format: 'pem' }).toString();
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const p384 = generateKeyPairSync('ec', { namedCurve: 'secp384r1' });
  it.each<[string, string, RegExp]>([
    ['an RSA key', pem(rsa.publicKey, 'spki'), /key of type rsa/],
    ['another curve', pem(p384.publicKey, 'spki'), /key of type ec \(secp384r1\)/],
    ['a private key', ours.privatePem, /holds a private key/],
    ['a private key behind a public one', ours.publicPem + ours.privatePem, /holds a private key/],
    ['two keys', ours.publicPem + foreign.publicPem, /one PEM public key; it has: PUBLIC KEY, PUBLIC KEY/],
    ['no key', 'ssh-ed25519 AAAA', /it has: no PEM block/],
    ['a cut key', ours.publicPem.replace(/.{20}\n-/, '\n-'), /not a valid PEM public key/],
  ])('%s is refused', (_, text, message) => {
    expect(() => parsePublicKey(text, 'k.pub')).toThrow(message);
  });

  it('any text is a key or a CofaError', () => {
    fc.assert(
      fc.property(fc.string(), fc.nat(), (text, at) => {
        const i = at % ours.publicPem.length;
        for (const some of [text, ours.publicPem.slice(0, i) + text + ours.publicPem.slice(i)]) {
          try {
            parsePublicKey(some, 'k.pub');
          } catch (error) {
            expect(error).toMatchObject({ name: 'CofaError' });
          }
        }
      }),
    );
  });

  it('an encrypted private key needs its passphrase', () => {
    const { privatePem, publicPem } = createKeyPair('secret');
    expect(privatePem).toContain('ENCRYPTED');
    expect(() => parsePrivateKey(privatePem, 'k.key')).toThrow('there is no passphrase');
    expect(() => parsePrivateKey(privatePem, 'k.key', 'wrong')).toThrow('cannot be decrypted');
    const { publicKey } = parsePrivateKey(privatePem, 'k.key', 'secret');
    expect(publicKey.fingerprint).toBe(parsePublicKey(publicPem, 'k.pub').fingerprint);
  });

  it('a scope covers whole parts of a path', () => {
    const scope = parseScope(
      '# of the team\nregistry.example/team/  # and below\n\ndocker.io/library/debian\n',
      's',
    );
    const may = (domain: string, repository: string) => mayVouchFor({ scope }, { domain, repository });
    expect(may('registry.example', 'team')).toBe(true);
    expect(may('registry.example', 'team/app/x')).toBe(true);
    expect(may('registry.example', 'teams')).toBe(false);
    expect(may('registry.example', 'other')).toBe(false);
    expect(may('docker.io', 'library/debian')).toBe(true);
    expect(may('docker.io.evil.example', 'library/debian')).toBe(false);
    expect(mayVouchFor({ scope: [] }, { domain: 'a', repository: 'b' })).toBe(false);
    expect(mayVouchFor({ scope: undefined }, { domain: 'a', repository: 'b' })).toBe(true);
    for (const line of ['https://registry.example', 'registry.example/*', '..', 'a b'])
      expect(() => parseScope(line, 's')).toThrow(/line 1/);
  });
});
