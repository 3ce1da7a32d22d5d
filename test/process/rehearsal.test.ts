/** Rehearsals go through the very code of a start, and leave nothing behind. */
import { readdir } from 'node:fs/promises';
import { afterAll, expect, test } from 'vitest';
import { rehearse } from '../../src/process/rehearsal/rehearsal.ts';
import { rehearseMember } from '../../src/fleet/rehearse.ts';
import { rehearseFront } from '../../src/front-end/rehearse.ts';
import { makeIdentity } from '../../src/process/nats-identity.ts';
import { realPorts } from '../../src/process/ports.ts';
import { rehearseStart } from '../../src/supervisor/rehearse.ts';
import { rehearseFetch } from '../../src/fetcher/rehearse.ts';
import { Layout } from '../../src/store/layout.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

async function emptyRoot(): Promise<{ root: string; left: () => Promise<string[]> }> {
  const root = await cleanup.tempDir('rehearsal');
  await new Layout(root).prepare();
  return {
    root,
    left: async () => (await readdir(root, { recursive: true })).filter((path) => path.includes('/')),
  };
}

test('a start is rehearsed to its end', async () => {
  const { root, left } = await emptyRoot();
  const { signal } = new AbortController();
  await rehearseStart({ root, name: 'supervisor', signal });
  expect(await left()).toEqual([]);
});

test('so is what a fetcher does in one, without NATS', async () => {
  const { root, left } = await emptyRoot();
  const { signal } = new AbortController();
  await rehearseFetch({ root, name: 'fetcher-0', signal });
  expect(await left()).toEqual([]);
});

test('and what the front end does, with reads that wait for the pack', async () => {
  const { root, left } = await emptyRoot();
  const { signal } = new AbortController();
  await rehearseFront({ root, name: 'front-end', signal }, realPorts().clock);
  expect(await left()).toEqual([]);
});

test('and what the member of a fleet does, as the one that asks and as the home, without NATS', async () => {
  const { root, left } = await emptyRoot();
  const { signal } = new AbortController();
  const identity = await makeIdentity();
  await rehearseMember({ root, name: 'fleet', signal }, { identity, clock: realPorts().clock });
  expect(await left()).toEqual([]);
});

test('real work ends it with the round that runs', async () => {
  const { root, left } = await emptyRoot();
  const work = new AbortController();
  let rounds = 0;
  await rehearse({ root, name: 'test', signal: work.signal }, async () => {
    rounds += 1;
    work.abort();
  });
  expect(rounds).toBe(1);
  expect(await left()).toEqual([]);
});
