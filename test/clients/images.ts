/** Images for real clients: small ones whose containers have a shell, since every row of a table pulls some. */
import { createHash } from 'node:crypto';
import { copyFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import {
  blobPath,
  type ImageConfig,
  type ImageLayout,
  type LayerFile,
  layoutLayers,
  pushLayout,
  writeLayout,
} from '../../ops/images/layout.ts';
import { makeRootfs } from '../container/host-rootfs.ts';
import { noise } from '../images/nasty.ts';
import { runCofa } from '../support/engine.ts';
import type { RegistryServer } from '../support/registry-server.ts';
import { runCommand } from '../support/services.ts';

export interface ClientImage {
  layout: ImageLayout;
  /** Of the layers' blobs, lowest first. */
  blobs: string[];
}

/** Requests for whole blobs of the image that the registry has answered. */
export const wholeGetsOf = (
  registry: Pick<RegistryServer, 'requests'>,
  { blobs }: Pick<ClientImage, 'blobs'>,
): number =>
  registry.requests().filter(
    ({ method, path, status }) =>
      method === 'GET' &&
      status === 200 &&
      // containerd asks a mirror for `…?ns=REGISTRY`.
      blobs.some((digest) => path.replace(/\?.*/, '').endsWith(digest)),
  ).length;

/** Bytes of `/data/big`. */
const BIG = 2 << 20;

/** An image in a registry. */
export interface PushedImage extends ClientImage {
  name: string;
  ref: string;
  /** It is prepared: its sidecar lies beside it. */
  isLazy: boolean;
  /** What `/said` holds. */
  said: string;
  /** A file with the same bytes as its `/data/big`. */
  expected: string;
}

/**
 * Five images in a registry: three prepared ones, one that shares only its base with them (`plain`), and one whose lower
 * two layers are a prepared image's and whose third has no span table (`mixed`).
 */
export async function pushFiveImages(work: string, base: string, host: string): Promise<PushedImage[]> {
  const images: PushedImage[] = [];
  for (const [name, big] of [
    ['lazy-1', 1],
    ['lazy-2', 2],
    ['lazy-3', 1],
    ['plain', 3],
    ['mixed', 2],
  ] as const) {
    const said = `I am ${name}`;
    const image = await makeClientImage(work, base, name, { big, said });
    const ref = await push(image, host, name);
    const isLazy = name.startsWith('lazy');
    if (isLazy) await index(ref);
    const expected = join(work, `big-${name}`);
    await writeFile(expected, noise(BIG, big));
    images.push({ ...image, name, ref, isLazy, said, expected });
  }
  return images;
}

/** `cofa index`; throws with what it says. */
export async function index(ref: string): Promise<void> {
  const { code, stderr } = await runCofa(['index', ref], { timeoutMs: 180_000 });
  if (code !== 0) throw new Error(stderr);
}

/** The lowest layer of all of them: programs and libraries of this machine. */
export async function makeBase(work: string): Promise<string> {
  const base = join(work, 'base');
  await makeRootfs(base);
  // For comparisons inside a container; needs the same library as the others.
  await copyFile('/usr/bin/cmp', join(base, 'bin/cmp'));
  return base;
}

/**
 * Three layers: the base, 2 MiB (`bytes`) that `big` has and no start reads, and `/said` with what `/bin/say` says. Of two images with
 * the same `big` the lower two layers are the same.
 */
export async function makeClientImage(
  work: string,
  base: string,
  name: string,
  o: {
    big: number;
    said: string;
    config?: ImageConfig;
    /** What `/own` holds, where there is to be one. */
    own?: string;
    /** Of `/data/big`; 2 MiB by default. */
    bytes?: number;
    /** The lowest layers alone, so many. */
    layers?: number;
  },
): Promise<ClientImage> {
  const folder = join(work, `image-${name}`);
  const [second, third] = [join(folder, '2'), join(folder, '3')];
  await mkdir(join(second, 'data'), { recursive: true });
  await writeFile(join(second, 'data/big'), noise(o.bytes ?? BIG, o.big));
  await mkdir(join(third, 'bin'), { recursive: true });
  await writeFile(join(third, 'said'), `${o.said}\n`);
  if (o.own !== undefined) await writeFile(join(third, 'own'), o.own);
  await writeFile(join(third, 'bin/say'), '#!/bin/sh\ncat /said\n', { mode: 0o755 });
  // Runs until it is told to end, and says when it was.
  const wait = '#!/bin/sh\ntrap "echo ended; exit 0" TERM\ncat /said\nwhile :; do sleep 0.1; done\n';
  await writeFile(join(third, 'bin/wait'), wait, { mode: 0o755 });
  const lowest = bases.get(base) ?? packed(base, `${base}-layer`);
  bases.set(base, lowest);
  const layout = await writeLayout(join(folder, 'layout'), {
    kind: 'oci',
    layers: [
      await lowest,
      await packed(second, join(folder, 'layer-1')),
      await packed(third, join(folder, 'layer-2')),
    ].slice(0, o.layers),
    config: o.config ?? { Env: ['PATH=/bin'], Cmd: ['/bin/say'] },
    created: '2020-01-01T00:00:00Z',
  });
  return { layout, blobs: (await layoutLayers(layout)).map(({ digest }) => digest) };
}

/** By the folder. Several images stand on one base, and packing that takes longest. */
const bases = new Map<string, Promise<LayerFile>>();

async function packed(tree: string, file: string): Promise<LayerFile> {
  const options = ['--sort=name', '--mtime=@1000000000', '--owner=0', '--group=0', '--numeric-owner'];
  await runCommand('tar', ['-C', tree, ...options, '-cf', `${file}.tar`, '.']);
  const tar = await readFile(`${file}.tar`);
  const blob = gzipSync(tar);
  await writeFile(file, blob);
  return compressed(file, tar, blob);
}

/** A layer of a layout, whose blob is in `file`. */
export function compressed(file: string, tar: Buffer, blob: Buffer) {
  return {
    file,
    compression: 'gzip' as const,
    digest: sha256(blob),
    size: blob.length,
    diffId: sha256(tar),
    createdBy: 'test',
  };
}

/** Of an image's layers, lowest first. */
export async function diffIdsOf({ directory, manifest }: ImageLayout): Promise<string[]> {
  const read = async (digest: string): Promise<unknown> =>
    JSON.parse(await readFile(blobPath(directory, digest), 'utf8'));
  const { config } = (await read(manifest.digest)) as { config: { digest: string } };
  return ((await read(config.digest)) as { rootfs: { diff_ids: string[] } }).rootfs.diff_ids;
}

/** Pushes it; returns its reference. */
export async function push(image: ClientImage, host: string, name: string): Promise<string> {
  await pushLayout(image.layout, host, name, '1');
  return `${host}/${name}:1`;
}

export interface FiveLayers {
  ref: string;
  /** Of the layers, lowest first. */
  blobs: string[];
  diffIds: string[];
}

/** What `/data/big` of an image of `pushFiveLayers` holds: 4 MiB. */
export const bigOfFiveLayers = (): Buffer => noise(4 << 20, 7);

/**
 * An image that is prepared, of five layers: programs; a large file; files replaced, deleted and linked; a folder alone; what it
 * says.
 */
export async function pushFiveLayers(work: string, base: string, host: string): Promise<FiveLayers> {
  const folder = join(work, 'lazy');
  const trees = [base, ...['2', '3', '4', '5'].map((name) => join(folder, name))];
  const [, second, third, fourth, fifth] = trees as [string, string, string, string, string];
  for (const tree of trees.slice(1)) await mkdir(join(tree, 'data'), { recursive: true });
  await writeFile(join(second, 'data/big'), bigOfFiveLayers());
  for (const name of ['gone', 'replaced', 'folder'])
    await writeFile(join(second, 'data', name), `${name} of 2\n`);
  await writeFile(join(third, 'data/.wh.gone'), '');
  await writeFile(join(third, 'data/replaced'), 'replaced by 3\n');
  await mkdir(join(third, 'data/folder'));
  await writeFile(join(third, 'data/folder/inside'), 'inside\n');
  await runCommand('ln', [join(third, 'data/replaced'), join(third, 'data/hard')]);
  await runCommand('ln', ['-s', '../bin/sh', join(third, 'data/soft')]);
  await writeFile(join(third, 'data/umlaut-äö'), 'ä\n', { mode: 0o640 });
  await mkdir(join(fourth, 'alone'));
  await rm(join(fourth, 'data'), { recursive: true });
  await mkdir(join(fifth, 'bin'));
  await writeFile(join(fifth, 'said'), 'I am lazy\n');
  await writeFile(join(fifth, 'bin/say'), '#!/bin/sh\ncat /said\n', { mode: 0o755 });
  await writeFile(join(fifth, 'bin/waits'), '#!/bin/sh\nwhile :; do sleep 0.1; done\n', { mode: 0o755 });
  const layers = [];
  for (const [at, tree] of trees.entries()) {
    const file = join(folder, `layer-${at}`);
    const options = ['--sort=name', '--mtime=@1000000000', '--owner=0', '--group=0', '--numeric-owner'];
    await runCommand('tar', ['-C', tree, ...options, '-cf', `${file}.tar`, '.']);
    const tar = await readFile(`${file}.tar`);
    const blob = gzipSync(tar);
    await writeFile(file, blob);
    layers.push(compressed(file, tar, blob));
  }
  const layout = await writeLayout(join(folder, 'layout'), {
    kind: 'oci',
    layers,
    config: { Env: ['PATH=/bin'], Cmd: ['/bin/say'] },
    created: '2020-01-01T00:00:00Z',
  });
  await pushLayout(layout, host, 'lazy', '1');
  const ref = `${host}/lazy:1`;
  await index(ref);
  const blobs = (await layoutLayers(layout)).map(({ digest }) => digest);
  return { ref, blobs, diffIds: await diffIdsOf(layout) };
}

const sha256 = (bytes: Buffer) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
