/** What the engine knows from pulls: which credentials are tried, in which order, and what is left for the next one. */
import { pino } from 'pino';
import { expect, test } from 'vitest';
import { CredentialDesk } from '../../src/registry/credential-desk.ts';
import type { Keeper } from '../../src/registry/kept-secrets.ts';

const place = { registry: 'r.io', repository: 'team/app' };
const log = pino({ level: 'silent' });

function bench() {
  const stored = { bytes: undefined as Buffer | undefined, now: 1e12 };
  const kept: Keeper = {
    most: 100_000,
    save: (bytes) => void (stored.bytes = Buffer.from(bytes)),
    load: () => stored.bytes,
  };
  const desk = () => new CredentialDesk({ providers: undefined, kept, now: () => stored.now, log });
  return { stored, desk };
}
const offer = (desk: CredentialDesk, username: string, repository = place.repository) =>
  desk.offer({ ...place, repository, credentials: { username, password: `of ${username}` } });
const found = async (desk: CredentialDesk, repository: string | undefined = place.repository) =>
  (await desk.find({ registry: place.registry, repository, isRefused: false })).map(
    ({ username }) => username,
  );

test('credentials of a pull are tried while it runs, and forgotten when it fails', async () => {
  const { stored, desk } = bench();
  const first = desk();
  const pull = offer(first, 'joe');
  expect(await found(first)).toEqual(['joe']);
  expect(await found(first, 'team/other')).toEqual([]);
  expect(await first.find({ registry: 'other.io', repository: place.repository, isRefused: false })).toEqual(
    [],
  );
  first.settle({ pull, isPulled: false });
  expect(await found(first)).toEqual([]);
  expect(stored.bytes).toBeUndefined();
});

test('those that a pull succeeded with come first, and are there for the next engine; others are not', async () => {
  const { desk } = bench();
  const first = desk();
  first.settle({ pull: offer(first, 'joe'), isPulled: true });
  const second = offer(first, 'ann');
  expect(await found(first)).toEqual(['joe', 'ann']);
  expect(await found(desk())).toEqual(['joe']);
  first.settle({ pull: second, isPulled: true });
  expect(await found(first)).toEqual(['ann', 'joe']);
  expect(await found(desk())).toEqual(['ann', 'joe']);
  // A registry that fails for a while takes nothing away.
  first.settle({ pull: offer(first, 'joe'), isPulled: false });
  expect(await found(first)).toEqual(['ann', 'joe']);
});

test('of two pulls with the same credentials one that fails does not take them from the other', async () => {
  const first = bench().desk();
  const [one, two] = [offer(first, 'joe'), offer(first, 'joe')];
  first.settle({ pull: one, isPulled: false });
  expect(await found(first)).toEqual(['joe']);
  first.settle({ pull: two, isPulled: true });
  first.settle({ pull: two, isPulled: false });
  expect(await found(first)).toEqual(['joe']);
});

test('there are not ever more: of a repository the newest, of repositories those that were pulled last', async () => {
  const first = new CredentialDesk({ providers: undefined, kept: undefined, now: () => 0, log });
  for (let at = 0; at < 20; at++) first.settle({ pull: offer(first, `u${at}`), isPulled: true });
  expect(await found(first)).toEqual(Array.from({ length: 8 }, (_, at) => `u${19 - at}`));
  for (let at = 0; at < 2_000; at++) first.settle({ pull: offer(first, 'joe', `r/${at}`), isPulled: true });
  expect(await found(first)).toEqual([]);
  expect(await found(first, 'r/1999')).toEqual(['joe']);
});

test('what is kept has a limit: the next engine knows the repositories that were pulled last', async () => {
  const { stored, desk } = bench();
  const first = desk();
  for (let at = 0; at < 1_000; at++) first.settle({ pull: offer(first, 'joe', `r/${at}`), isPulled: true });
  expect(stored.bytes?.length).toBeGreaterThan(90_000);
  expect(stored.bytes?.length).toBeLessThanOrEqual(100_000);
  expect(await found(desk(), 'r/999')).toEqual(['joe']);
  expect(await found(desk(), 'r/0')).toEqual([]);
  expect(await found(first, 'r/0')).toEqual(['joe']);
});

test('after thirty days without a pull the next engine does not know them', async () => {
  const { stored, desk } = bench();
  const first = desk();
  first.settle({ pull: offer(first, 'joe'), isPulled: true });
  stored.now += 20 * 86_400_000;
  first.settle({ pull: offer(first, 'ann'), isPulled: true });
  expect(await found(desk())).toEqual(['ann', 'joe']);
  stored.now += 11 * 86_400_000;
  expect(await found(desk())).toEqual(['ann']);
});

test('foreign bytes are no reason not to start', async () => {
  for (const text of [
    'not JSON',
    '{"v":2,"repositories":[]}',
    '{"v":1,"repositories":[{"registry":"r.io"}]}',
  ]) {
    const { stored, desk } = bench();
    stored.bytes = Buffer.from(text);
    expect(await found(desk())).toEqual([]);
  }
});
