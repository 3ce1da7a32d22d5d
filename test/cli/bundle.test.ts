import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import { BUNDLE, bundle, writeBundle } from '../../src/cli/bundle.ts';
import { StartError } from '../../src/container/command.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
let folder = '';
beforeAll(async () => {
  folder = await cleanup.tempDir('bundle');
});
afterAll(() => cleanup.run());

interface Ended {
  code: number;
  out: string;
  err: string;
}

const MAIN = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));

/** Runs the file with the arguments of `cofa`, as ops/cofa does. */
async function run(file: string, ...args: string[]): Promise<Ended> {
  return await runOf(MAIN, file, ...args);
}

async function runOf(main: string, file: string, ...args: string[]): Promise<Ended> {
  try {
    const { stdout, stderr } = await promisify(execFile)(process.execPath, [file, main, ...args]);
    return { code: 0, out: stdout, err: stderr };
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
    return { code, out: stdout, err: stderr };
  }
}

it('holds all that a container needs, and says what is wrong as cofa does', async () => {
  writeBundle(folder);
  const file = join(folder, BUNDLE);
  const ended = await run(file, '--root', join(folder, 'none'), 'run', 'debian:12', 'true');
  expect(ended.code).toBe(125);
  expect(ended.err).toContain('no engine runs with its state in');
  expect(ended.err).toContain('hint: start it: cofa up --root');
  const text = await readFile(file, 'utf8');
  // commander and the foreign function interface are what it is there to avoid.
  expect(text).not.toMatch(/require\('(?!node:)/);
});

it('leaves to the whole program what is not plain', async () => {
  writeBundle(folder);
  const file = join(folder, BUNDLE);
  const help = await run(file, 'run', '--help');
  expect(help).toMatchObject({ code: 0, err: '' });
  expect(help.out).toMatch(/^Usage: cofa run /);
  const wrong = await run(file, 'run', '--bogus');
  expect(wrong).toMatchObject({ code: 125 });
  expect(wrong.err).toContain("unknown option '--bogus'");
  expect(await run(file, '--version')).toMatchObject({ code: 0, out: '0.1.0\n' });
});

it('is not used any more once one of its files has changed', async () => {
  const marked = bundle().replace('const m0 = ', "console.log('what was bundled runs');\nconst m0 = ");
  const args = ['--root', join(folder, 'none'), 'run', 'debian:12'];
  const fresh = join(folder, 'fresh.cjs');
  await writeFile(fresh, marked);
  expect((await run(fresh, ...args)).out).toBe('what was bundled runs\n');
  const stale = join(folder, 'stale.cjs');
  await writeFile(
    stale,
    marked.replace(/(plain-run\.ts",)(\d+)/, (_, path: string, time: string) => `${path}${Number(time) - 1}`),
  );
  const ended = await run(stale, ...args);
  expect(ended).toMatchObject({ code: 125, out: '' });
  expect(ended.err).toContain('no engine runs');
});

it('does not run in the place of another checkout that has a copy of it', async () => {
  writeBundle(folder);
  const main = join(folder, 'main.ts');
  await writeFile(main, "console.log('the other one:', ...process.argv.slice(1));\n");
  const ended = await runOf(main, join(folder, BUNDLE), 'run', 'debian:12');
  expect(ended).toEqual({ code: 0, out: `the other one: ${main} run debian:12\n`, err: '' });
});

it('says of a module that it does not understand where that is', async () => {
  const file = join(folder, 'strange.ts');
  await writeFile(file, "import all from 'node:fs';\nexport const x = all;\n");
  expect(() => bundle(file)).toThrow(/strange\.ts: not understood: import all/);
});

it('an error of another copy of the code is known as one', async () => {
  const copy = (await import(`${new URL('../../schemas/errors.ts', import.meta.url).href}?copy`)) as {
    CofaError: typeof CofaError;
  };
  expect(copy.CofaError).not.toBe(CofaError);
  const error = new copy.CofaError('busy', 'x');
  expect(error instanceof CofaError).toBe(true);
  expect(error instanceof StartError).toBe(false);
  expect(new StartError(125, 'x') instanceof StartError).toBe(true);
  expect(new Error('x') instanceof CofaError).toBe(false);
});
