/** How an engine reaches a NATS that the operator runs. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { exposure } from '../../src/bus/operators-nats.ts';
import { newNodeUsers } from '../../src/bus/user-files.ts';
import { makeIdentity } from '../../src/process/nats-identity.ts';
import { operatorsNats } from '../../src/supervisor/start/nats.ts';
import { Cleanup } from '../support/temp.ts';

let cleanup: Cleanup;
beforeEach(() => {
  cleanup = new Cleanup();
});
afterEach(() => cleanup.run());

test('the user of the URL is all of the roles, and the URL that is shown has no password', async () => {
  const url = 'nats://ad%40min:pa%3Ass@10.0.0.5:4222';
  const { users, natsProcesses } = await operatorsNats({ url, file: undefined, node: 'n1' });
  const address = { url: 'nats://10.0.0.5:4222', user: 'ad@min', pass: 'pa:ss' };
  expect(users.supervisor).toEqual(address);
  expect(users.packs).toEqual(address);
  expect(natsProcesses()).toEqual([]);
});

test('with a file each role has a user of its own', async () => {
  const file = join(await cleanup.tempDir('users'), 'n1.json');
  const made = newNodeUsers('n1');
  await writeFile(file, JSON.stringify(made), { mode: 0o600 });
  const { users } = await operatorsNats({ url: 'nats://10.0.0.5:4222', file, node: 'n1' });
  expect(users.fetcher).toMatchObject({ user: 'n1-fetcher', pass: made.users.fetcher.password });
  const foreign = operatorsNats({ url: 'nats://10.0.0.5:4222', file, node: 'n2' });
  await expect(foreign).rejects.toMatchObject({ code: 'invalid-argument' });
});

test('an authority that cannot vouch is refused before anything is connected', async () => {
  const ca = join(await cleanup.tempDir('ca'), 'ca.pem');
  const reach = () => operatorsNats({ url: 'tls://nats.example:4222', file: undefined, ca, node: 'n1' });
  await expect(reach()).rejects.toMatchObject({
    code: 'invalid-argument',
    message: expect.stringContaining('ENOENT'),
  });
  await writeFile(ca, 'no certificate');
  await expect(reach()).rejects.toMatchObject({ message: `--nats-ca: ${ca} holds no certificate` });
  const { certificate } = await makeIdentity();
  await writeFile(ca, certificate);
  expect((await reach()).users.fetcher).toEqual({ url: 'tls://nats.example:4222', ca: certificate });
});

test('only in clear, and over a network, others may read passwords', () => {
  expect(exposure('nats://10.0.0.5:4222')).toContain('tls://');
  expect(exposure('nats://localhost.example:4222')).toContain('tls://');
  expect(exposure('nats://127.0.0.1.example:4222')).toContain('tls://');
  for (const url of ['nats://127.0.0.1:4222', 'nats://localhost', 'nats://[::1]:4222', 'tls://10.0.0.5:4222'])
    expect(exposure(url), url).toBeUndefined();
  expect(exposure('nats://10.0.0.5:4222', '/ca.pem')).toBeUndefined();
});
