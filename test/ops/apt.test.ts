/** Where packages of a Debian release come from, on machines of several kinds; none of their files is changed. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { type AptMachine, ownRelease, sourcesOf } from '../../ops/images/apt.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

/** A machine with these files below /etc/apt, and with Debian's keys where `keyring` says so. */
async function machine(osRelease: string, files: Record<string, string>, keyring = false) {
  const folder = await cleanup.tempDir('apt');
  const etc = join(folder, 'apt');
  mkdirSync(join(etc, 'sources.list.d'), { recursive: true });
  for (const [name, text] of Object.entries(files)) writeFileSync(join(etc, name), text);
  const paths = { etc, osRelease: join(folder, 'os-release'), keyring: join(folder, 'keys.gpg') };
  writeFileSync(paths.osRelease, osRelease);
  if (keyring) writeFileSync(paths.keyring, '');
  return paths satisfies AptMachine;
}

const DEBIAN_13 = 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nVERSION_CODENAME=trixie\nID=debian\n';
const UBUNTU = 'ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n';

test('a machine’s sources of the release are taken as they are, and no others', async () => {
  const here = await machine('ID=debian\nVERSION_CODENAME=bookworm\n', {
    'sources.list':
      'deb [signed-by=/k] http://mirror/debian bookworm main # ours\ndeb-src http://mirror/debian bookworm main\n' +
      'deb http://other/x stable main\n',
    'sources.list.d/a.sources':
      '# says bookworm\nTypes: deb deb-src\nURIs: http://mirror/security\nSuites: bookworm-security sid\nSigned-By: /k\n',
    'sources.list.d/off.sources': 'Types: deb\nURIs: http://off\nSuites: bookworm\nEnabled: no\n',
  });
  expect(sourcesOf('bookworm', here)).toEqual({
    list: 'deb [signed-by=/k] http://mirror/debian bookworm main\n',
    sources: 'Types: deb\nURIs: http://mirror/security\nSuites: bookworm-security\nSigned-By: /k\n',
  });
});

test('on Debian 13 its own mirrors and keys serve, under the name of Debian 12', async () => {
  const here = await machine(DEBIAN_13, {
    'sources.list': 'deb [arch=amd64] http://trixie.mirror/debian trixie main\n',
    'sources.list.d/debian.sources':
      'Types: deb\nURIs: http://mirror/trixie\nSuites: trixie trixie-updates\nSigned-By: /keys/trixie.gpg\n',
    'sources.list.d/backports.sources': 'Types: deb\nURIs: http://mirror\nSuites: bookworm-updates\n',
  });
  expect(ownRelease(here.osRelease)).toBe('trixie');
  expect(sourcesOf('bookworm', here)).toEqual({
    list: 'deb [arch=amd64] http://trixie.mirror/debian bookworm main\n',
    sources:
      'Types: deb\nURIs: http://mirror/trixie\nSuites: bookworm bookworm-updates\nSigned-By: /keys/trixie.gpg\n',
  });
});

test('on Ubuntu it is Debian’s mirror, checked with Debian’s keys; without them nothing is fetched', async () => {
  const files = { 'sources.list.d/ubuntu.sources': 'Types: deb\nURIs: http://u\nSuites: noble\n' };
  const { sources, list } = sourcesOf('bookworm', await machine(UBUNTU, files, true));
  expect(list).toBe('');
  expect(sources).toMatch(/Suites: bookworm bookworm-updates\n.*\nSigned-By: \/.*keys\.gpg\n/);
  expect(sources.match(/Signed-By/g)).toHaveLength(2);
  expect(sources).not.toContain('noble');
  const without = await machine(UBUNTU, files);
  expect(() => sourcesOf('bookworm', without)).toThrow(/The package debian-archive-keyring brings it$/);
});

test('packages of Ubuntu come from its mirror on a Debian, checked with Ubuntu’s keys; on Ubuntu from its own', async () => {
  const debian = { 'sources.list': 'deb http://mirror/debian trixie main\n' };
  expect(sourcesOf('noble', await machine(DEBIAN_13, debian, true))).toMatchObject({
    list: '',
    sources: expect.stringMatching(
      /^Types: deb\nURIs: \S*ubuntu\S*\nSuites: noble noble-updates noble-security\nComponents: main universe\nSigned-By: \/.*keys\.gpg\n$/,
    ),
  });
  const without = await machine(DEBIAN_13, debian);
  expect(() => sourcesOf('noble', without)).toThrow(
    /^packages of Ubuntu noble .* The package ubuntu-keyring /,
  );
  const own = 'Types: deb\nURIs: http://u\nSuites: noble noble-updates\nComponents: main universe\n';
  expect(sourcesOf('noble', await machine(UBUNTU, { 'sources.list.d/ubuntu.sources': own }))).toEqual({
    list: '',
    sources: own,
  });
});
