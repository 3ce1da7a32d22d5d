import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { runCofa } from '../support/engine.ts';
import { listProcesses } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

test('a password of NATS stands on no command line, also where the engine starts in the background', async () => {
  // It takes connections and says nothing: the engine waits for it.
  const silent = createServer(() => {});
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  cleanup.defer(() => silent.close());
  const { port } = silent.address() as AddressInfo;
  const root = await cleanup.tempDir('password');
  const env = { COFA_NATS: `nats://me:the-password@127.0.0.1:${port}` };
  const up = runCofa(['up', '--root', root, '--no-snapshotter'], { env });
  const lines = () => listProcesses().map(({ commandLine }) => commandLine);
  await expect
    .poll(() => lines().some((line) => line.includes(`--root ${root}`) && line.includes('--foreground')), {
      timeout: 10_000,
    })
    .toBe(true);
  expect(lines().filter((line) => line.includes('the-password'))).toEqual([]);
  const { code, stderr } = await up;
  expect(code).not.toBe(0);
  expect(stderr).toContain(`NATS at nats://127.0.0.1:${port} cannot be used`);
  expect(stderr).not.toContain('the-password');
});
