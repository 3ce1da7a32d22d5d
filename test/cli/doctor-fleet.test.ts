/** What `cofa doctor` says where a member of a fleet does not answer. Needs no root. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { checkFleet } from '../../src/cli/doctor-fleet.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

test('a member that does not answer: the log to look into is named by its path', async () => {
  const root = await cleanup.tempDir('doctor-fleet');
  await mkdir(join(root, 'run'));
  await writeFile(join(root, 'run/fleet.sock'), '');
  const [check] = await checkFleet(root);
  expect(check).toMatchObject({ state: 'warn', fix: `look into ${root}/log/fleet.log` });
});
