import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { isBelow, isOneOf, refusal, type RightsFacts, type Wish } from '../../actors/rights.ts';
import { isCanonicalPath, RightsFile, UserRights } from '../../schemas/rights.ts';
import { isTighterOrEqual, TRUST_POLICIES } from '../../schemas/trust.ts';
import { parseReference } from '../../src/registry/reference.ts';

const rights = (more: object = {}): UserRights =>
  UserRights.parse({
    operations: ['mount', 'unmount', 'status', 'scrub', 'prune'],
    dirs: ['/mnt/ci', '/srv/builds'],
    images: ['registry.example/team', 'docker.io/library/debian', 'localhost:5000'],
    ...more,
  });
const facts = (more: Partial<RightsFacts> = {}): RightsFacts => ({
  policy: 'own',
  calls: 0,
  dirs: [],
  ...more,
});
const mount = (dir: string, ref = 'debian:12', more: Partial<Wish> = {}): Wish => ({
  operation: 'mount',
  dir,
  image: parseReference(ref),
  ...more,
});
const judged = (wish: Wish, more: object = {}, now: Partial<RightsFacts> = {}) =>
  refusal(rights(more), wish, facts(now))?.code;

describe('what is not for users', () => {
  test('the file cannot give `admit`, which believes its caller what a client has pulled', () => {
    const { error } = UserRights.safeParse({ operations: ['mount', 'admit'], images: ['*'] });
    expect(error?.issues[0]?.message).toContain("admit is the image service's");
    const forged = { ...rights({ images: ['*'] }), operations: ['admit'] } as unknown as UserRights;
    expect(refusal(forged, { operation: 'admit' }, facts())?.code).toBe('forbidden');
  });
});

describe('where a user may mount', () => {
  test('below its folders, and nowhere else', () => {
    expect(judged(mount('/mnt/ci/a'))).toBeUndefined();
    expect(judged(mount('/srv/builds/a/b'))).toBeUndefined();
    for (const dir of ['/mnt/cinema', '/mnt', '/', '/mnt/ci', '/usr/local/sbin', '/mnt/CI/a'])
      expect(judged(mount(dir)), dir).toBe('forbidden');
  });

  test('a path has one writing: what could be read in two ways is refused', () => {
    for (const dir of [
      '/mnt/ci/../../etc',
      '/mnt/ci/./a',
      '/mnt/ci//a',
      '//mnt/ci/a',
      '/mnt/ci/a/',
      '/mnt/ci/..',
      'mnt/ci/a',
      '/mnt/ci/a\0b',
    ])
      expect(judged(mount(dir)), dir).toBe('invalid-argument');
    // These are names like any other.
    for (const dir of ['/mnt/ci/..a', '/mnt/ci/a..', '/mnt/ci/...'])
      expect(judged(mount(dir)), dir).toBeUndefined();
  });

  test('drawn: a path that is taken lies below the folder, however it is resolved', () => {
    const part = fc.constantFrom('mnt', 'ci', 'a', '..', '.', '', 'cinema', '...', 'etc');
    fc.assert(
      fc.property(fc.array(part, { maxLength: 7 }), (parts) => {
        const dir = `/${parts.join('/')}`;
        if (!isBelow(dir, ['/mnt/ci'])) return;
        const resolved: string[] = [];
        for (const name of dir.split('/')) {
          if (name === '..') resolved.pop();
          else if (name !== '' && name !== '.') resolved.push(name);
        }
        expect(`/${resolved.join('/')}`).toBe(dir);
        expect(resolved.slice(0, 2)).toEqual(['mnt', 'ci']);
        expect(resolved.length).toBeGreaterThan(2);
      }),
      { numRuns: 2_000 },
    );
  });
});

describe('what a user may mount', () => {
  test('images of its registries and repositories, with the defaults of docker filled in', () => {
    for (const ref of [
      'debian',
      'debian:12',
      'docker.io/debian',
      'index.docker.io/library/debian@sha256:' + 'a'.repeat(64),
      'registry.example/team/app:1',
      'localhost:5000/any/thing',
    ])
      expect(judged(mount('/mnt/ci/a', ref)), ref).toBeUndefined();
    for (const ref of [
      'debian-slim',
      'alpine',
      'team/app',
      'registry.example/teamwork',
      'registry.example/other/team',
      'registry.example.evil.io/team/app',
      'registry.example:5000/team/app',
      'localhost:50001/x',
      'localhost/x',
      'evil.io/registry.example/team/app',
      'evil.io/docker.io/library/debian',
    ])
      expect(judged(mount('/mnt/ci/a', ref)), ref).toBe('forbidden');
    expect(isOneOf(parseReference('debian/sub'), ['docker.io/library/debian'])).toBe(false);
  });

  test('drawn: a prefix ends where a part of the name ends', () => {
    const part = fc.constantFrom('a', 'ab', 'team', 'teams', 'x-y');
    const name = fc.array(part, { minLength: 1, maxLength: 4 }).map((parts) => parts.join('/'));
    fc.assert(
      fc.property(name, name, (repository, prefix) => {
        const taken = isOneOf({ domain: 'r.io', repository }, [`r.io/${prefix}`]);
        const parts = prefix.split('/');
        expect(taken).toBe(parts.every((one, at) => repository.split('/')[at] === one));
      }),
    );
  });

  test('what names no image, or by an id, takes the right to all', () => {
    const prune: Wish = { operation: 'prune', anyImage: true };
    expect(judged(prune)).toBe('forbidden');
    expect(judged(prune, { images: ['*'] })).toBeUndefined();
  });
});

describe('trust', () => {
  test("a request asks for no looser policy than the engine's, and for none that the user may not have", () => {
    for (const policy of TRUST_POLICIES)
      for (const trust of TRUST_POLICIES) {
        const wish = mount('/mnt/ci/a', 'debian', { trust });
        const isTight = isTighterOrEqual(trust, policy);
        expect(judged(wish, {}, { policy }) === undefined, `${trust} below ${policy}`).toBe(isTight);
        expect(judged(wish, { trust: ['never'] }, { policy }) === undefined).toBe(
          isTight && trust === 'never',
        );
        // `*` is about names.
        expect(judged(wish, { images: ['*'], dirs: ['/'] }, { policy }) === undefined).toBe(isTight);
      }
  });
});

test('an operation that is not named, and words of the engine itself, are refused', () => {
  expect(judged({ operation: 'down' })).toBe('forbidden');
  expect(judged(mount('/mnt/ci/a', 'debian', { internal: true }))).toBe('forbidden');
});

test('calls side by side and mounts that exist are counted; those of other folders are not', () => {
  expect(judged(mount('/mnt/ci/a'), { calls: 2 }, { calls: 1 })).toBeUndefined();
  expect(judged(mount('/mnt/ci/a'), { calls: 2 }, { calls: 2 })).toBe('busy');
  const dirs = ['/mnt/ci/1', '/mnt/other/2', '/srv/builds/3'];
  expect(judged(mount('/mnt/ci/a'), { mounts: 3 }, { dirs })).toBeUndefined();
  expect(judged(mount('/mnt/ci/a'), { mounts: 2 }, { dirs })).toBe('busy');
  expect(judged({ operation: 'unmount', dir: '/mnt/ci/1' }, { mounts: 2 }, { dirs })).toBeUndefined();
});

describe('the file', () => {
  const parse = (more: object) =>
    RightsFile.safeParse({ v: 1, users: { ci: { operations: ['status'], ...more } } });

  test('has no rights by default, and only prefixes that say what they mean', () => {
    expect(parse({}).data?.users.ci).toMatchObject({ dirs: [], images: [], calls: 8 });
    expect(parse({ images: ['docker.io/library/debian', 'localhost:5000', 'ghcr.io', '*'] }).success).toBe(
      true,
    );
    for (const image of [
      'debian',
      'library/debian',
      'docker.io/',
      'docker.io//a',
      'ghcr.io/a/',
      '',
      'ghcr.io/*',
      'GHCR.io',
    ])
      expect(parse({ images: [image] }).success, image).toBe(false);
    for (const dir of ['mnt', '/mnt/', '/mnt/../etc', '', '/a//b'])
      expect(parse({ dirs: [dir] }).success, dir).toBe(false);
    expect(parse({ operations: ['mount', 'fly'] }).success).toBe(false);
    expect(parse({ everything: true }).success).toBe(false);
    for (const name of ['a.b', '*', '>', 'A', '', 'a b', '-a'])
      expect(
        RightsFile.safeParse({ v: 1, users: { [name]: { operations: ['status'] } } }).success,
        name,
      ).toBe(false);
  });

  test('a canonical path is what it says', () => {
    for (const path of ['/', '/a', '/a/b.c', '/a/..b']) expect(isCanonicalPath(path), path).toBe(true);
    for (const path of ['', 'a', '/a/', '//', '/.', '/..', '/a/../b'])
      expect(isCanonicalPath(path), path).toBe(false);
  });
});
