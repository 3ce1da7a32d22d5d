/** Users with limited rights on a NATS of the operator's, as `cofa nats-config --api-users` makes them. A real nats-server. */
import { chmod, readFile, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { NatsConnection } from '@nats-io/nats-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { subjects } from '../../schemas/subjects.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { readRights } from '../../src/bus/rights-file.ts';
import type { BusUsers } from '../../src/bus/roles.ts';
import { apiUsersOn, readNodeUsers, usersOn } from '../../src/bus/user-files.ts';
import { operatorsNats } from '../../src/supervisor/start/nats.ts';
import { runCofa } from '../support/engine.ts';
import { startNats } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());
let folder: string;
let rightsFile: string;
let url: string;
const fileOf = (node: string) => join(folder, 'nats', `${node}.json`);
const rights = (users: object) => writeFile(rightsFile, JSON.stringify({ v: 1, users }), { mode: 0o600 });
const config = (...args: string[]) =>
  runCofa(['nats-config', '--json', '--dir', join(folder, 'nats'), ...args]);
const ci = { operations: ['mount', 'events'], dirs: ['/mnt/ci'], images: ['*'] };

beforeAll(async () => {
  folder = await cleanup.tempDir('api-users');
  rightsFile = join(folder, 'rights.json');
  await rights({ ci, gone: { operations: ['status'] } });
  expect((await config('--api-users', rightsFile, 'n1')).code).toBe(0);
  const before = await readFile(fileOf('n1'), 'utf8');
  await rights({ ci, other: { operations: ['status'] } });
  expect((await config('--api-users', rightsFile, 'n2')).code).toBe(0);
  // The password stays; the user that the rights do not name any more has none.
  const [then, now] = [JSON.parse(before), JSON.parse(await readFile(fileOf('n1'), 'utf8'))] as Array<{
    apiUsers: Record<string, unknown>;
  }>;
  expect(now?.apiUsers.ci).toEqual(then?.apiUsers.ci);
  expect(Object.keys(now?.apiUsers ?? {})).toEqual(['ci', 'other']);
  const beside = `../${basename(folder)}/nats/cofa-accounts.conf`;
  const server = await startNats({ config: `include "${beside}"\n` });
  cleanup.defer(() => server.stop());
  ({ url } = server);
});

const open = async (address: BusUsers['api']): Promise<NatsConnection> => {
  const bus = await connectBus(address, { name: 'test', reconnect: false });
  cleanup.defer(() => bus.close());
  return bus;
};

test('a user calls its own node on its own subjects, and has the answer', async () => {
  const known = await readNodeUsers(fileOf('n1'));
  const [one, two] = [subjects('n1'), subjects('n2')];
  const supervisor = await open(usersOn({ url }, 'n1', known).supervisor);
  supervisor.subscribe(one.allUserCalls, { callback: (_, message) => void message.respond(message.subject) });
  await supervisor.flush();
  const bus = await open(apiUsersOn({ url }, known, ['ci']).ci as BusUsers['api']);
  const subject = one.userApi('ci', 'mount');
  expect((await bus.request(subject, '{}', { timeout: 60_000 })).string()).toBe(subject);
  for (const wrong of [
    one.userApi('other', 'status'),
    one.userApi('ci', 'status'),
    one.api('mount'),
    two.userApi('ci', 'mount'),
  ])
    await expect(bus.request(wrong, '{}', { timeout: 300 }), wrong).rejects.toThrow();
});

test('the node takes the users that its file has, and no rights where NATS has one user for all', async () => {
  const given = { url, file: fileOf('n1'), node: 'n1', rights: await readRights(rightsFile) };
  expect(Object.keys((await operatorsNats(given)).limited.addresses)).toEqual(['ci', 'other']);
  await expect(operatorsNats({ ...given, file: undefined })).rejects.toMatchObject({
    code: 'invalid-argument',
    message: '--api-users takes a NATS that tells users apart',
  });
  await rights({ ci, newcomer: { operations: ['status'] } });
  const late = operatorsNats({ ...given, rights: await readRights(rightsFile) });
  await expect(late).rejects.toMatchObject({ message: 'NATS has no user for newcomer' });
});

test('without their rights the accounts are not written again', async () => {
  const { code, stdout } = await config('n3');
  expect(code).toBe(2);
  expect(stdout).toContain('these nodes have users with limited rights');
});

test('a file of rights that others may change, or that says what there is not, is refused', async () => {
  await rights({ ci: { operations: ['mount'], folders: ['/mnt'] } });
  await expect(readRights(rightsFile)).rejects.toMatchObject({ message: expect.stringContaining('folders') });
  await rights({ ci });
  await chmod(rightsFile, 0o666);
  await expect(readRights(rightsFile)).rejects.toMatchObject({ hint: `chmod go-w ${rightsFile}` });
});
