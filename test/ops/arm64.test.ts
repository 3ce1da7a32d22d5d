/**
 * The release for arm64, where there is no such machine: each program in the Debian package is one of arm64, and Node,
 * libraries and all index an image below qemu as they do on this machine. Nothing is mounted: qemu leaves system calls to
 * this machine's kernel.
 */
import { execFile } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readdirSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { unpackedDebs } from '../../ops/images/debs.ts';
import { RELEASE } from '../../ops/images/apt.ts';
import { DEPENDS } from '../../ops/packages/deb.ts';
import { buildRelease } from '../../ops/release.ts';
import { version } from '../../src/client/version.ts';
import { pushImage, twoLayers } from '../faults/fault-image.ts';
import { runCofa } from '../support/engine.ts';
import { startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';

const run = promisify(execFile);
const cleanup = new Cleanup();
afterAll(() => cleanup.run());

let directory = '';
/** Where the package's files are. */
let root = '';

beforeAll(async () => {
  directory = await cleanup.tempDir('arm64');
  const out = join(directory, 'out');
  const [deb = ''] = await buildRelease({ out, arch: 'arm64', kinds: ['deb'], onProgress: console.log });
  root = join(directory, 'root');
  mkdirSync(root);
  await run('dpkg-deb', ['--extract', deb, root]);
}, 300_000);

/** ELF's e_machine; undefined for other files. Source: elf.h. */
function machineOf(path: string): number | undefined {
  const head = Buffer.alloc(20);
  const file = openSync(path, 'r');
  try {
    if (readSync(file, head, 0, 20, 0) < 20 || head.toString('latin1', 0, 4) !== '\x7fELF') return undefined;
    return head.readUInt16LE(18);
  } finally {
    closeSync(file);
  }
}
const EM_AARCH64 = 183;

test('every program and library in it is of that processor', () => {
  const files = readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
  const programs = files.map((path) => ({ path, machine: machineOf(path) }));
  const native = programs.filter(({ machine }) => machine !== undefined);
  expect(native.length).toBeGreaterThan(4);
  expect(native.filter(({ machine }) => machine !== EM_AARCH64)).toEqual([]);
});

test('it makes the same sidecar of an image, to the byte', async () => {
  const onProgress = console.log;
  const qemu = await unpackedDebs({ release: RELEASE, packages: ['qemu-user-static'] }, { onProgress });
  const packages = [...DEPENDS.map((one) => one.split(/ [|(]/)[0] as string), 'libgcc-s1'].filter((name) =>
    /^(lib|zlib)/.test(name),
  );
  const libraries = await unpackedDebs({ release: RELEASE, packages, architecture: 'arm64' }, { onProgress });
  const program = join(root, 'usr/lib/cofa');
  const args = ['-L', libraries.root, join(program, 'node_modules/node/bin/node')];
  const cofa = async (...words: string[]) =>
    (
      await run(
        join(qemu.root, 'usr/bin/qemu-aarch64-static'),
        [...args, join(program, 'src/cli/main.js'), ...words],
        { timeout: 400_000, env: { ...process.env, COFA_CONFIG: '/dev/null' } },
      )
    ).stdout;
  expect(await cofa('--version')).toBe(`${version()}\n`);

  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const image = await pushImage(directory, registry.host, 'app', twoLayers(8400));
  const platform = ['--platform', process.arch === 'x64' ? 'linux/amd64' : 'linux/arm64'];
  const pushed = JSON.parse(await cofa('index', '--json', ...platform, image.ref)) as { sidecar: string };
  const again = await runCofa(['index', '--json', '--force', ...platform, image.ref]);
  expect(JSON.parse(again.stdout)).toMatchObject({ sidecar: pushed.sidecar });
}, 560_000);
