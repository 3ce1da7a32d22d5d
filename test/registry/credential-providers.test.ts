/** The kubelet's credential providers: real programs, of which each is a shell script here. */
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { CredentialProviders, durationMs, matchesImage } from '../../src/registry/credential-providers.ts';
import type { CofaError } from '../../schemas/errors.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
const API = 'credentialprovider.kubelet.k8s.io/v1';
let folder: string;
let now: number;
let failures: CofaError[];

beforeEach(async () => {
  folder = await cleanup.tempDir('prov');
  mkdirSync(join(folder, 'bin'));
  now = 1_000_000;
  failures = [];
});
afterEach(() => cleanup.run());

/** A program that writes what it was asked into `asked`, then runs `script`. */
function program(name: string, script: string): void {
  const path = join(folder, 'bin', name);
  writeFileSync(path, `#!/bin/sh\ncat >> ${folder}/asked; echo " $*" >> ${folder}/asked\n${script}\n`);
  chmodSync(path, 0o755);
}
const asked = () => readFileSync(join(folder, 'asked'), 'utf8').trim().split('\n');
const answer = (auth: object, more: object = {}) =>
  `echo '${JSON.stringify({ kind: 'CredentialProviderResponse', apiVersion: API, auth, ...more })}'`;

async function load(providers: object[], config: object = {}) {
  const path = join(folder, 'config.json');
  const kind = 'CredentialProviderConfig';
  const full = providers.map((one) => ({ apiVersion: API, defaultCacheDuration: '10m', ...one }));
  writeFileSync(path, JSON.stringify({ kind, providers: full, ...config }));
  return await CredentialProviders.load(
    { config: path, programs: join(folder, 'bin') },
    { now: () => now, environment: { PATH: '/usr/bin:/bin' } },
  );
}
const find = async (from: CredentialProviders, registry: string, repository: string, isRefused = false) =>
  (await from.find({ registry, repository, isRefused }, (error) => void failures.push(error))).map(
    ({ username, password }) => `${username}:${password}`,
  );

test('the program is asked as the kubelet asks it, and what it says is kept for as long as it says', async () => {
  program('cloud', `${answer({ 'r.io': { username: 'u', password: 'p' } }, { cacheDuration: '1m' })}`);
  const env = [{ name: 'ZONE', value: 'x' }];
  const from = await load([{ name: 'cloud', matchImages: ['r.io', '*.r.io'], args: ['get', '-v'], env }]);
  expect(await find(from, 'r.io', 'team/app')).toEqual(['u:p']);
  now += 59_000;
  expect(await find(from, 'r.io', 'team/app')).toEqual(['u:p']);
  expect(asked()).toEqual([
    `{"kind":"CredentialProviderRequest","apiVersion":"${API}","image":"r.io/team/app"} get -v`,
  ]);
  now += 2_000;
  await find(from, 'r.io', 'team/app');
  expect(asked()).toHaveLength(2);
  // Not meant for these.
  expect(await find(from, 'other.io', 'team/app')).toEqual([]);
  expect(await find(from, 'r.io:5000', 'team/app')).toEqual([]);
  expect(asked()).toHaveLength(2);
  expect(failures).toEqual([]);
});

test.each([
  ['Image', 3],
  ['Registry', 2],
  ['Global', 1],
])('what holds for the %s is asked for %i times', async (cacheKeyType, times) => {
  program('cloud', answer({ '*.io': { username: 'u', password: 'p' } }, { cacheKeyType }));
  const from = await load([{ name: 'cloud', matchImages: ['*.io'] }]);
  for (const [registry, repository] of [
    ['a.io', 'x'],
    ['a.io', 'y'],
    ['b.io', 'x'],
  ] as const)
    expect(await find(from, registry, repository)).toEqual(['u:p']);
  expect(asked()).toHaveLength(times);
});

test('what was refused is asked for again, though not at once: it would be the same', async () => {
  program(
    'cloud',
    `n=$(wc -l < ${folder}/asked); ${answer({ 'r.io': { username: 'u', password: "'$n'" } }, { cacheDuration: '12h' })}`,
  );
  const from = await load([{ name: 'cloud', matchImages: ['r.io'] }]);
  expect(await find(from, 'r.io', 'x')).toEqual(['u:1']);
  expect(await find(from, 'r.io', 'x', true)).toEqual(['u:1']);
  now += 6_000;
  expect(await find(from, 'r.io', 'x')).toEqual(['u:1']);
  expect(await Promise.all([1, 2, 3].map(() => find(from, 'r.io', 'x', true)))).toEqual([
    ['u:2'],
    ['u:2'],
    ['u:2'],
  ]);
  expect(asked()).toHaveLength(2);
});

test('of several entries those that mean the image count, the longest first', async () => {
  const auth = {
    'r.io': { username: 'all', password: '1' },
    'r.io/team': { username: 'team', password: '2' },
    'r.io/other': { username: 'other', password: '3' },
  };
  program('cloud', answer(auth));
  program('broken', 'echo secret-1 >&2; echo secret-2; exit 3');
  program('babbling', 'echo \'{"kind":"x","secret-3":1\'');
  const matchImages = ['r.io'];
  const from = await load(['broken', 'cloud', 'babbling', 'missing'].map((name) => ({ name, matchImages })));
  expect(await find(from, 'r.io', 'team/app')).toEqual(['team:2', 'all:1']);
  const said = failures.map(({ code, message }) => `${code}: ${message}`).toSorted();
  expect(said).toEqual([
    'unauthorized: the credential provider babbling answered something that is not JSON',
    'unauthorized: the credential provider broken failed (exit code 3)',
    'unauthorized: the credential provider missing is not installed (not found on PATH)',
  ]);
});

test('docker.io is named as a kubelet names it', async () => {
  program('hub', answer({ 'docker.io': { username: 'u', password: 'p' } }));
  const from = await load([{ name: 'hub', matchImages: ['docker.io'] }]);
  expect(await find(from, 'registry-1.docker.io', 'library/debian')).toEqual(['u:p']);
  expect(asked()[0]).toContain('"image":"docker.io/library/debian"');
});

describe('a configuration that cannot be used is refused when the engine starts', () => {
  const matchImages = ['r.io'];
  test.each([
    ['another kind', [], { kind: 'KubeletConfiguration' }, 'no CredentialProviderConfig'],
    ['a path as its name', [{ name: '../evil', matchImages }], {}, 'no name'],
    ['an unknown version', [{ name: 'a', matchImages, apiVersion: 'v9' }], {}, 'apiVersion'],
    ['no images', [{ name: 'a' }], {}, 'matchImages'],
    ['a strange duration', [{ name: 'a', matchImages, defaultCacheDuration: 'long' }], {}, 'duration'],
    ['tokens of service accounts', [{ name: 'a', matchImages, tokenAttributes: {} }], {}, 'tokenAttributes'],
  ])('%s', async (_, providers, config, why) => {
    await expect(load(providers, config)).rejects.toThrow(why);
  });

  test('a file that is not there', async () => {
    const settings = { config: join(folder, 'none'), programs: folder };
    const options = { now: () => now, environment: {} };
    await expect(CredentialProviders.load(settings, options)).rejects.toMatchObject({
      code: 'invalid-argument',
    });
  });
});

// Cases of kubernetes/pkg/credentialprovider/keyring_test.go.
test.each([
  ['*.kubernetes.io', 'prefix.kubernetes.io', true],
  ['prefix.*.io', 'prefix.kubernetes.io', true],
  ['*-good.kubernetes.io', 'prefix-good.kubernetes.io', true],
  ['*.kubernetes.io/blah', 'prefix.kubernetes.io/blah', true],
  ['prefix.*.io/foo', 'prefix.kubernetes.io/foo/bar', true],
  ['*.*.kubernetes.io', 'prefix.kubernetes.io', false],
  ['*.kubernetes.io', 'kubernetes.io', false],
  ['*kubernetes.io', 'a.kubernetes.io', false],
  ['kubernetes.io', 'kubernetes.com', false],
  ['*.kubernetes.io/foo', 'prefix.kubernetes.io/bar', false],
  ['kubernetes.io:123', 'kubernetes.io:123/x', true],
  ['kubernetes.io:123', 'kubernetes.io:1234/x', false],
  ['kubernetes.io', 'kubernetes.io:123/x', false],
  ['https://kubernetes.io/x', 'kubernetes.io/x/y', true],
  ['a.b', 'axb', false],
])('%s means %s: %s', (pattern, image, expected) => {
  expect(matchesImage(pattern, image)).toBe(expected);
});

test.each([
  ['12h0m0s', 43_200_000],
  ['1.5h', 5_400_000],
  ['90s', 90_000],
  ['250ms', 250],
  ['0', 0],
  ['', undefined],
  ['5', undefined],
  ['-1h', undefined],
  [{}, undefined],
])('the duration %j', (text, expected) => {
  expect(durationMs(text)).toBe(expected);
});
