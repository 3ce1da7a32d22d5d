/** What looks like a secret, and what is known to be one, in texts that leave the machine. */
import { describe, expect, test } from 'vitest';
import { Mask, secretsIn } from '../../src/cli/support-mask.ts';

const clean = (text: string, known: string[] = []) => new Mask(known).text(text);

describe('what looks like a secret', () => {
  test.each([
    ['nats://user:pa55word@host:4222/x', 'nats://***@host:4222/x'],
    ['fetch of https://tok3n@reg.example/v2/', 'fetch of https://***@reg.example/v2/'],
    ['tls://user:p4ss@w0rd@host:4222', 'tls://***@host:4222'],
    ['X-Registry-Auth: eyJ1c2VybmFtZSI6InUifQ==', 'X-Registry-Auth: ***=='],
    ['{"password":"it\'s \\"p4ss\\" ","n":1}', '{"password":"***","n":1}'],
    ['{\\"password\\":\\"it\'s \\\\\\"p4ss\\",\\"n\\":1}', '{\\"password\\":\\"***\\",\\"n\\":1}'],
    ['{"msg":"a token=\\"p4ss","n":1}', '{"msg":"a token=\\"***","n":1}'],
    ['Authorization: Bearer abc.def-123=', 'Authorization: ***'],
    ['authorization: Basic dXNlcjpwYXNz', 'authorization: ***'],
    ['password: correct horse battery', 'password: ***'],
    ['  passphrase = correct, horse {battery}\nnode: a', '  passphrase = ***\nnode: a'],
    ['Cookie: session=abc; id=def', 'Cookie: ***'],
    [
      String.raw`{"msg":"password: it's \"correct\" horse\nnext line","n":1}`,
      String.raw`{"msg":"password: ***\nnext line","n":1}`,
    ],
    ['secret=one two', 'secret=*** two'],
    ['{"identitytoken":"abc","registry":"r"}', '{"identitytoken":"***","registry":"r"}'],
    ['{\\"password\\":\\"p4ss\\",\\"n\\":1}', '{\\"password\\":\\"***\\",\\"n\\":1}'],
    ['COFA_KEY_PASSWORD=hunter22 run', 'COFA_KEY_PASSWORD=*** run'],
    ["x-api-key: 'k3y'", "x-api-key: '***'"],
    [
      'GET /b?X-Amz-Signature=f00&n=1&X-Amz-Credential=AK%2Fx',
      'GET /b?X-Amz-Signature=***&n=1&X-Amz-Credential=***',
    ],
    ['a eyJhbGciOiJ.eyJzdWIiOiIx.c2ln b', 'a *** b'],
    ['ghp_0123456789abcdef', '***'],
    ['-----BEGIN EC PRIVATE KEY-----\nMHc\nMIG\n-----END EC PRIVATE KEY-----\nnext', '***\nnext'],
    ['"-----BEGIN PRIVATE KEY-----\\nMHc\\n-----END PRIVATE KEY-----\\n"', '"***\\n"'],
  ])('%s', (text, without) => {
    expect(clean(text)).toBe(without);
  });

  // What others send may end in a log: a user of the API, a registry.
  const ODD = ['?sig', 'passwd://', 'secret ', 'cookie: \\', '\\', 'token=\\"'];
  test.each(['1', 'a-', 'a.', 'token', 'eyJabcdefgh-', ...ODD])(
    'a long text of %s takes no time to speak of',
    (word) => {
      const text = word.repeat(Math.ceil(200_000 / word.length));
      const began = performance.now();
      clean(text);
      expect(performance.now() - began).toBeLessThan(2_000);
    },
  );

  test('what helps stays: digests, names, times, words about secrets', () => {
    const text = `{"level":30,"time":1764562346000,"name":"fetcher-0","layer":"sha256:${'ab'.repeat(32)}","msg":"fetch failed","code":"unauthorized","ref":"reg.example:5000/app@sha256:${'cd'.repeat(32)}"}
authority of https://reg.example/v2/: no credentials are known; log in: docker login reg.example
/etc/cofa/keys.d/release.pub, --metrics-auth /etc/cofa/metrics-login, author: me`;
    expect(clean(text)).toBe(text);
  });
});

describe('what is known to be a secret', () => {
  test('wherever it stands, and however it is written', () => {
    const secret = 'ca"nary/42+x';
    for (const text of [
      secret,
      JSON.stringify(secret),
      encodeURIComponent(secret),
      Buffer.from(secret).toString('base64'),
    ])
      expect(clean(`some ${text} thing`, [secret])).toMatch(/^some "?\*\*\*"? thing$/);
    expect(clean('short words stay', ['short'])).toBe('short words stay');
  });

  test('in values of any shape', () => {
    const value = new Map([
      ['a', [{ ref: 'x canary-1 y', password: 'short', n: 1, bytes: new Uint8Array(3) }]],
    ]);
    expect(new Mask(['canary-1']).value(value)).toEqual(
      new Map([['a', [{ ref: 'x *** y', password: '***', n: 1, bytes: new Uint8Array(3) }]]]),
    );
  });

  test('found in the files that hold them', () => {
    const auth = Buffer.from('user:canary-pass').toString('base64');
    expect(
      secretsIn({ auths: { r: { auth, identitytoken: 'canary-token' } }, credsStore: 'desktop' }).sort(),
    ).toEqual([auth, 'canary-pass', 'canary-token', 'user:canary-pass'].sort());
    expect(
      secretsIn({ nats: 'nats://u:canary@h', host: { h: { header: { 'x-a': ['canary-h'] } } } }).sort(),
    ).toEqual(['canary', 'canary-h', 'u:canary']);
    expect(secretsIn({ nats: 'nats://u:can%40ary@2:3@h' }).sort()).toEqual(
      ['u:can%40ary@2:3', 'can%40ary@2:3', 'can@ary@2:3'].sort(),
    );
  });
});
