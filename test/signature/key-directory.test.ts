import { execFileSync } from 'node:child_process';
import { chmod, mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readKeys } from '../../src/signature/key-directory.ts';
import { Cleanup } from '../support/temp.ts';
import { pair } from './support.ts';

const [one, two] = [pair('one'), pair('two')];
let cleanup: Cleanup;
let folder: string;
beforeEach(async () => {
  cleanup = new Cleanup();
  folder = await cleanup.tempDir('keys');
});
afterEach(() => cleanup.run());

const write = (file: string, text: string) => writeFile(join(folder, file), text);
const read = async () => {
  const { keys, problems } = await readKeys(folder);
  return { names: keys.map(({ name }) => name), keys, problems: problems.map(({ message }) => message) };
};

describe('the folder of keys', () => {
  it('that is not there has no keys and no fault; one that cannot be read says so', async () => {
    expect(await readKeys(join(folder, 'none'))).toEqual({ keys: [], identities: [], problems: [] });
    await write('file', '');
    const { keys, problems } = await readKeys(join(folder, 'file'));
    expect(keys).toEqual([]);
    expect(problems[0]?.message).toMatch(/^no key counts: .*cannot be read: ENOTDIR/);
  });

  it('counts each key from the moment its file is there, and no longer', async () => {
    await write('one.pub', one.publicPem);
    expect((await read()).names).toEqual(['one']);
    await write('two.pub', two.publicPem);
    expect((await read()).names).toEqual(['one', 'two']);
    await write('one.pub', two.publicPem);
    expect((await read()).keys[0]?.fingerprint).toBe(two.trusted.fingerprint);
    await rm(join(folder, 'one.pub'));
    expect(await read()).toMatchObject({ names: ['two'], problems: [] });
  });

  it('names what is broken, and the other keys count', async () => {
    await write('good.pub', one.publicPem);
    await write('private.pub', two.privatePem);
    await write('text.pub', 'hello');
    await write('huge.pub', ' '.repeat(20_000));
    await write('open.pub', two.publicPem);
    await chmod(join(folder, 'open.pub'), 0o666);
    await write('scoped.pub', two.publicPem);
    await write('scoped.scope', 'https://registry.example\n');
    await write('README', 'what is this?');
    await symlink('nowhere', join(folder, 'lost.pub'));
    await mkdir(join(folder, 'folder.pub'));
    execFileSync('mkfifo', [join(folder, 'pipe.pub')]);
    await write('.hidden.pub', 'ignored');
    const { names, problems } = await read();
    expect(names).toEqual(['good']);
    const said = problems.map((message) => message.replaceAll(`${folder}/`, '')).sort();
    expect(said).toEqual([
      'README is not looked at: keys are NAME.pub, identities NAME.identity, scopes NAME.scope',
      "a key does not count: ENOENT: no such file or directory, open 'lost.pub'",
      'a key does not count: every user may write open.pub',
      'a key does not count: folder.pub is not a file',
      'a key does not count: huge.pub has more than 16384 bytes',
      'a key does not count: pipe.pub is not a file',
      'a key does not count: private.pub holds a private key, which belongs to who signs alone',
      'a key does not count: scoped.scope, line 1: no HOST or HOST/REPOSITORY',
      'a key does not count: text.pub has to be one PEM public key; it has: no PEM block',
    ]);
  });

  it('has an end', async () => {
    for (let i = 0; i < 70; i++) await write(`k${i}.pub`, one.publicPem);
    const { names, problems } = await read();
    expect(names.length).toBe(64);
    expect(problems).toEqual([expect.stringMatching(/only the first 64 keys do/)]);
  });

  it('of a ConfigMap follows its exchange; a key never gets the scope of another version', async () => {
    const version = async (name: string, files: Record<string, string>) => {
      await mkdir(join(folder, name));
      for (const [file, text] of Object.entries(files)) await write(`${name}/${file}`, text);
      await symlink(name, join(folder, '..data_tmp'));
      await rename(join(folder, '..data_tmp'), join(folder, '..data'));
    };
    await version('..1', { 'k.pub': one.publicPem, 'k.scope': 'registry.example/one' });
    for (const file of ['k.pub', 'k.scope']) await symlink(`..data/${file}`, join(folder, file));
    expect((await read()).keys[0]).toMatchObject({ name: 'k', scope: ['registry.example/one'] });
    const scopes = {
      [one.trusted.fingerprint]: 'registry.example/one',
      [two.trusted.fingerprint]: 'registry.example/two',
    };
    const exchange = async () => {
      for (let i = 2; i < 60; i++) {
        const isOdd = i % 2 === 1;
        const scope = `registry.example/${isOdd ? 'one' : 'two'}`;
        await version(`..${i}`, { 'k.pub': (isOdd ? one : two).publicPem, 'k.scope': scope });
      }
    };
    const exchanged = exchange();
    let isOver = false;
    void exchanged.then(() => {
      isOver = true;
    });
    const looks = async () => {
      for (; !isOver; )
        for (const { fingerprint, scope } of (await read()).keys)
          expect(scope).toEqual([scopes[fingerprint]]);
    };
    await looks();
    await exchanged;
    await rm(join(folder, '..data'));
    expect((await read()).names).toEqual([]);
  });
});

describe('the identities in it', () => {
  const rule = { issuer: 'https://issuer.example', subjectPattern: '.*@team\\.example' };
  const root = JSON.stringify({
    mediaType: 'application/vnd.dev.sigstore.trustedroot+json;version=0.1',
    certificateAuthorities: [{ certChain: { certificates: [{ rawBytes: 'AAAA' }] } }],
  });

  it('count with their trust root, each with its scope, beside keys', async () => {
    await write('one.pub', one.publicPem);
    await write('ci.identity', JSON.stringify(rule));
    await write('trusted_root.json', root);
    await write('own.identity', JSON.stringify({ ...rule, root: 'own.json' }));
    await write('own.scope', 'registry.example/team');
    await write('own.json', root);
    const { keys, identities, problems } = await readKeys(folder);
    expect(problems).toEqual([]);
    expect([...keys, ...identities].map(({ name, scope }) => [name, scope])).toEqual([
      ['one', undefined],
      ['ci', undefined],
      ['own', ['registry.example/team']],
    ]);
    expect(identities[0]?.subject.matches('dev@team.example')).toBe(true);
    expect(identities[0]?.subject.matches('dev@team.example.evil')).toBe(false);
  });

  it('that are broken, have no trust root, or the name of a key are named, and the others count', async () => {
    await write('trusted_root.json', root);
    await write('good.identity', JSON.stringify(rule));
    await write('loose.identity', JSON.stringify({ ...rule, subjectPattern: '(' }));
    await write('lost.identity', JSON.stringify({ ...rule, root: 'lost.json' }));
    await write('odd.identity', JSON.stringify({ ...rule, root: 'odd.json' }));
    await write('odd.json', '{"mediaType":"image"}');
    await write('one.pub', one.publicPem);
    await write('one.identity', JSON.stringify(rule));
    await write('stray.json', root);
    const { identities, problems } = await readKeys(folder);
    expect(identities.map(({ name }) => name)).toEqual(['good']);
    expect(problems.map(({ path }) => path.slice(folder.length + 1))).toEqual([
      'loose.identity',
      'lost.identity',
      'odd.identity',
      'one.identity',
      'stray.json',
    ]);
  });
});
