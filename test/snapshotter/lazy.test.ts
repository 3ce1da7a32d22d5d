/**
 * What containerd does when it pulls and runs a prepared image, call by call: no layer is unpacked,
 * no layer is fetched, and what a container sees is the image.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Code } from '@connectrpc/connect';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Layout } from '../../src/store/layout.ts';
import { type FaultImage, type Files, pushImage } from '../faults/fault-image.ts';
import { noise, prose } from '../images/nasty.ts';
import { type Engine, eventually, runCofa, startEngine } from '../support/engine.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup, listMounts } from '../support/temp.ts';
import { untilServed } from './served.ts';
import {
  expectSameTree,
  inside,
  kindOf,
  mountAll,
  refused,
  renamed,
  type SnapshotClient,
  unmountAll,
} from './test-bed.ts';

const cleanup = new Cleanup();
let registry: RegistryServer;
let engine: Engine;
let client: SnapshotClient;
let work: string;
let image: FaultImage;
let plain: FaultImage;

const LAYERS: Files[] = [
  { 'app/base': prose(300_000, 1), 'app/gone-later': prose(1_000, 2), 'lib/changed': prose(2_000, 3) },
  { 'lib/changed': prose(70_000, 4), 'lib/noise': noise(200_000, 5) },
  { 'app/.wh.gone-later': Buffer.alloc(0), 'top/last': prose(5_000, 6) },
];
/** The third layer is another one; the lower two are the image's. */
const PLAIN: Files[] = [...LAYERS.slice(0, 2), { 'other/file': prose(9_000, 7) }];

beforeAll(async () => {
  work = await cleanup.tempDir('lazy');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  image = await pushImage(join(work, 'image'), registry.host, 'lazy', LAYERS);
  plain = await pushImage(join(work, 'plain'), registry.host, 'plain', PLAIN);
  const indexed = await runCofa(['index', image.ref]);
  if (indexed.code !== 0) throw new Error(indexed.stderr);
  engine = await startEngine({ workers: 1, args: ['--snapshotter'] });
  cleanup.defer(() => engine.stop());
  client = await untilServed(join(engine.root, 'run/snapshotter.sock'));
  cleanup.defer(() => client.close());
});
afterAll(() => cleanup.run());

const sha256 = (bytes: Buffer | string) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

function chainsOf({ tars }: FaultImage): string[] {
  const chains: string[] = [];
  for (const diffId of tars.map(sha256)) {
    const below = chains.at(-1);
    chains.push(below === undefined ? diffId : sha256(`${below} ${diffId}`));
  }
  return chains;
}

function labelsOf(of: FaultImage, layer: number): Record<string, string> {
  return {
    'containerd.io/snapshot.ref': chainsOf(of)[layer] as string,
    'containerd.io/snapshot/cri.image-ref': of.ref,
    'containerd.io/snapshot/cri.manifest-digest': of.layout.manifest.digest,
    'containerd.io/snapshot/cri.layer-digest': of.blobs[layer]?.digest as string,
    'containerd.io/snapshot/cri.image-layers': of.blobs
      .slice(layer)
      .map(({ digest }) => digest)
      .join(','),
  };
}

/** As containerd 2.4 finds out whether a snapshot was filled already (core/mount/mount.go, `ReadOnly`). */
const isReadOnly = ({ type, options }: { type: string; options: string[] }) =>
  options.includes('ro') || (type === 'overlay' && !options.some((option) => option.startsWith('upperdir=')));

/** As containerd's metadata store looks for what the snapshotter says is there. */
async function targetOf(chain: string, parent: string): Promise<string> {
  const filter = `labels."containerd.io/snapshot.ref"==${chain},parent==${JSON.stringify(parent)}`;
  const [info] = await client.walk(filter);
  expect(info === undefined ? 'none' : kindOf(info)).toBe('COMMITTED');
  return info?.name as string;
}

/** Asks for every layer as an unpacker does; returns the name of the uppermost committed snapshot. */
async function pull(of: FaultImage, key: string): Promise<string> {
  let parent = '';
  for (const [layer, chain] of chainsOf(of).entries()) {
    await refused(client.prepare(`${key}-${layer}`, parent, labelsOf(of, layer)), Code.AlreadyExists);
    parent = await targetOf(chain, parent);
  }
  return parent;
}

/** The tree that layers make, laid out by hand. */
function layOut(name: string, layers: readonly Files[]): string {
  const root = join(work, name);
  mkdirSync(root);
  for (const files of layers) {
    for (const [path, bytes] of Object.entries(files)) {
      const [, folder = '', hidden] = /^(.*\/)\.wh\.(.*)$/.exec(path) ?? [];
      mkdirSync(join(root, dirname(path)), { recursive: true });
      if (hidden === undefined) writeFileSync(join(root, path), bytes);
      else rmSync(join(root, folder, hidden), { recursive: true });
    }
  }
  return root;
}

describe('a prepared image', () => {
  test('is pulled without a layer being unpacked, twice the same; its registry is asked as for one start', async () => {
    const before = registry.requests().length;
    const top = await pull(image, 'first');
    await eventually('the engine gets it ready beside the pull', () =>
      listMounts().some(({ point }) => point === new Layout(engine.root).flatMount(top)),
    );
    // For the offer and for the mount, and not for each layer.
    const asked = registry.requests().slice(before);
    const times = Map.groupBy(asked, ({ method, path }) => `${method} ${path}`);
    expect([...times].filter(([what, { length }]) => !what.includes('/blobs/') && length > 2)).toEqual([]);
    expect(await pull(image, 'second')).toBe(top);
    expect((await client.walk('kind==committed')).map(({ name }) => name).sort()).toEqual(
      chainsOf(image).sort(),
    );
    expect(await client.walk('kind!=committed')).toEqual([]);
  });

  test('is one flat folder below the container, whose writes stay its own', async () => {
    const truth = layOut('whole', LAYERS);
    const mounts = await client.prepare('container', chainsOf(image)[2]);
    const lower = mounts[0]?.options.find((option) => option.startsWith('lowerdir='));
    expect(lower).toBe(`lowerdir=${new Layout(engine.root).flatMount(chainsOf(image)[2] as string)}`);
    await inside(mounts, work, async (root) => {
      await expectSameTree(truth, root);
      writeFileSync(join(root, 'lib/changed'), 'mine');
      rmSync(join(root, 'app/base'));
    });
    await inside(mounts, work, (root) => {
      expect(readFileSync(join(root, 'lib/changed'), 'utf8')).toBe('mine');
      expect(existsSync(join(root, 'app/base'))).toBe(false);
    });
    const usage = await client.api.usage({ key: 'container' });
    expect(Number(usage.inodes)).toBeGreaterThan(1);
    await inside(await client.view('view', chainsOf(image)[2]), work, (root) => expectSameTree(truth, root));
    await client.remove('container');
    await client.remove('view');
    expect(Number((await client.api.usage({ key: chainsOf(image)[2] as string })).size)).toBeGreaterThan(0);
  });

  test.each([1, 2])('shows its lowest %i layers flat, too', async (layers) => {
    const truth = layOut(`lowest-${layers}`, LAYERS.slice(0, layers));
    const mounts = await client.view(`prefix-${layers}`, chainsOf(image)[layers - 1]);
    expect(mounts.map(({ type }) => type)).toEqual(['bind']);
    await inside(mounts, work, async (root) => {
      await expectSameTree(truth, root);
      expect(() => writeFileSync(join(root, 'x'), '')).toThrow('EROFS');
    });
    await client.remove(`prefix-${layers}`);
  });

  test('carries layers that were made on top of it', async () => {
    const base = chainsOf(image)[2] as string;
    const truth = layOut('built', LAYERS);
    const first = (root: string) => {
      renamed('top', 'moved')(root);
      writeFileSync(join(root, 'new'), 'one');
      rmSync(join(root, 'app'), { recursive: true });
    };
    const second = (root: string) => writeFileSync(join(root, 'moved/last'), 'two');
    await inside(await client.prepare('build-1', base), work, first);
    await client.commit('built-1', 'build-1');
    await inside(await client.prepare('build-2', 'built-1'), work, second);
    await client.commit('built-2', 'build-2');
    first(truth);
    second(truth);
    const mounts = await client.prepare('on-built', 'built-2');
    const lowers = mounts[0]?.options.find((option) => option.startsWith('lowerdir='))?.split(':');
    expect(lowers?.length).toBe(3);
    await inside(mounts, work, (root) => expectSameTree(truth, root));
    await client.remove('on-built');
    await refused(client.remove(base), Code.FailedPrecondition);
    await client.remove('built-2');
    await client.remove('built-1');
  });

  test('lends its lowest layers to an unprepared image, and to a client without labels', async () => {
    const [one, two, three] = chainsOf(plain) as [string, string, string];
    expect([one, two]).toEqual(chainsOf(image).slice(0, 2));
    await refused(client.prepare('plain-0', '', labelsOf(plain, 0)), Code.AlreadyExists);
    await refused(client.prepare('plain-1', one, { 'containerd.io/snapshot.ref': two }), Code.AlreadyExists);
    const mounts = await client.prepare('plain-2', two, labelsOf(plain, 2));
    await inside(mounts, work, (root) => {
      mkdirSync(join(root, 'other'));
      writeFileSync(join(root, 'other/file'), PLAIN[2]?.['other/file'] as Buffer);
    });
    await client.commit(three, 'plain-2', labelsOf(plain, 2));
    const truth = layOut('plain-truth', PLAIN);
    await inside(await client.view('plain-view', three), work, (root) => expectSameTree(truth, root));
    await client.remove('plain-view');
    await client.remove(three);
  });

  test('is put below a layer that was unpacked alone (the capability rebase)', async () => {
    const [, two, three] = chainsOf(plain) as [string, string, string];
    const labels = { ...labelsOf(plain, 2), 'containerd.io/snapshot/parent-chain-id': two };
    const mounts = await client.prepare('alone', '', labels);
    const [, upper = ''] = /^upperdir=(.*)$/.exec(mounts[0]?.options[0] ?? '') ?? [];
    // containerd's applier writes whiteouts as overlayfs has them where it finds an overlay, and mounts nothing.
    expect(mounts).toMatchObject([{ type: 'overlay', options: [`upperdir=${upper}`] }]);
    expect(mounts.filter(isReadOnly)).toEqual([]);
    mkdirSync(join(upper, 'other'));
    writeFileSync(join(upper, 'other/file'), PLAIN[2]?.['other/file'] as Buffer);
    mkdirSync(join(upper, 'app'));
    execFileSync('mknod', [join(upper, 'app/base'), 'c', '0', '0']);
    await client.api.commit({ snapshotter: 'cofa', name: three, key: 'alone', parent: two, labels });
    const truth = layOut('alone-truth', [...PLAIN, { 'app/.wh.base': Buffer.alloc(0) }]);
    await inside(await client.view('alone-view', three), work, (root) => expectSameTree(truth, root));
    const container = await client.prepare('alone-container', three);
    expect(container.filter(isReadOnly)).toEqual([]);
    for (const name of ['alone-container', 'alone-view', three]) await client.remove(name);
  });

  test('is unpacked when the registry or the image cannot be found', async () => {
    const wanted = { ...labelsOf(plain, 2), 'containerd.io/snapshot.ref': sha256('unknown') };
    for (const [at, ref] of [
      '127.0.0.1:1/none/there:1',
      `${registry.host}/none:1`,
      'not a reference!',
    ].entries()) {
      const labels: Record<string, string> = { ...wanted, 'containerd.io/snapshot/cri.image-ref': ref };
      delete labels['containerd.io/snapshot/cri.manifest-digest'];
      const mounts = await client.prepare(`away-${at}`, '', labels);
      expect(mounts.map(({ type }) => type)).toEqual(['bind']);
      await client.remove(`away-${at}`);
    }
  });

  test('goes on through a kill of the snapshotter and a restart of the engine', async () => {
    const base = chainsOf(image)[2] as string;
    const truth = layOut('restarted', LAYERS);
    const mounts = await client.prepare('survivor', base);
    const running = join(work, 'running');
    await mountAll(mounts, running);
    cleanup.defer(async () => {
      if (listMounts().some(({ point }) => point === running)) await unmountAll(running);
    });
    writeFileSync(join(running, 'mine'), 'before');
    const before = await client.walk();

    const { snapshotter } = await engine.pids();
    process.kill(snapshotter as number, 'SIGKILL');
    client.close();
    await eventually('another snapshotter', async () => (await engine.pids()).snapshotter !== snapshotter);
    client = await untilServed(join(engine.root, 'run/snapshotter.sock'));
    const byName = (a: { name: string }, b: { name: string }) => (a.name < b.name ? -1 : 1);
    expect((await client.walk()).sort(byName)).toEqual(before.sort(byName));
    expect((await client.api.mounts({ key: 'survivor' })).mounts).toEqual(mounts);
    expect(readFileSync(join(running, 'mine'), 'utf8')).toBe('before');
    await expectSameTree(join(truth, 'lib'), join(running, 'lib'));
    await unmountAll(running);
    client.close();

    const { root } = engine;
    expect((await engine.cli(['down'])).code).toBe(0);
    await engine.ended;
    expect(listMounts().filter(({ point }) => point.startsWith(`${root}/flats/`))).toEqual([]);
    const again = await startEngine({ root, workers: 1, args: ['--snapshotter'] });
    cleanup.defer(() => again.stop());
    client = await untilServed(join(root, 'run/snapshotter.sock'));
    expect((await client.walk()).sort(byName)).toEqual(before.sort(byName));
    writeFileSync(join(truth, 'mine'), 'before');
    await inside((await client.api.mounts({ key: 'survivor' })).mounts, work, (root) =>
      expectSameTree(truth, root),
    );
    await client.remove('survivor');
    for (const chain of chainsOf(image).toReversed()) await client.remove(chain);
    expect(await client.walk()).toEqual([]);
  });
});
