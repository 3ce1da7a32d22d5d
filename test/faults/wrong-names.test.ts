/** Calls that cannot work: each gives one clear error with its exit code, and the engine goes on. */
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ERROR_KINDS, type ErrorCode, type ErrorRecord } from '../../schemas/errors.ts';
import { type Engine, errorOf, mountImage, startEngine } from '../support/engine.ts';
import { freePort } from '../support/ports.ts';
import { startRegistry } from '../support/registry-server.ts';
import { Cleanup, mountsBelow } from '../support/temp.ts';
import { prose } from '../images/nasty.ts';
import { type FaultImage, pushImage, readPieces } from './fault-image.ts';

const cleanup = new Cleanup();
let engine: Engine;
let directory = '';
let image: FaultImage;
const refs: Record<string, string> = {};

beforeAll(async () => {
  directory = await cleanup.tempDir('wrong');
  const storage = join(directory, 'storage');
  const open = await startRegistry({ storage });
  cleanup.defer(() => open.stop());
  image = await pushImage(directory, open.host, 'team/app', [{ 'data/file': prose(300_000, 1) }]);
  // The same images behind a password.
  const locked = await startRegistry({ storage, auth: { user: 'ann', password: 'right' } });
  cleanup.defer(() => locked.stop());
  const alsoLocked = await startRegistry({ storage, auth: { user: 'ann', password: 'right' } });
  cleanup.defer(() => alsoLocked.stop());
  const docker = join(directory, 'docker');
  await mkdir(docker);
  const auth = Buffer.from('ann:wrong').toString('base64');
  await writeFile(join(docker, 'config.json'), JSON.stringify({ auths: { [locked.host]: { auth } } }));
  refs.malformed = `${open.host}/UPPER/Case`;
  refs.name = `${open.host}/team/nobody:1`;
  refs.tag = `${open.host}/team/app:nosuch`;
  refs.digest = `${open.host}/team/app@sha256:${'0'.repeat(64)}`;
  refs.password = `${locked.host}/team/app:1`;
  refs.anonymous = `${alsoLocked.host}/team/app:1`;
  refs.down = `127.0.0.1:${await freePort()}/team/app:1`;
  refs.host = 'no-such-host.invalid/team/app:1';
  engine = await startEngine({ workers: 1, env: { DOCKER_CONFIG: docker } });
  cleanup.defer(() => engine.stop());
});
afterAll(() => cleanup.run());

const CASES: Array<[what: string, key: string, code: ErrorCode]> = [
  ['a malformed name', 'malformed', 'invalid-argument'],
  ['a repository that is not there', 'name', 'not-found'],
  ['a tag that is not there', 'tag', 'not-found'],
  ['a digest that is not there', 'digest', 'not-found'],
  ['a wrong password', 'password', 'unauthorized'],
  ['no password where one is wanted', 'anonymous', 'unauthorized'],
  ['a registry that is down', 'down', 'unavailable'],
  ['a host that does not exist', 'host', 'unavailable'],
];

describe('calls that cannot work', () => {
  it.each(CASES)('%s', { timeout: 90_000 }, async (_what, key, code) => {
    const ref = refs[key] as string;
    const dir = join(directory, `mnt-${key}`);
    const calls = [
      ['mount', ref, dir],
      ['index', ref],
      ['inspect', ref],
    ];
    const asJson = await Promise.all(calls.map((args) => engine.cli([...args, '--json'])));
    for (const [i, result] of asJson.entries()) {
      const record = errorOf(result);
      expect([calls[i]?.[0], record.code, result.code]).toEqual([
        calls[i]?.[0],
        code,
        ERROR_KINDS[code].exit,
      ]);
      expect(record.message).not.toBe('');
      expect(result.stderr).toBe('');
    }
    const asText = await engine.cli(['mount', ref, dir]);
    expect(asText.stdout).toBe('');
    expect(asText.stderr).toMatch(/^cofa: [^\n]+\n(?: {2}hint: [^\n]+\n)?$/);
    // What failed is named: the reference, or the registry that it means.
    expect(asText.stderr).toMatch(new RegExp(`${ref.replaceAll('.', '\\.')}|${ref.split('/')[0]}|team/`));
    const run = await engine.cli(['run', '--json', ref, 'true']);
    expect(run.code).toBe(125);
    expect((JSON.parse(run.stderr) as { error: ErrorRecord }).error.code).toBe(code);
    expect(run.stdout).toBe('');
    expect(existsSync(dir)).toBe(false);
  });

  it('and afterwards the engine has nothing of it, and mounts', async () => {
    const status = await engine.status();
    expect(status.mounts).toEqual([]);
    expect(mountsBelow(directory)).toEqual([]);
    const dir = join(directory, 'mnt');
    await mountImage(engine, image.ref, dir);
    const content = image.files.get('data/file') as Buffer;
    expect(new Set(await readPieces(join(dir, 'data/file'), content))).toEqual(new Set(['ok']));
    expect((await engine.cli(['unmount', dir])).code).toBe(0);
  });
});
