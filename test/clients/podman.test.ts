/**
 * podman of Debian on cofa's additional image store: what people do with it on a lazy image, through kills, a restart, and a
 * reboot as podman sees one. The judges are podman's own pull of the same image, and umoci.
 */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { runFolder } from '../../src/supervisor/podman/files.ts';
import { type Engine, eventually, imageOf, startEngine } from '../support/engine.ts';
import { noPodman, type Podman, startPodman } from '../support/podman.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { runCommand } from '../support/services.ts';
import { Cleanup, mountsBelow } from '../support/temp.ts';
import { assertSameTree, readTree } from '../support/tree.ts';
import { unpackWithUmoci } from '../support/unpack.ts';
import {
  bigOfFiveLayers,
  type FiveLayers,
  makeBase,
  makeClientImage,
  push,
  pushFiveLayers,
} from './images.ts';

if (noPodman !== undefined) console.log(`podman.test.ts is skipped: ${noPodman}`);

let cleanup: Cleanup;
let work: string;
/** Folder of what all images stand on. */
let base: string;
let registry: RegistryServer;
let engine: Engine;
let podman: Podman;
let lazy: FiveLayers;
let sibling: { ref: string; blobs: string[] };

const store = () => join(engine.root, 'podman');
const run = () => dirname(runFolder(engine.root));
const add = async (ref: string, ...options: string[]) => {
  const done = await engine.cli([
    'podman',
    'add',
    '--json',
    '--storage-conf',
    podman.storageConf,
    ...options,
    ref,
  ]);
  if (done.code !== 0) throw new Error(`${done.stdout}${done.stderr}`);
};
const remove = (ref: string) => engine.cli(['podman', 'rm', '--storage-conf', podman.storageConf, ref]);
const layersOf = (folder: string) =>
  JSON.parse(readFileSync(join(folder, 'overlay-layers/layers.json'), 'utf8')) as Array<
    Record<string, unknown>
  >;
/** The configuration of an image that runs a line of shell. */
const saying = (line: string) => ({ Env: ['PATH=/bin'], Cmd: ['/bin/sh', '-c', line] });
/** `podman run --rm` with users of its own. */
const runMapped = (ref: string, ...command: string[]) => {
  const map = ['--uidmap', '0:100000:65536', '--gidmap', '0:100000:65536'];
  return podman.podman(['run', '--rm', ...podman.container, ...map, ref, ...command]);
};
/** Blobs of layers that clients have fetched as a whole since the test began. */
const fetchedSince = (before: number, blobs: readonly string[]) =>
  registry
    .requests()
    .slice(before)
    .filter(
      ({ method, path, status }) =>
        method === 'GET' && status === 200 && blobs.some((one) => path.endsWith(one)),
    )
    .map(({ path }) => path.slice(path.indexOf('sha256:')));

/** Kills every process of the engine, and starts another one on the same root. */
async function killAndStart(): Promise<void> {
  const pids = Object.values(await engine.pids());
  for (const pid of pids) process.kill(pid, 'SIGKILL');
  await engine.ended;
  await start();
}

async function start(): Promise<void> {
  const { root } = engine ?? { root: await cleanup.tempDir('engine-root') };
  engine = await startEngine({ workers: 1, root, args: ['--no-snapshotter'] });
  cleanup.defer(() => engine.stop());
}

describe.skipIf(noPodman !== undefined)('podman with images of cofa', () => {
  beforeAll(async () => {
    cleanup = new Cleanup();
    work = await cleanup.tempDir('podman');
    registry = await startRegistry();
    cleanup.defer(() => registry.stop());
    await start();
    base = await makeBase(work);
    lazy = await pushFiveLayers(work, base, registry.host);
    // The base in common, and nothing else.
    const other = await makeClientImage(work, base, 'sibling', { big: 2, said: 'I am its sibling' });
    sibling = { ref: await push(other, registry.host, 'sibling'), blobs: other.blobs };
    podman = await startPodman(cleanup, work, async (file) => {
      const done = await engine.cli(['install', 'podman', '--no-unit', '--storage-conf', file]);
      if (done.code !== 0) throw new Error(done.stderr);
    });
  }, 300_000);
  afterAll(() => cleanup.run());

  test('cofa install podman makes the store known, and podman works with an empty one', async () => {
    const info = JSON.parse(await podman.podman(['info', '--format', 'json'])) as {
      store: { graphOptions: Record<string, string> };
    };
    expect(JSON.stringify(info.store.graphOptions)).toContain(store());
    expect((await podman.podman(['images', '--quiet'])).trim()).toBe('');
  });

  test('an image is listed and run at once, and most of it stays in the registry', async () => {
    await add(lazy.ref, '--no-prefetch');
    const before = registry.requests().length;
    expect(await podman.run(lazy.ref)).toBe('I am lazy\n');
    expect(fetchedSince(before, lazy.blobs)).toEqual([]);
    const { bytes } = await imageOf(engine, lazy.ref);
    expect(bytes.present).toBeLessThan(bytes.total / 2);
    expect(await podman.podman(['images', '--format', '{{.Repository}}:{{.Tag}} {{.ReadOnly}}'])).toBe(
      `${lazy.ref} true\n`,
    );
  });

  test('layers that are not whole cannot be saved or pushed: podman fails, and leaves no image', async () => {
    const file = join(work, 'lazy.tar');
    await expect(podman.podman(['save', '--output', file, lazy.ref])).rejects.toThrow(
      'has not arrived as a whole',
    );
    expect(existsSync(file)).toBe(false);
    const folder = join(work, 'lazy-oci');
    await expect(podman.podman(['push', lazy.ref, `oci:${folder}`])).rejects.toThrow(
      'has not arrived as a whole',
    );
    // Small layers are whole already. What was written is what its name says, and no image.
    const blobs = join(folder, 'blobs/sha256');
    for (const name of readdirSync(blobs)) expect(sha256(readFileSync(join(blobs, name)))).toBe(name);
    expect(existsSync(join(folder, 'index.json'))).toBe(false);
  });

  test('podman gives the image and its layers the ids and sizes that its own pull gives them', async () => {
    const own = await startPodman(cleanup, await cleanup.tempDir('podman-own'));
    await own.podman(['pull', '--quiet', '--tls-verify=false', lazy.ref]);
    const inspect = async ({ podman }: Podman) => {
      const [image] = JSON.parse(await podman(['image', 'inspect', lazy.ref])) as [Record<string, unknown>];
      const { GraphDriver: _where, ...said } = image;
      return said;
    };
    expect(await inspect(podman)).toEqual(await inspect(own));
    // podman notes the owners of a layer's files, which it does not need.
    const plain = (layers: Array<Record<string, unknown>>) =>
      layers.map(({ created: _when, uidset: _u, gidset: _g, ...layer }) => layer);
    expect(plain(layersOf(store()))).toEqual(plain(layersOf(own.graphroot)));
  });

  test('a container on it sees every byte as umoci unpacks it', async () => {
    const id = (await podman.podman(['create', ...podman.container, lazy.ref])).trim();
    const root = (await podman.podman(['mount', id])).trim();
    const judge = await readTree(await unpackWithUmoci(lazy.ref, join(work, 'umoci')));
    const isRoot = (path: Buffer) => path.length === 0;
    assertSameTree(judge, await readTree(root), {
      // An overlay counts no links of folders, and its root is the container's.
      ignore: ({ field, path }, node) => (field === 'nlink' && node.type === 'dir') || isRoot(path),
    });
    await podman.podman(['rm', id]);
  });

  test('whole layers are saved as the tars that their digests name', async () => {
    // With what no program reads, such as the ends of tars.
    expect((await remove(lazy.ref)).stderr).toBe('');
    await add(lazy.ref);
    await eventually(
      'all of it is whole',
      async () => {
        const { images } = (await engine.status()).podman ?? { images: [] };
        return images[0]?.whole;
      },
      90_000,
    );
    const file = join(work, 'whole.tar');
    await podman.podman(['save', '--output', file, lazy.ref]);
    for (const diffId of lazy.diffIds) {
      const sum = await runCommand('sh', [
        '-c',
        'tar -xOf "$0" "$1" | sha256sum',
        file,
        `${diffId.slice(7)}.tar`,
      ]);
      expect(sum.slice(0, 64)).toBe(diffId.slice(7));
    }
    const own = await startPodman(cleanup, await cleanup.tempDir('podman-load'));
    await own.podman(['load', '--input', file]);
    expect(await own.run(lazy.ref)).toBe('I am lazy\n');
  });

  test('the names in its tar-split files, their sizes and checksums are those that podman writes itself', async () => {
    const own = await startPodman(cleanup, await cleanup.tempDir('podman-split'));
    await own.podman(['pull', '--quiet', '--tls-verify=false', lazy.ref]);
    for (const { id } of layersOf(own.graphroot)) {
      const read = (folder: string) => splitOf(join(folder, `overlay-layers/${String(id)}.tar-split.gz`));
      expect(read(store())).toEqual(read(own.graphroot));
    }
  });

  test('a build FROM it runs, and its image can be pushed and pulled by others', async () => {
    const context = join(work, 'context');
    await mkdir(context, { recursive: true });
    await writeFile(join(context, 'copied'), 'copied\n');
    await writeFile(
      join(context, 'Containerfile'),
      `FROM ${lazy.ref}\nRUN cat /said >/built && chown 7:7 /data/replaced\nCOPY copied /\n`,
    );
    const limits = podman.container.filter((word) => word !== '--network' && word !== 'host');
    await podman.podman(['build', '--network', 'host', ...limits, '--tag', 'built', context]);
    expect(await podman.run('built', 'cat', '/built', '/copied', '/data/replaced')).toBe(
      'I am lazy\ncopied\nreplaced by 3\n',
    );
    const pushed = `${registry.host}/built:1`;
    await podman.podman(['push', '--quiet', '--tls-verify=false', 'built', pushed]);
    const root = await unpackWithUmoci(pushed, join(work, 'umoci-built'));
    expect(await readFile(join(root, 'built'), 'utf8')).toBe('I am lazy\n');
    expect(statSync(join(root, 'data/replaced')).uid).toBe(7);
    expect(await readFile(join(root, 'data/big'))).toEqual(bigOfFiveLayers());
  });

  test('a pull of an image with a layer in common fetches the others alone', async () => {
    const before = registry.requests().length;
    await podman.podman(['pull', '--quiet', '--tls-verify=false', sibling.ref]);
    expect(fetchedSince(before, sibling.blobs).toSorted()).toEqual(sibling.blobs.slice(1).toSorted());
    expect(await podman.run(sibling.ref)).toBe('I am its sibling\n');
  });

  test('a container with users of its own does not start on layers of cofa, or sees them as no user’s', async () => {
    for (const ref of [lazy.ref, sibling.ref])
      await expect(runMapped(ref)).rejects.toThrow('permission denied');
    // It starts where the image has all files that podman puts something upon.
    const context = join(work, 'places');
    await mkdir(context);
    const places = [
      'etc/hosts',
      'etc/hostname',
      'etc/resolv.conf',
      'run/.containerenv',
      'proc/',
      'sys/',
      'dev/',
    ];
    const lines = [`FROM ${lazy.ref}`, ...places.map((place) => `COPY empty /${place}`)];
    await writeFile(join(context, 'empty'), '');
    await writeFile(join(context, 'Containerfile'), `${lines.join('\n')}\n`);
    await podman.podman(['build', '--quiet', '--layers=false', '--tag', 'places', context]);
    expect(await runMapped('places', 'ls', '-n', '/said')).toMatch(/ 65534 +65534 /);
    expect(await runMapped('places', 'ls', '-n', '/etc/hosts')).toMatch(/ 0 +0 /);
    await podman.podman(['rmi', 'places']);
  });

  test('podman does not remove it, and cofa does not while something of podman stands on it', async () => {
    await expect(podman.podman(['rmi', lazy.ref])).rejects.toThrow('read-only');
    const refused = await remove(lazy.ref);
    expect(refused.code).toBe(7);
    expect(refused.stderr).toMatch(/is below .*the image localhost\/built/);
    expect(await podman.run(lazy.ref)).toBe('I am lazy\n');
  });

  test('a container reads on after every process of the engine was killed, and new ones start', async () => {
    await podman.podman(['run', '--detach', '--name', 'reader', ...podman.container, lazy.ref, '/bin/waits']);
    // What it reads from now on comes from the registry.
    expect((await engine.cli(['prune', '--all'])).code).toBe(0);
    await killAndStart();
    const copy = join(work, 'copied-out');
    await podman.podman(['cp', 'reader:/data/big', copy]);
    expect(await readFile(copy)).toEqual(bigOfFiveLayers());
    expect(await podman.podman(['exec', 'reader', 'cat', '/data/folder/inside'])).toBe('inside\n');
    expect(await podman.run(lazy.ref)).toBe('I am lazy\n');
  });

  test('cofa down refuses while a container needs it; afterwards podman sees none of it, until it is up again', async () => {
    expect((await engine.cli(['prune', '--all'])).code).toBe(0);
    const refused = await engine.cli(['down']);
    expect(refused.code).toBe(7);
    expect(await podman.podman(['images', '--quiet', lazy.ref])).not.toBe('');
    await podman.podman(['rm', '--force', '--time', '0', 'reader']);
    await podman.podman(['create', '--name', 'later', ...podman.container, lazy.ref]);
    expect((await engine.cli(['down'])).code).toBe(0);
    await engine.ended;
    // As after a reboot, when /run is empty.
    expect(mountsBelow(run())).toEqual([]);
    await rm(run(), { recursive: true, force: true });
    expect(await podman.podman(['images', '--noheading', '--format', '{{.Repository}}'])).not.toContain(
      'lazy',
    );
    await expect(podman.podman(['start', '--attach', 'later'])).rejects.toThrow('no such file or directory');
    await start();
    expect(await podman.podman(['start', '--attach', 'later'])).toBe('I am lazy\n');
    await podman.podman(['rm', 'later']);
  });

  test('images are added whose layers another one has: all of them, or the lower ones', async () => {
    const images = [
      { name: 'upper', said: 'I am above\n', options: {} },
      { name: 'twin', said: 'I am above\nme too\n', options: { config: saying('cat /said; echo me too') } },
      { name: 'lower', said: 'I am below\n', options: { config: saying('echo I am below'), layers: 2 } },
    ];
    const refs: string[] = [];
    for (const { name, options } of images) {
      const image = await makeClientImage(work, base, name, { big: 5, said: 'I am above', ...options });
      refs.push(await push(image, registry.host, name));
    }
    for (const ref of refs) await add(ref);
    for (const [at, { said }] of images.entries()) expect(await podman.run(refs[at] as string)).toBe(said);
    // What is below the others stays with the first one gone, also for the next engine.
    expect(await remove(refs[0] as string)).toMatchObject({ code: 0 });
    await killAndStart();
    for (const [at, { said }] of images.entries())
      if (at > 0) expect(await podman.run(refs[at] as string)).toBe(said);
    for (const ref of refs.slice(1)) expect(await remove(ref)).toMatchObject({ code: 0 });
  });

  test('a removed image leaves nothing: no mount, no layer, no file', async () => {
    await podman.podman(['rmi', '--all', '--force']).catch(() => {});
    for (const id of (await podman.podman(['images', '--quiet', '--filter', 'readonly=false'])).split('\n'))
      if (id !== '') await podman.podman(['rmi', '--force', id]);
    const removed = await remove(lazy.ref);
    expect(removed.stderr).toBe('');
    expect((await podman.podman(['images', '--quiet'])).trim()).toBe('');
    expect(mountsBelow(run())).toEqual([]);
    expect(layersOf(store())).toEqual([]);
    expect(readdirSync(join(store(), 'overlay'))).toEqual(['l']);
    expect(readdirSync(join(store(), 'overlay/l'))).toEqual([]);
    expect(readdirSync(join(store(), 'overlay-images')).toSorted()).toEqual(['images.json', 'images.lock']);
    expect((await engine.cli(['rmi', lazy.ref])).code).toBe(0);
    // Pulled by podman alone it may have users of its own.
    await podman.podman(['pull', '--quiet', '--tls-verify=false', lazy.ref]);
    expect(await runMapped(lazy.ref, 'ls', '-n', '/said')).toMatch(/ 0 +0 /);
  });
});

/** Files, with size and checksum, of a tar-split file, and all that is not their data. */
function splitOf(file: string): { files: Array<[string, number, string]>; others: string } {
  const entries = gunzipSync(readFileSync(file))
    .toString()
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { type: number; name: string; size?: number; payload: string });
  const bytes = entries.filter(({ type }) => type === 2).map(({ payload }) => Buffer.from(payload, 'base64'));
  return {
    files: entries.flatMap(({ type, name, size = 0, payload }) =>
      type === 1 && size > 0 ? [[name, size, payload] as [string, number, string]] : [],
    ),
    others: sha256(Buffer.concat(bytes)),
  };
}

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
