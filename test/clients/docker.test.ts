/**
 * dockerd with the containerd image store (26, of Debian trixie, on its containerd 1.7) on cofa's snapshotter: what people
 * do with docker, on a prepared image (lazy), on an unprepared one (plain), and on one of which only
 * the lowest layers are those of a lazy one (mixed).
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { NEWER_DOCKER, unpackedDebs } from '../../ops/images/debs.ts';
import { type Engine, eventually, runCofa, startEngine } from '../support/engine.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { type Containerd, type Dockerd, startContainerd, startDockerd } from '../support/services.ts';
import { Cleanup, listMounts, mountsBelow } from '../support/temp.ts';
import { untilServed } from '../snapshotter/served.ts';
import { type ClientImage, makeBase, makeClientImage, push } from './images.ts';

const cleanup = new Cleanup();
let work: string;
let registry: RegistryServer;
let other: RegistryServer;
let engine: Engine;
let containerd: Containerd;
let dockerd: Dockerd;
const images: Record<string, ClientImage & { ref: string }> = {};
const KINDS = ['lazy', 'plain', 'mixed'] as const;

beforeAll(async () => {
  work = await cleanup.tempDir('docker');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  other = await startRegistry();
  cleanup.defer(() => other.stop());
  const newer = await unpackedDebs(NEWER_DOCKER, { onProgress: (line) => console.log(line) });
  const base = await makeBase(work);
  for (const [name, big] of [
    ['lazy', 1],
    ['plain', 2],
    ['mixed', 1],
    ['kept', 3],
  ] as const) {
    const image = await makeClientImage(work, base, name, { big, said: `I am ${name}` });
    images[name] = { ...image, ref: await push(image, registry.host, name) };
  }
  for (const name of ['lazy', 'kept']) {
    const indexed = await runCofa(['index', refOf(name)], { timeoutMs: 180_000 });
    if (indexed.code !== 0) throw new Error(indexed.stderr);
  }
  engine = await startEngine({ workers: 1, args: ['--snapshotter'] });
  cleanup.defer(() => engine.stop());
  const snapshotter = join(engine.root, 'run/snapshotter.sock');
  (await untilServed(snapshotter)).close();
  // Both are set up as a user does it.
  const install = async (...args: string[]) => {
    const done = await engine.cli(['install', 'docker', '--no-unit', ...args]);
    if (done.code !== 0) throw new Error(done.stderr);
  };
  let config = '';
  containerd = await startContainerd({
    path: newer.path,
    configure: async (file) => {
      config = file;
      await install('--containerd-config', file, '--daemon-json', join(work, 'none.json'));
    },
  });
  cleanup.defer(() => containerd.stop());
  const cliPlugins = join(newer.root, 'usr/libexec/docker/cli-plugins');
  dockerd = await startDockerd({
    path: newer.path,
    containerd,
    cliPlugins,
    configure: (file) => install('--containerd-config', config, '--daemon-json', file),
  });
  cleanup.defer(() => dockerd.stop());
}, 300_000);
afterAll(() => cleanup.run());

const refOf = (name: string) => images[name]?.ref as string;
const docker = (...args: string[]) => dockerd.docker(args, { timeoutMs: 60_000 });
const run = (...args: string[]) => docker('run', '--rm', '--network=host', ...args);
/** Compares in the container: docker loses, now and then, all that one prints which ends at once, but never its exit code. */
const hasSaid = (ref: string, text: string) =>
  run(ref, 'sh', '-c', '[ "$(cat /said)" = "$0" ] || { cat /said >&2; exit 9; }', text);
const ctr = (...args: string[]) => containerd.ctr(['--namespace', 'moby', ...args]);

/** Layers of an image that containerd has as blobs. */
async function blobsOf(name: string): Promise<string[]> {
  const there = await ctr('content', 'ls', '--quiet');
  return (images[name] as ClientImage).blobs.filter((digest) => there.includes(digest));
}

const snapshots = async () =>
  (await ctr('snapshots', '--snapshotter=cofa', 'ls')).trim().split('\n').slice(1);

describe('pulled one after the other', () => {
  // The lowest layer is the same in all, and unpacked with the first one. The mixed one's lower two are the lazy one's.
  test.each([
    ['plain', 3],
    ['lazy', 0],
    ['mixed', 1],
  ] as const)('a %s image: %i of its layers are fetched', async (kind, fetched) => {
    const before = new Set(await blobsOf(kind));
    expect(await docker('pull', '--quiet', refOf(kind))).toContain(refOf(kind));
    const more = (await blobsOf(kind)).filter((digest) => !before.has(digest));
    expect(more).toEqual((images[kind] as ClientImage).blobs.slice(3 - fetched));
  });
});

describe.each(KINDS)('an image that is %s', (kind) => {
  test('runs', async () => {
    expect(await run(refOf(kind))).toBe(`I am ${kind}\n`);
    expect(await run(refOf(kind), 'sh', '-c', 'echo mine > /said; cat /said')).toBe('mine\n');
    expect(await run(refOf(kind))).toBe(`I am ${kind}\n`);
    const failed = run(refOf(kind), 'sh', '-c', 'exit 7');
    await expect(failed).rejects.toThrow('failed (7)');
  });

  test('is a container that is stopped, started, looked into and removed', async () => {
    await docker('create', '--name', 'one', '--network=host', refOf(kind), '/bin/wait');
    await docker('start', 'one');
    await docker('exec', 'one', 'sh', '-c', 'echo kept > /kept');
    expect(await docker('ps', '--format', '{{.Names}} {{.State}}')).toBe('one running\n');
    await docker('restart', 'one');
    expect(await docker('exec', 'one', 'cat', '/kept')).toBe('kept\n');
    await docker('stop', 'one');
    expect(await docker('logs', 'one')).toBe(`I am ${kind}\nended\nI am ${kind}\nended\n`);
    const changes = (await docker('diff', 'one')).split('\n');
    expect(changes).toContain('A /kept');
    expect(changes.filter((line) => line.startsWith('D'))).toEqual([]);
    writeFileSync(join(work, 'copied'), 'copied');
    await docker('cp', join(work, 'copied'), 'one:/copied');
    await docker('start', 'one');
    expect(await docker('exec', 'one', 'cat', '/copied')).toBe('copied');
    await docker('rm', '--force', 'one');
  });

  test('is built upon, by BuildKit and by the classic builder', async () => {
    const context = join(work, `build-${kind}`);
    mkdirSync(context);
    writeFileSync(join(context, 'added'), 'added\n');
    writeFileSync(
      join(context, 'Dockerfile'),
      [
        `FROM ${refOf(kind)}`,
        'COPY added /',
        'RUN cat /said >> /added && mv /data /moved',
        'CMD ["cat", "/added"]',
        '',
      ].join('\n'),
    );
    const build = ['build', '--quiet', '--network=host'];
    await docker(...build, '--tag', `built-${kind}:1`, context);
    expect(await run(`built-${kind}:1`)).toBe(`added\nI am ${kind}\n`);
    await dockerd.docker([...build, '--tag', `built-${kind}:2`, context], { env: { DOCKER_BUILDKIT: '0' } });
    expect(await run(`built-${kind}:2`)).toBe(`added\nI am ${kind}\n`);
    expect(await run(`built-${kind}:2`, 'stat', '-c', '%s', '/moved/big')).toBe(`${2 << 20}\n`);
  });

  test('is committed with its changes, and pushed to its own repository', async () => {
    await docker('run', '--name', 'two', '--network=host', refOf(kind), 'sh', '-c', 'echo more >> /said');
    const target = refOf(kind).replace(/:1$/, ':committed');
    await docker('commit', 'two', target);
    await docker('rm', 'two');
    await hasSaid(target, `I am ${kind}\nmore`);
    await docker('push', '--quiet', target);
    await docker('image', 'rm', target);
    await docker('pull', '--quiet', target);
    await hasSaid(target, `I am ${kind}\nmore`);
  });

  test('is a service of docker compose', async () => {
    const folder = join(work, `compose-${kind}`);
    mkdirSync(folder);
    const service = { image: refOf(kind), network_mode: 'host', command: '/bin/wait' };
    writeFileSync(join(folder, 'compose.yaml'), JSON.stringify({ services: { app: service } }));
    const compose = (...args: string[]) => docker('compose', '--project-directory', folder, ...args);
    await compose('up', '--detach');
    expect(await compose('exec', '-T', 'app', 'cat', '/said')).toBe(`I am ${kind}\n`);
    await compose('down');
    expect(await docker('ps', '--all', '--quiet')).toBe('');
  });
});

describe('what needs layers as files', () => {
  // No test has fetched them here: no image was built upon this one.
  const ref = () => refOf('kept');

  test('docker images and docker save do without what a lazy pull left in the registry', async () => {
    await docker('pull', '--quiet', ref());
    // The base is that of the others, and came with them.
    expect((await blobsOf('kept')).length).toBeLessThan(2);
    expect(await run(ref())).toBe('I am kept\n');
    expect(await docker('images', '--quiet', ref())).toBe('');
    // Within one registry docker has the layers mounted from one repository into the other.
    await docker('tag', ref(), `${registry.host}/beside:1`);
    await docker('push', '--quiet', `${registry.host}/beside:1`);
    await docker('tag', ref(), `${other.host}/elsewhere:1`);
    await expect(docker('push', '--quiet', `${other.host}/elsewhere:1`)).rejects.toThrow('not found');
  });

  test('after cofa pull --layers they have it: images, save and load, push to another registry', async () => {
    const args = ['--address', containerd.socket, '--namespace', 'moby', '--layers', ref()];
    const pulled = await engine.cli(['pull', ...args]);
    expect(pulled).toMatchObject({ code: 0, stderr: '' });
    expect(await blobsOf('kept')).toHaveLength(3);
    expect(await docker('images', '--quiet', ref())).toMatch(/^[0-9a-f]{12}\n$/);
    const file = join(work, 'saved.tar');
    await docker('save', '--output', file, ref());
    const elsewhere = `${other.host}/elsewhere:1`;
    await docker('push', '--quiet', elsewhere);
    await docker('image', 'rm', '--force', ref(), elsewhere, `${registry.host}/beside:1`);
    await docker('load', '--quiet', '--input', file);
    expect(await run(ref())).toBe('I am kept\n');
    await docker('pull', '--quiet', elsewhere);
    expect(await run(elsewhere)).toBe('I am kept\n');
  });
});

describe('afterwards', () => {
  test('prune removes every snapshot, and every flat image is unmounted', async () => {
    expect((await snapshots()).length).toBeGreaterThan(0);
    await docker('system', 'prune', '--all', '--force');
    await docker('buildx', 'prune', '--all', '--force');
    await eventually('no snapshot', async () => (await snapshots()).length === 0);
    // No snapshot uses them; they linger, and the engine unmounts them at its end at the latest.
    expect(mountsBelow(join(engine.root, 'snapshots'))).toEqual([]);
    expect(listMounts().filter(({ point }) => point.includes('/rootfs/'))).toEqual([]);
    const known = await engine.status();
    expect(known.mounts.filter(({ state }) => state !== 'mounted')).toEqual([]);
  });
});
