/** How an engine reaches a NATS that the operator runs. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { checkNats } from '../../src/cli/nats-options.ts';
import { exposure, operatorsAddress } from '../../src/bus/operators-nats.ts';
import { tlsOf } from '../../src/bus/tls.ts';
import { newNodeUsers } from '../../src/bus/user-files.ts';
import { makeIdentity } from '../../src/process/nats-identity.ts';
import { operatorsNats } from '../../src/supervisor/start/nats.ts';
import { Cleanup } from '../support/temp.ts';

/** Of a NATS that no one runs. */
const learn = async <Address>(address: Address): Promise<Address> => address;
let cleanup: Cleanup;
beforeEach(() => {
  cleanup = new Cleanup();
});
afterEach(() => cleanup.run());

test('the user of the URL is all of the roles, and the URL that is shown has no password', async () => {
  const url = 'nats://ad%40min:pa%3Ass@10.0.0.5:4222';
  const { users, natsProcesses } = await operatorsNats({ url, file: undefined, node: 'n1', learn });
  const address = { url: 'nats://10.0.0.5:4222', user: 'ad@min', pass: 'pa:ss' };
  expect(users.supervisor).toEqual(address);
  expect(users.packs).toEqual(address);
  expect(natsProcesses()).toEqual([]);
});

test('with a file each role has a user of its own', async () => {
  const file = join(await cleanup.tempDir('users'), 'n1.json');
  const made = newNodeUsers('n1');
  await writeFile(file, JSON.stringify(made), { mode: 0o600 });
  const { users } = await operatorsNats({ url: 'nats://10.0.0.5:4222', file, node: 'n1', learn });
  expect(users.fetcher).toMatchObject({ user: 'n1-fetcher', pass: made.users.fetcher.password });
  const foreign = operatorsNats({ url: 'nats://10.0.0.5:4222', file, node: 'n2', learn });
  await expect(foreign).rejects.toMatchObject({ code: 'invalid-argument' });
});

test('an authority that cannot vouch is refused before anything is connected', async () => {
  const ca = join(await cleanup.tempDir('ca'), 'ca.pem');
  const reach = () =>
    operatorsNats({ url: 'tls://nats.example:4222', file: undefined, ca, node: 'n1', learn });
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

test('several servers of one cluster have commas between; one of them names the user, and each is shown without', async () => {
  const text = 'nats://me:pa,ss@10.0.0.5:4222,nats://10.0.0.6:4222,nats://me:pa,ss@10.0.0.7';
  checkNats({ nats: text });
  const { users } = await operatorsNats({ url: text, file: undefined, node: 'n1', learn });
  expect(users.fetcher).toEqual({
    url: 'nats://10.0.0.5:4222',
    others: ['nats://10.0.0.6:4222', 'nats://10.0.0.7'],
    user: 'me',
    pass: 'pa,ss',
  });
  await expect(operatorsAddress('nats://a:b@10.0.0.5,nats://c:d@10.0.0.6')).rejects.toThrow('one user');
  expect(() => checkNats({ nats: 'nats://10.0.0.5,nats://[' })).toThrow('"nats://[" is not a URL');
  expect(() => checkNats({ nats: 'nats://h,nats://u:p@h', natsUsers: '/f' })).toThrow('has a user');
  expect(exposure('tls://10.0.0.5,nats://10.0.0.6')).toContain('tls://');
});

test('a server that another one has told has to prove that it is for a host which the operator has named', () => {
  const shown = (host: string) => ({ subject: { CN: host }, subjectaltname: `DNS:${host}` }) as never;
  const tls = tlsOf({
    url: 'tls://one.example:4222',
    others: ['tls://two.example:4222'],
    learned: ['evil.example:4222'],
  });
  for (const host of ['one.example', 'two.example'])
    expect(tls?.checkServerIdentity?.('10.0.0.9', shown(host)), host).toBeUndefined();
  expect(tls?.checkServerIdentity?.('evil.example', shown('evil.example'))).toBeInstanceOf(Error);
});
