/**
 * A current containerd that fetches layers in ranges and unpacks them side by side, as its documentation tunes it: each
 * layer is prepared without its parent (the capability `rebase`), and what it deletes has to be gone all the same. Another one
 * that is named (versions.ts) is to be of 2.2 or later.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { containerdPath, hasContainerd } from '../../ops/images/debs.ts';
import { layoutLayers, writeLayout } from '../../ops/images/layout.ts';
import { noise } from '../images/nasty.ts';
import { TarBytes } from '../images/tar-bytes.ts';
import { untilServed } from '../snapshotter/served.ts';
import { type Engine, eventually, startEngine } from '../support/engine.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { type Containerd, runCommand, startContainerd } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';
import { compressed, index, makeBase, push } from './images.ts';
import { namedContainerds } from './versions.ts';

const VERSION = namedContainerds()?.[0] ?? '2.4';
/** Of containerd's transfer service (plugins/transfer/plugin.go, `transferConfig`). */
const TUNED = [
  '  max_concurrent_downloads = 8',
  `  concurrent_layer_fetch_buffer = ${1 << 20}`,
  '  max_concurrent_unpacks = 4',
];
const TRANSFER = '[plugins."io.containerd.transfer.v1.local"]';

const cleanup = new Cleanup();
let work: string;
let engine: Engine;
let containerd: Containerd;
let registry: RegistryServer;

/** What the layers above the second one do, told by a container. */
const SCRIPT =
  'stat -c "%n %a %u:%g" /tmp /home/alice /listed; echo /gone/* /opaque/*; cat /tmp/new /home/alice/new';
const TRUTH = [
  '/tmp 1777 0:0',
  '/home/alice 700 1000:1001',
  '/listed 711 0:0',
  '/gone/stays /opaque/c',
  'new',
  'hers',
  '',
].join('\n');

/** `own`: a file in the second layer that makes it another one. */
const second = (own: string): TarBytes =>
  new TarBytes()
    .dir('./tmp', { mode: 0o1777 })
    .dir('./home/alice', { mode: 0o700, uid: 1000, gid: 1001 })
    .dir('./listed', { mode: 0o700 })
    .file('./gone/old', 'old')
    .file('./gone/stays', 'stays')
    .file('./opaque/a', 'a')
    .file('./opaque/b', 'b')
    .file('./own', own)
    .file('./data/noise', noise(4 << 20, 7));
/** No folder above a file is listed, but for one whose mode changes. */
const third = (): TarBytes =>
  new TarBytes()
    .file('gone/.wh.old', '')
    .file('opaque/.wh..wh..opq', '')
    .file('opaque/c', 'c')
    .file('tmp/new', 'new\n')
    .dir('listed', { mode: 0o711, mtime: 1_500_000_000 });
const fourth = (): TarBytes =>
  new TarBytes().file('home/alice/new', 'hers\n').file('data/more', noise(3 << 20, 8));

async function pushImage(name: string, layers: ReadonlyArray<Buffer>): Promise<string> {
  const blobs = [];
  for (const [at, tar] of layers.entries()) {
    const file = join(work, `${name}-${at}`);
    await writeFile(file, gzipSync(tar));
    blobs.push(compressed(file, tar, await readFile(file)));
  }
  const layout = await writeLayout(join(work, `${name}-layout`), {
    kind: 'oci',
    layers: blobs,
    config: { Env: ['PATH=/bin'], Cmd: ['/bin/sh', '-c', SCRIPT] },
    created: '2020-01-01T00:00:00Z',
  });
  return await push(
    { layout, blobs: (await layoutLayers(layout)).map(({ digest }) => digest) },
    registry.host,
    name,
  );
}

describe.runIf(hasContainerd(VERSION, { onProgress: (line) => console.log(line) }))(
  'layers side by side',
  () => {
    let base: Buffer;

    beforeAll(async () => {
      work = await cleanup.tempDir('aside');
      registry = await startRegistry();
      cleanup.defer(() => registry.stop());
      const file = join(work, 'base.tar');
      await runCommand('tar', ['-C', await makeBase(work), '--owner=0', '--group=0', '-cf', file, '.']);
      base = await readFile(file);
      engine = await startEngine({ workers: 1, args: ['--snapshotter'] });
      cleanup.defer(() => engine.stop());
      (await untilServed(join(engine.root, 'run/snapshotter.sock'))).close();
      const path = (await containerdPath(VERSION)) as string;
      containerd = await startContainerd({
        path,
        configVersion: 3,
        configure: async (config) => {
          const args = ['install', 'containerd', '--no-unit', '--containerd-config', config];
          expect(await engine.cli(args, { env: { PATH: path } })).toMatchObject({ code: 0, stderr: '' });
          const text = await readFile(config, 'utf8');
          const tuned = text.replace(TRANSFER, [TRANSFER, ...TUNED].join('\n'));
          expect(tuned).not.toBe(text);
          await writeFile(config, `${tuned}[debug]\n  level = "debug"\n`);
        },
      });
      cleanup.defer(() => containerd.stop());
    }, 300_000);
    afterAll(() => cleanup.run());

    const pullAndRun = async (ref: string, id: string, ...command: string[]) => {
      await containerd.ctr(['images', 'pull', '--plain-http', '--snapshotter=cofa', ref]);
      // ctr may end before it has copied what the container said; then another one is asked.
      for (let tries = 1; ; tries++) {
        const args = ['run', '--rm', '--net-host', '--snapshotter=cofa', ref, `${id}-${tries}`, ...command];
        const out = await containerd.ctr(args);
        if (out !== '' || tries === 10) return out;
      }
    };
    const parents = async () =>
      (await containerd.ctr(['snapshots', '--snapshotter=cofa', 'ls']))
        .trim()
        .split('\n')
        .slice(1)
        .map((line) => line.split(/\s+/)[1] ?? '');

    test('an image without a sidecar shows what its layers say', async () => {
      const layers = [second('alone'), third(), fourth()].map((tar) => tar.bytes());
      const ref = await pushImage('alone', [base, ...layers]);
      expect(await pullAndRun(ref, 'alone')).toBe(TRUTH);
      expect(containerd.log()).toMatch(/image unpacked.*parallel=true/);
      // Each stands on the one below it, so that garbage collection keeps them.
      expect((await parents()).filter((parent) => parent.startsWith('sha256:'))).toHaveLength(3);
      await containerd.ctr(['images', 'rm', '--sync', ref]);
      await eventually('no snapshot', async () => (await parents()).length === 0);
    });

    test('layers above those of a lazy image show the same', async () => {
      const lower = [base, second('lazy').bytes()];
      const lazy = await pushImage('lazy', lower);
      await index(lazy);
      // Its layers are lent to others when it was mounted.
      expect(await pullAndRun(lazy, 'lazy', '/bin/cat', '/own')).toBe('lazy');
      expect(await containerd.ctr(['content', 'ls', '--quiet'])).not.toContain(
        (await layersOf(lazy)).at(-1) as string,
      );
      const ref = await pushImage('upon', [...lower, third().bytes(), fourth().bytes()]);
      expect(await pullAndRun(ref, 'upon')).toBe(TRUTH);
      const there = await containerd.ctr(['content', 'ls', '--quiet']);
      expect((await layersOf(ref)).map((digest) => there.includes(digest))).toEqual([
        false,
        false,
        true,
        true,
      ]);
      await containerd.ctr(['images', 'rm', '--sync', ref, lazy]);
      await eventually('no snapshot', async () => (await parents()).length === 0);
    });
  },
);

async function layersOf(ref: string): Promise<string[]> {
  const [, repository = ''] = /^[^/]+\/(.*):/.exec(ref) ?? [];
  const accept = 'application/vnd.oci.image.manifest.v1+json';
  const answer = await fetch(`http://${registry.host}/v2/${repository}/manifests/1`, { headers: { accept } });
  const { layers } = (await answer.json()) as { layers: Array<{ digest: string }> };
  return layers.map(({ digest }) => digest);
}
