import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import { isLoopback, parseReference } from '../../src/registry/reference.ts';

const HEX = 'a3'.repeat(32);
const DIGEST = `sha256:${HEX}`;

describe('references as docker writes them', () => {
  test.each([
    // text, registry, repository, tag, digest, completed
    ['debian', 'registry-1.docker.io', 'library/debian', 'latest', undefined, 'debian:latest'],
    ['debian:12', 'registry-1.docker.io', 'library/debian', '12', undefined, 'debian:12'],
    ['team/app', 'registry-1.docker.io', 'team/app', 'latest', undefined, 'team/app:latest'],
    ['a/b/c:x', 'registry-1.docker.io', 'a/b/c', 'x', undefined, 'a/b/c:x'],
    ['library/a/b', 'registry-1.docker.io', 'library/a/b', 'latest', undefined, 'library/a/b:latest'],
    ['docker.io/debian', 'registry-1.docker.io', 'library/debian', 'latest', undefined, 'debian:latest'],
    [
      'index.docker.io/debian',
      'registry-1.docker.io',
      'library/debian',
      'latest',
      undefined,
      'debian:latest',
    ],
    ['docker.io/library/debian:1', 'registry-1.docker.io', 'library/debian', '1', undefined, 'debian:1'],
    ['ghcr.io/a/b:v1', 'ghcr.io', 'a/b', 'v1', undefined, 'ghcr.io/a/b:v1'],
    ['ghcr.io/a', 'ghcr.io', 'a', 'latest', undefined, 'ghcr.io/a:latest'],
    ['localhost/a', 'localhost', 'a', 'latest', undefined, 'localhost/a:latest'],
    ['localhost:5000/a/b', 'localhost:5000', 'a/b', 'latest', undefined, 'localhost:5000/a/b:latest'],
    ['host:5000/a', 'host:5000', 'a', 'latest', undefined, 'host:5000/a:latest'],
    ['HOST/a', 'HOST', 'a', 'latest', undefined, 'HOST/a:latest'],
    ['127.0.0.1:5000/x', '127.0.0.1:5000', 'x', 'latest', undefined, '127.0.0.1:5000/x:latest'],
    ['[::1]:5000/x', '[::1]:5000', 'x', 'latest', undefined, '[::1]:5000/x:latest'],
    ['[fe80::1]/x:y', '[fe80::1]', 'x', 'y', undefined, '[fe80::1]/x:y'],
    [
      'xn--n3h.com/a__b--c.d_e',
      'xn--n3h.com',
      'a__b--c.d_e',
      'latest',
      undefined,
      'xn--n3h.com/a__b--c.d_e:latest',
    ],
    [`debian@${DIGEST}`, 'registry-1.docker.io', 'library/debian', undefined, DIGEST, `debian@${DIGEST}`],
    [`r.io/a:1@${DIGEST}`, 'r.io', 'a', '1', DIGEST, `r.io/a:1@${DIGEST}`],
    // Without a slash the colon starts a tag, even where it looks like a port.
    ['localhost:5000', 'registry-1.docker.io', 'library/localhost', '5000', undefined, 'localhost:5000'],
  ])('%s', (text, registry, repository, tag, digest, completed) => {
    const reference = parseReference(text);
    expect([
      reference.registry,
      reference.repository,
      reference.tag,
      reference.digest,
      reference.text,
    ]).toEqual([registry, repository, tag, digest, completed]);
  });

  test.each([
    ['', 'empty'],
    [HEX, 'bare hash'],
    ['Debian', 'lowercase'],
    ['ghcr.io/Team/app', 'lowercase'],
    ['debian:', 'not a tag'],
    ['debian:a b', 'not a tag'],
    [`debian:${'a'.repeat(129)}`, 'not a tag'],
    ['debian:12@', 'not a digest'],
    ['debian@sha256:abc', 'not a digest'],
    [`debian@sha256:${HEX.toUpperCase()}`, 'not a digest'],
    [`debian@${DIGEST}@${DIGEST}`, 'not a digest'],
    ['a//b', 'not a repository name'],
    ['a/', 'not a repository name'],
    ['/a', 'not a repository name'],
    ['a/_b', 'not a repository name'],
    ['a/b___c', 'not a repository name'],
    ['a/../b', 'not a repository name'],
    ['ghcr.io/', 'missing'],
    ['-host.io/a', 'not a host'],
    ['ho_st.io/a', 'not a host'],
    ['host.io:99999/a', 'not a port'],
    ['host.io:0/a', 'not a port'],
    ['https://host.io/a', 'not a host'],
    ['user@host.io/a', 'not a digest'],
    [`${'a'.repeat(256)}:x`, 'too long'],
    ['a'.repeat(2000), 'too long'],
    ['é/x', 'not a repository name'],
    ['a\nb', 'not a repository name'],
  ])('refused: %j', (text, why) => {
    expect(() => parseReference(text)).toThrow(
      expect.objectContaining({ code: 'invalid-argument', message: expect.stringContaining(why) }),
    );
  });

  test('a sha512 digest is named as unsupported, not as a mistake', () => {
    expect(() => parseReference(`a@sha512:${HEX}${HEX}`)).toThrow(
      expect.objectContaining({ code: 'unsupported' }),
    );
  });

  test('the completed text reads back as the same reference', () => {
    const name = fc.stringMatching(/^[a-z0-9]{1,5}([._-][a-z0-9]{1,5}){0,2}$/);
    const reference = fc
      .tuple(
        fc.constantFrom(
          '',
          'docker.io/a.b/',
          'docker.io/',
          'library/',
          'localhost/',
          'r.example:5000/',
          '[::1]:1/',
        ),
        fc.array(name, { minLength: 1, maxLength: 3 }),
        fc.constantFrom('', ':1.0_x-y', ':latest'),
        fc.constantFrom('', `@${DIGEST}`),
      )
      // Without a host, a first part with a dot would be one.
      .filter(([host, parts]) => host !== '' || parts.length === 1 || !/[.]/.test(parts[0] ?? ''))
      .map(([host, parts, tag, digest]) => `${host}${parts.join('/')}${tag}${digest}`);
    fc.assert(
      fc.property(reference, (text) => {
        const once = parseReference(text);
        expect(parseReference(once.text)).toEqual(once);
      }),
    );
  });

  test('any text either parses or is refused with a reason', () => {
    const pieces = fc.constantFrom(
      'a',
      'B',
      '/',
      ':',
      '@',
      '.',
      '_',
      '-',
      '[',
      ']',
      '1',
      'sha256:',
      '\0',
      ' ',
      '😀',
    );
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string({ unit: 'binary' }),
          fc.array(pieces).map((p) => p.join('')),
        ),
        (text) => {
          try {
            parseReference(text);
          } catch (error) {
            expect(error).toBeInstanceOf(CofaError);
          }
        },
      ),
    );
  });
});

test.each([
  ['localhost', true],
  ['localhost:5000', true],
  ['127.0.0.1:5000', true],
  ['127.9.8.7', true],
  ['127.1', true],
  ['[::1]:5000', true],
  ['LOCALHOST', true],
  ['128.0.0.1', false],
  ['localhost.example.org', false],
  ['127.0.0.1.example.org', false],
  ['[::2]', false],
  ['example.org:5000', false],
])('loopback: %s → %s', (host, expected) => {
  expect(isLoopback(host)).toBe(expected);
});
