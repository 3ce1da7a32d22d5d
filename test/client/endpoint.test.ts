/** What a caller learns where it cannot read how the engine is reached. */
import { execFile } from 'node:child_process';
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, expect, test } from 'vitest';
import { readEndpoint } from '../../src/client/endpoint.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

const ANOTHER_USER = 65_534;

test('where no engine runs, the error says how one is started', async () => {
  const root = await cleanup.tempDir('endpoint');
  await expect(readEndpoint(root)).rejects.toMatchObject({
    code: 'not-running',
    hint: `start it: cofa up --root ${root}`,
  });
});

test.runIf(process.getuid?.() === 0)('a user who may not look is not told that no engine runs', async () => {
  const root = await cleanup.tempDir('endpoint');
  await chmod(root, 0o755);
  await mkdir(join(root, 'run'), { mode: 0o700 });
  await writeFile(join(root, 'run/endpoint.json'), '{}', { mode: 0o600 });
  // The module is read as root: the checkout may be closed to others as well.
  const script = `const { readEndpoint } = await import(${JSON.stringify(new URL('../../src/client/endpoint.ts', import.meta.url).href)});
    process.seteuid(${ANOTHER_USER});
    const { code, message, hint } = await readEndpoint(${JSON.stringify(root)}).catch((error) => error);
    console.log(JSON.stringify({ code, message, hint }));`;
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', script]);
  expect(JSON.parse(stdout)).toEqual({
    code: 'forbidden',
    message: `the engine with its state in ${root} answers root alone`,
    hint: 'call cofa as root (sudo)',
  });
});
