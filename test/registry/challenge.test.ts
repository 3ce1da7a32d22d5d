import fc from 'fast-check';
import { expect, test } from 'vitest';
import { chooseChallenge, parseChallenges } from '../../src/registry/challenge.ts';

test.each([
  ['Basic realm="x"', { scheme: 'basic' }],
  ['basic', { scheme: 'basic' }],
  ['Bearer realm="https://a/t",service="s"', { scheme: 'bearer', realm: 'https://a/t', service: 's' }],
  ['BEARER  Realm = "https://a/t" , SERVICE=s', { scheme: 'bearer', realm: 'https://a/t', service: 's' }],
  ['Bearer realm="https://a/t"', { scheme: 'bearer', realm: 'https://a/t', service: undefined }],
  ['Bearer realm="a\\"b\\\\c, d=e",service="x"', { scheme: 'bearer', realm: 'a"b\\c, d=e', service: 'x' }],
  // Several in one header, and the one that is preferred.
  ['Basic realm="x", Bearer realm="r",service="s"', { scheme: 'bearer', realm: 'r', service: 's' }],
  ['Negotiate, Basic realm="x"', { scheme: 'basic' }],
  ['Digest realm="x", nonce="y"', undefined],
  ['Bearer scope="no realm"', undefined],
  ['Bearer realm="unfinished', undefined],
  ['', undefined],
  ['=', undefined],
])('%s', (header, expected) => {
  expect(chooseChallenge(header)).toEqual(expected);
});

test('several headers are looked at', () => {
  expect(chooseChallenge(['Basic realm="x"', 'Bearer realm="r"'])).toMatchObject({ scheme: 'bearer' });
  expect(chooseChallenge(undefined)).toBeUndefined();
});

const quote = (text: string) => `"${text.replace(/[\\"]/g, '\\$&')}"`;

test('what is quoted comes out as it went in', () => {
  fc.assert(
    fc.property(fc.string({ maxLength: 50 }), fc.string({ maxLength: 50 }), (realm, service) => {
      expect(chooseChallenge(`Bearer realm=${quote(realm)},service=${quote(service)}`)).toEqual({
        scheme: 'bearer',
        realm,
        service,
      });
    }),
  );
});

test('any text is parsed without an error', () => {
  const pieces = fc.constantFrom('Bearer', 'Basic', ' ', ',', '=', '"', '\\', 'realm', 'x', '\t', 'é');
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string({ unit: 'binary' }),
        fc.array(pieces).map((p) => p.join('')),
      ),
      (text) => {
        parseChallenges(text);
      },
    ),
  );
});
