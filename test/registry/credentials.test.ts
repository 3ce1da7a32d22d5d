import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { configPath, readCredentials } from '../../src/registry/credentials.ts';

let folder: string;

const base64 = (text: string) => Buffer.from(text).toString('base64');
const config = (content: unknown) =>
  writeFileSync(join(folder, 'config.json'), typeof content === 'string' ? content : JSON.stringify(content));
const ask = (registry: string, helperTimeoutMs = 20_000) =>
  readCredentials(registry, {
    dockerConfig: folder,
    helperTimeoutMs,
    environment: { PATH: `${join(folder, 'bin')}:/usr/bin:/bin`, HOME: folder },
  });

/** A credential helper on PATH: a shell script. It writes what it was asked to the file `asked`. */
function helper(name: string, script: string): void {
  const path = join(folder, 'bin', `docker-credential-${name}`);
  writeFileSync(path, `#!/bin/sh\nkey=$(cat)\necho "$1 $key" >> ${folder}/asked\n${script}\n`);
  chmodSync(path, 0o755);
}
const at = (dockerConfig: string | undefined, environment: Record<string, string>) =>
  configPath({ dockerConfig, environment });
const asked = () => readFileSync(join(folder, 'asked'), 'utf8').trim().split('\n');

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'cofa-credentials-'));
  mkdirSync(join(folder, 'bin'));
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

describe('the file', () => {
  test('no file, no entry: no account', async () => {
    expect(await ask('r.io')).toBeUndefined();
    config({ auths: { 'other.io': { auth: base64('a:b') } } });
    expect(await ask('r.io')).toBeUndefined();
    config({});
    expect(await ask('r.io')).toBeUndefined();
  });

  test('auth is user and password in base64; a password may have colons', async () => {
    config({ auths: { 'r.io:5000': { auth: base64('joe:a:b') } } });
    expect(await ask('r.io:5000')).toMatchObject({ username: 'joe', password: 'a:b' });
    expect(await ask('r.io')).toBeUndefined();
  });

  test.each([
    ['https://index.docker.io/v1/'],
    ['docker.io'],
    ['index.docker.io'],
    ['registry-1.docker.io'],
    ['https://registry-1.docker.io/v2/'],
  ])('docker.io is found under %s', async (key) => {
    config({ auths: { [key]: { username: 'joe', password: 'p' } } });
    expect(await ask('registry-1.docker.io')).toMatchObject({ username: 'joe', password: 'p' });
  });

  test.each(['https://r.io', 'http://r.io/v1/', 'r.io/v2/'])(
    'old keys with scheme and path are found: %s',
    async (key) => {
      config({ auths: { [key]: { auth: base64('joe:p') } } });
      expect(await ask('r.io')).toMatchObject({ username: 'joe' });
      expect(await ask('r.io.evil')).toBeUndefined();
    },
  );

  test('the exact key stands before an old one', async () => {
    config({ auths: { 'https://r.io': { auth: base64('old:p') }, 'r.io': { auth: base64('new:p') } } });
    expect(await ask('r.io')).toMatchObject({ username: 'new' });
  });

  test('an identity token is not a password', async () => {
    config({ auths: { 'r.io': { auth: base64('joe:'), identitytoken: 'i' } } });
    expect(await ask('r.io')).toMatchObject({ username: 'joe', password: '', identityToken: 'i' });
  });

  test('a registry named like a property of every object is not found', async () => {
    config({ auths: {}, credHelpers: {} });
    expect(await ask('constructor')).toBeUndefined();
    expect(await ask('__proto__')).toBeUndefined();
  });

  test.each([
    ['{"auths": {"r.io": {"auth": "s3cr3t'],
    ['[]'],
    ['{"auths":{"r.io":{"auth":"bm9jb2xvbi1zM2NyM3Q="}}}'],
  ])('a broken file is an error that shows no secret: %s', async (text) => {
    config(text);
    const error = await ask('r.io').catch((error: unknown) => error);
    expect(error).toMatchObject({
      code: 'unauthorized',
      message: expect.stringContaining(join(folder, 'config.json')),
    });
    const { message, stack, cause } = error as Error;
    expect([message, stack, String(cause)].join()).not.toMatch(/s3cr3t/);
  });

  test('where it is: the folder given, the file given, $DOCKER_CONFIG, ~/.docker', () => {
    expect(at('/a', { DOCKER_CONFIG: '/b', HOME: '/c' })).toBe('/a/config.json');
    expect(at('/a/my.json', {})).toBe('/a/my.json');
    expect(at(undefined, { DOCKER_CONFIG: '/b', HOME: '/c' })).toBe('/b/config.json');
    expect(at(undefined, { HOME: '/c' })).toBe('/c/.docker/config.json');
  });
});

describe('helpers', () => {
  test('the helper of a registry is asked for it on standard input', async () => {
    config({ credHelpers: { 'r.io': 'mine' }, credsStore: 'all' });
    helper('mine', `echo '{"ServerURL":"r.io","Username":"joe","Secret":"s"}'`);
    expect(await ask('r.io')).toMatchObject({
      username: 'joe',
      password: 's',
      source: 'docker-credential-mine',
    });
    expect(asked()).toEqual(['get r.io']);
  });

  test('the general helper is asked for every other registry, for docker.io by its long name', async () => {
    config({ credHelpers: { 'r.io': 'mine' }, credsStore: 'all' });
    helper('all', `echo '{"Username":"<token>","Secret":"identity"}'`);
    expect(await ask('registry-1.docker.io')).toMatchObject({
      username: '',
      password: '',
      identityToken: 'identity',
    });
    expect(asked()).toEqual(['get https://index.docker.io/v1/']);
  });

  test('a helper that has none lets the file answer', async () => {
    config({ credsStore: 'all', auths: { 'r.io': { auth: base64('joe:p') }, 'x.io': {} } });
    helper('all', `echo 'credentials not found in native keychain'; exit 1`);
    expect(await ask('r.io')).toMatchObject({ username: 'joe' });
    expect(await ask('x.io')).toBeUndefined();
  });

  test.each([
    ['fails', `echo 's3cr3t'; exit 3`, 'exit code 3'],
    ['writes nonsense', 'echo s3cr3t', 'not JSON'],
    ['writes half of it', `echo '{"Username":"s3cr3t"}'`, 'without Username and Secret'],
    ['writes without end', 'yes s3cr3t', 'too much'],
  ])('a helper that %s is an error that names it and shows no secret', async (_, script, why) => {
    config({ credsStore: 'bad' });
    helper('bad', script);
    const error = await ask('r.io').catch((error: unknown) => error);
    expect(error).toMatchObject({ code: 'unauthorized', message: expect.stringContaining(why) });
    expect(String(error)).toContain('docker-credential-bad');
    expect([(error as Error).stack, String((error as Error).cause)].join()).not.toContain('s3cr3t');
  });

  test('a helper that hangs is ended, also when a child of it holds its output', async () => {
    config({ credsStore: 'slow' });
    helper('slow', `sleep 60 & echo $! > ${folder}/child; wait`);
    await expect(ask('r.io', 300)).rejects.toMatchObject({
      code: 'unauthorized',
      message: expect.stringContaining('0.3 s'),
    });
    process.kill(Number(readFileSync(join(folder, 'child'), 'utf8')), 'SIGKILL');
  });

  test('a helper that is not installed is named', async () => {
    config({ credsStore: 'missing' });
    await expect(ask('r.io')).rejects.toMatchObject({
      code: 'unauthorized',
      message: expect.stringContaining('docker-credential-missing is not installed'),
    });
  });

  test('a helper name cannot lead out of PATH', async () => {
    config({ credsStore: '../../bin/true' });
    await expect(ask('r.io')).rejects.toMatchObject({ code: 'unauthorized' });
  });

  test('a helper that does not read its input works', async () => {
    config({ credsStore: 'deaf' });
    const path = join(folder, 'bin', 'docker-credential-deaf');
    writeFileSync(path, `#!/bin/sh\nexec echo '{"Username":"joe","Secret":"s"}'\n`);
    chmodSync(path, 0o755);
    expect(await ask('r.io')).toMatchObject({ username: 'joe' });
  });
});
