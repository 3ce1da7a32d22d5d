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
    expect(await readKeys(join(folder, 'none'))).toEqual({ keys: [], problems: [] });
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
      'README is not looked at: keys are NAME.pub, their scopes NAME.scope',
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
