import { execFile } from 'node:child_process';
import { utimesSync } from 'node:fs';
import { cp, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import { BUNDLE_NAMES, type BundleName, bundle, writeBundle } from '../../src/cli/bundle.ts';
import { StartError } from '../../src/container/command.ts';
import { version } from '../../src/client/version.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
let folder = '';
beforeAll(async () => {
  folder = await cleanup.tempDir('bundle');
  for (const name of BUNDLE_NAMES) await writeBundle(name, folder);
});
afterAll(() => cleanup.run());

interface Ended {
  code: number;
  out: string;
  err: string;
}

const CHECKOUT = fileURLToPath(new URL('../..', import.meta.url));
const MAIN = join(CHECKOUT, 'src/cli/main.ts');

/** Runs a bundle with the arguments of `cofa`, as ops/cofa does. */
async function run(name: BundleName, ...args: string[]): Promise<Ended> {
  return await runOf(MAIN, join(folder, name), ...args);
}

async function runOf(main: string, file: string, ...args: string[]): Promise<Ended> {
  try {
    const { stdout, stderr } = await promisify(execFile)(process.execPath, ['--', file, main, ...args]);
    return { code: 0, out: stdout, err: stderr };
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
    return { code, out: stdout, err: stderr };
  }
}

it.each(BUNDLE_NAMES)('%s starts a container, and says what is wrong as cofa does', async (name) => {
  const ended = await run(name, '--root', join(folder, 'none'), 'run', 'debian:12', 'true');
  expect(ended.code).toBe(125);
  expect(ended.err).toContain('no engine runs with its state in');
  expect(ended.err).toContain('hint: start it: cofa up --root');
});

it.each(BUNDLE_NAMES)('%s knows every command, help and guesses', async (name) => {
  expect(await run(name, '--version')).toMatchObject({ code: 0, out: `${version()}\n` });
  const help = await run(name, 'run', '--help');
  expect(help).toMatchObject({ code: 0, err: '' });
  expect(help.out).toMatch(/^Usage: cofa run /);
  expect((await run(name, 'run', '--bogus')).err).toContain("unknown option '--bogus'");
  expect((await run(name, 'statsu')).err).toContain('did you mean status?');
  const status = await run(name, '--root', join(folder, 'none'), 'status');
  expect(status).toMatchObject({ code: 9 });
});

it('holds the modules of a start, and no package', async () => {
  const text = await readFile(join(folder, 'run.cjs'), 'utf8');
  expect(text.includes('Runc=class')).toBe(true);
  // commander, the foreign function interface and NATS are loaded where a start needs them.
  expect(/require\("(?!node:)/.exec(text)?.[0]).toBeUndefined();
});

/** A copy of this checkout in which a bundle is made, and which can be edited. */
async function copyOfCheckout(): Promise<string> {
  const copy = await cleanup.tempDir('checkout');
  for (const name of ['src', 'schemas', 'actors', 'package.json'])
    await cp(join(CHECKOUT, name), join(copy, name), { recursive: true });
  await symlink(join(CHECKOUT, 'node_modules'), join(copy, 'node_modules'));
  return copy;
}

it('an edited checkout never runs what was bundled before', async () => {
  const copy = await copyOfCheckout();
  const main = join(copy, 'src/cli/main.ts');
  const script = `import { writeBundle } from ${JSON.stringify(join(copy, 'src/cli/bundle.ts'))};
    await writeBundle('cofa.cjs', ${JSON.stringify(copy)});`;
  await promisify(execFile)(process.execPath, ['--input-type=module', '-e', script]);
  const file = join(copy, 'cofa.cjs');
  await writeFile(
    file,
    (await readFile(file, 'utf8')).replace('module.exports.main', "console.log('bundled');\n$&"),
  );
  expect((await runOf(main, file, '--version')).out).toBe(`bundled\n${version()}\n`);
  // A module that `--version` does not even load.
  const edited = join(copy, 'src/cli/replay.ts');
  const now = new Date();
  utimesSync(edited, now, now);
  expect(await runOf(main, file, '--version')).toEqual({ code: 0, out: `${version()}\n`, err: '' });
});

it('does not run in the place of another checkout that has a copy of it', async () => {
  const main = join(folder, 'main.ts');
  await writeFile(main, "console.log('the other one:', ...process.argv.slice(1));\n");
  const ended = await runOf(main, join(folder, 'run.cjs'), 'run', 'debian:12');
  expect(ended).toEqual({ code: 0, out: `the other one: ${main} run debian:12\n`, err: '' });
});

it('names the files that it was made of, and what npm installed', async () => {
  const text = await bundle('run.cjs');
  for (const file of ['src/cli/program.ts', 'schemas/errors.ts', 'node_modules/.package-lock.json'])
    expect(text.includes(`["${join(CHECKOUT, file)}",`)).toBe(true);
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
