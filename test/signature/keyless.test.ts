/** Signatures by an identity, against a CA and a log of these tests' own. */
import { readdir, readFile } from 'node:fs/promises';
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { parseIdentity, parseRoot } from '../../src/signature/parse-identity.ts';
import type { TrustedIdentity } from '../../src/signature/identities.ts';
import { judgeBundle } from '../../src/signature/verify.ts';
import {
  type BundleJson,
  ISSUER,
  signKeyless,
  type Signing,
  type Sigstore,
  startSigstore,
  SUBJECT,
  type TrustedRootJson,
} from './sigstore.ts';
import { digest, pair } from './support.ts';

const SIDECAR = digest('a');
const key = pair('key');
let ours: Sigstore;
let theirs: Sigstore;

beforeAll(async () => {
  ours = await startSigstore();
  theirs = await startSigstore('other.example');
});

const rule = (content: object = {}, root: TrustedRootJson = ours.root, name = 'ci'): TrustedIdentity => {
  const { issuer, subject } = parseIdentity(
    JSON.stringify({ issuer: ISSUER, subject: SUBJECT, ...content }),
    name,
  );
  return {
    kind: 'identity',
    name,
    issuer,
    subject,
    root: parseRoot(JSON.stringify(root), `${name}.json`),
    scope: undefined,
  };
};
const judge = (bundle: BundleJson | string, ...rules: TrustedIdentity[]) => {
  const text = typeof bundle === 'string' ? bundle : JSON.stringify(bundle);
  return judgeBundle(Buffer.from(text), SIDECAR, [key.trusted, ...rules]);
};
/** Why a bundle vouches for nothing; undefined: it does. */
const why = async (bundle: BundleJson, ...rules: TrustedIdentity[]) => {
  const verdict = await judge(bundle, ...(rules.length === 0 ? [rule()] : rules));
  return 'refusal' in verdict ? `${verdict.refusal}: ${verdict.why}` : undefined;
};
const signed = (as?: Signing, by = ours, of = SIDECAR) => signKeyless(by, of, as);
const changed = async (change: (bundle: BundleJson) => unknown): Promise<BundleJson> => {
  const bundle = await signed();
  change(bundle);
  return bundle;
};

describe('an identity vouches', () => {
  it('by a certificate that is not valid now, since the log says when it signed', async () => {
    expect(await judge(await signed(), rule())).toMatchObject({
      by: { name: 'ci' },
      identity: { issuer: ISSUER, subject: SUBJECT },
      voucher: expect.stringMatching(/^identity:sha256:[0-9a-f]{64}$/),
    });
    expect(await why(await signed({ legacy: true }))).toBeUndefined();
  });

  it('where its rule matches the whole of issuer and subject, and not a part', async () => {
    const team = { subject: undefined, subjectPattern: 'https://code\\.example/team/.*' };
    expect(await why(await signed(), rule(team))).toBeUndefined();
    const part = { subject: undefined, subjectPattern: 'code\\.example/team' };
    expect(await why(await signed(), rule(part))).toContain(`no rule takes ${SUBJECT} of ${ISSUER}`);
    expect(await why(await signed({ subject: `https://evil.example/?${SUBJECT}` }), rule(team))).toContain(
      'unknown-identity: no rule takes',
    );
    expect(await why(await signed({ issuer: 'https://issuer.example.evil' }))).toContain('no rule takes');
    const anyIssuer = { issuer: undefined, issuerPattern: 'https://[a-z]+\\.example' };
    expect(await why(await signed(), rule(anyIssuer))).toBeUndefined();
  });

  it('of several rules and roots the one that fits, beside a root that is of no use', async () => {
    const useless = rule({}, { ...ours.root, tlogs: [] }, 'useless');
    const verdict = await judge(await signed({}, theirs), useless, rule(), rule({}, theirs.root, 'other'));
    expect(verdict).toMatchObject({ by: { name: 'other' } });
  });

  it('under a name that holds while its rule and its CA are there, whatever logs the root has', async () => {
    const voucher = async (one: TrustedIdentity, by = ours) => {
      const verdict = await judge(await signed({}, by), one);
      return 'by' in verdict ? verdict.voucher : verdict.why;
    };
    const both = {
      ...ours.root,
      tlogs: [...theirs.root.tlogs, ...ours.root.tlogs],
      certificateAuthorities: [...theirs.root.certificateAuthorities, ...ours.root.certificateAuthorities],
      ctlogs: [...theirs.root.ctlogs, ...ours.root.ctlogs],
    };
    const plain = await voucher(rule());
    expect(plain).toMatch(/^identity:/);
    expect(await voucher(rule({}, both))).toBe(plain);
    expect(await voucher(rule({}, both), theirs)).not.toBe(plain);
    expect(await voucher(rule({ subject: undefined, subjectPattern: '.*' }))).not.toBe(plain);
  });
});

describe('refused is', () => {
  it('a bundle of another digest, put beside this sidecar', async () => {
    expect(await why(await signed({}, ours, digest('b')))).toBe('other: it signs another digest');
    expect(await why(await signed({ predicateType: 'https://slsa.dev/provenance/v1' }))).toContain(
      'attestation',
    );
  });

  it('another root: its CA, its log, its log of certificates', async () => {
    expect(await why(await signed({}, theirs))).toContain(
      'its certificate is not one that the trust root takes',
    );
    for (const [part, sentence] of [
      ['certificateAuthorities', 'its certificate is not one that the trust root takes'],
      ['tlogs', 'its entry is not of a log that the trust root names'],
      ['ctlogs', 'its certificate is not one that the trust root takes'],
    ] as const)
      expect(
        await why(await signed(), rule({}, { ...ours.root, [part]: theirs.root[part] })),
        part,
      ).toContain(sentence);
  });

  it('one whose log entry is missing, another signature’s, or has lost its proofs', async () => {
    const material = (change: (of: BundleJson['verificationMaterial']) => unknown) =>
      changed((bundle) => change(bundle.verificationMaterial));
    const unsaid = 'nothing that the trust root names says when it was signed';
    expect(await why(await material((of) => delete (of as { tlogEntries?: unknown }).tlogEntries))).toContain(
      unsaid,
    );
    expect(await why(await material((of) => of.tlogEntries.splice(0)))).toContain(unsaid);
    const other = await signed();
    expect(
      await why(
        await material((of) => Object.assign(of, { tlogEntries: other.verificationMaterial.tlogEntries })),
      ),
    ).toContain('its entry of the log is about another signature');
    for (const field of ['inclusionPromise', 'inclusionProof', 'integratedTime'])
      expect(await why(await material((of) => delete of.tlogEntries[0]?.[field])), field).toBeDefined();
    // Twice the same.
    expect(await why(await material((of) => of.tlogEntries.push(...of.tlogEntries)))).toBeDefined();
  });

  it('one that the log knows from a time when the certificate had expired, or says so itself', async () => {
    const late = await signed({ log: ours.laterLog });
    expect(await why(late)).toContain(
      'its certificate is not one that the trust root takes for the time of signing',
    );
    const [entry] = late.verificationMaterial.tlogEntries;
    Object.assign(entry ?? {}, { integratedTime: `${Number(entry?.integratedTime) - 3_600}` });
    expect(await why(late)).toContain('its entry is not of a log');
  });

  it('a signature that its certificate did not make, or a statement that was changed', async () => {
    const [one, two] = [await signed(), await signed()];
    expect(
      await why({ ...one, dsseEnvelope: { ...one.dsseEnvelope, signatures: two.dsseEnvelope.signatures } }),
    ).toBeDefined();
    const certificate = two.verificationMaterial.certificate;
    expect(await why({ ...one, verificationMaterial: { ...one.verificationMaterial, certificate } })).toBe(
      'unknown-identity: its signature is not that of its certificate',
    );
    const forged = await signed({}, ours, digest('b'));
    expect(
      await why({ ...forged, dsseEnvelope: { ...forged.dsseEnvelope, payload: one.dsseEnvelope.payload } }),
    ).toBeDefined();
  });

  it('an envelope beside another signature, which the library would look at instead', async () => {
    const genuine = await signed({}, ours, digest('b'));
    const { payload } = (await signed()).dsseEnvelope;
    const bundle = {
      ...genuine,
      dsseEnvelope: { ...genuine.dsseEnvelope, payload },
      messageSignature: {
        messageDigest: { algorithm: 'SHA2_256', digest: 'AAAA' },
        signature: genuine.dsseEnvelope.signatures[0]?.sig,
      },
    };
    expect(await why(bundle)).toContain('another signature beside the envelope');
    expect(
      await why(await changed((of) => (of.verificationMaterial['publicKey'] = { hint: 'x' }))),
    ).toContain('other keys beside the certificate');
  });

  it('a subject or an issuer that is the trusted one but for the eighth bit of a letter', async () => {
    const high = (text: string) => text.replace('code', 'c\u00efde').replace('issuer', 'issu\u00e5r');
    for (const as of [{ subject: high(SUBJECT) }, { issuer: high(ISSUER), legacy: true }]) {
      expect(await why(await signed(as))).toContain('its certificate does not name');
    }
  });

  it('one with so many entries of logs that to look at them would keep the engine busy', async () => {
    const bundle = await changed(({ verificationMaterial: { tlogEntries: all } }) => {
      const [first] = all;
      for (let n = 1; first !== undefined && n < 110; n++)
        all.push({
          ...first,
          canonicalizedBody: 'e30=',
          inclusionProof: { ...(first['inclusionProof'] as object), checkpoint: { envelope: 'x' } },
          integratedTime: `${Number(first['integratedTime']) + n}`,
        });
    });
    expect(JSON.stringify(bundle).length).toBeLessThan(60_000);
    const began = process.cpuUsage();
    expect(await why(bundle)).toContain('tlogEntries is wrong');
    // Processor time, µs.
    expect(process.cpuUsage(began).user).toBeLessThan(300_000);
  });

  it('every certificate where no rule is', async () => {
    expect(await judge(await signed())).toMatchObject({ refusal: 'unknown-identity' });
  });

  it('a root that cannot say when, in words', async () => {
    const root = { ...ours.root, tlogs: [] };
    expect(await why(await signed(), rule({}, root))).toContain('names no log and no timestamp authority');
  });

  it('drawn: whatever one changes in a bundle, without an exception and for no other identity', async () => {
    const text = JSON.stringify(await signed());
    const at = fc.nat({ max: text.length - 1 });
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(at, fc.string({ unit: 'binary-ascii', maxLength: 2 })), { maxLength: 3 }),
        async (edits) => {
          let drawn = text;
          for (const [where, put] of edits) drawn = drawn.slice(0, where) + put + drawn.slice(where + 1);
          const verdict = await judge(drawn, rule());
          if ('by' in verdict) expect(verdict.identity).toEqual({ issuer: ISSUER, subject: SUBJECT });
        },
      ),
      { numRuns: 100 },
    );
  });
});

it('the library is loaded by this module alone, and this module where a bundle has a certificate', async () => {
  const files = (await readdir('src', { recursive: true })).filter((name) => name.endsWith('.ts'));
  const texts = await Promise.all(files.map((name) => readFile(`src/${name}`, 'utf8')));
  const using = (pattern: RegExp) => files.filter((_, at) => pattern.test(texts[at] ?? ''));
  expect(using(/from '@sigstore|\('@sigstore/)).toEqual(['signature/keyless.ts']);
  expect(using(/from '.*keyless\.ts'/)).toEqual([]);
});

describe('the file of a rule', () => {
  it('has one issuer and one subject, and an expression that is one', () => {
    const read = (content: object | string) => () =>
      parseIdentity(typeof content === 'string' ? content : JSON.stringify(content), 'ci.identity');
    expect(read({ issuer: 'a', subject: 'b' })().rootName).toBe('trusted_root.json');
    for (const [content, problem] of [
      ['{', 'is not JSON'],
      [{ issuer: 'a' }, 'has to have subject or subjectPattern'],
      [{ issuer: 'a', issuerPattern: 'b', subject: 'c' }, 'has to have issuer or issuerPattern'],
      [{ issuer: 'a', subjectPattern: '(' }, 'is no RE2 expression'],
      [{ issuer: 'a', subjectPattern: '(?=a)' }, 'is no RE2 expression'],
      [{ issuer: 'a', subject: 'b', root: '../x.json' }, 'names a file'],
      [{ issuer: 'a', subject: 'b', more: 1 }, 'ci.identity'],
    ] as const)
      expect(read(content)).toThrow(problem);
  });
});
