/**
 * Artifacts of files: a model's weights as they are, with its tars beside them. The registry is docker's; what a mount shows is
 * compared with what was pushed.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { digestOf } from '../../src/digest/digest.ts';
import { type Descriptor, RegistryClient } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { noise } from '../images/nasty.ts';
import { type Engine, errorOf, eventually, imageOf, mountImage, startEngine } from '../support/engine.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';

const MODEL = 'application/vnd.cncf.model';
const PROOF_MS = 120_000;
const cleanup = new Cleanup();
let work: string;
let registry: RegistryServer;
let client: RegistryClient;
let engine: Engine;

beforeAll(async () => {
  work = await cleanup.tempDir('models');
  readme = tarOf({ 'README.md': noise(3_000, 2) });
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  client = new RegistryClient({});
  cleanup.defer(() => client.close());
  engine = await startEngine({ root: join(work, 'root') });
  cleanup.defer(() => engine.stop());
});
afterAll(() => cleanup.run());

interface Layer {
  bytes: Buffer;
  mediaType: string;
  annotations?: Record<string, string>;
  diffId?: string;
}

const file = (path: string, bytes: Buffer, kind = 'weight', more: Record<string, string> = {}): Layer => ({
  bytes,
  mediaType: `${MODEL}.${kind}.v1.raw`,
  annotations: { 'org.cncf.model.filepath': path, ...more },
});

async function push(name: string, layers: readonly Layer[]): Promise<string> {
  const ref = `${registry.host}/${name}:1`;
  const source = parseReference(ref);
  const described: Descriptor[] = [];
  for (const { bytes, mediaType, annotations } of layers) {
    await client.pushBlob(source, bytes, mediaType);
    described.push({
      mediaType,
      digest: digestOf(bytes),
      size: bytes.length,
      ...(annotations && { annotations }),
    });
  }
  const diffIds = layers.map(({ bytes, diffId }) => diffId ?? digestOf(bytes));
  const config = Buffer.from(
    JSON.stringify({
      descriptor: { name },
      config: { format: 'safetensors' },
      modelfs: { type: 'layers', diffIds },
    }),
  );
  const mediaType = `${MODEL}.config.v1+json`;
  await client.pushBlob(source, config, mediaType);
  const type = 'application/vnd.oci.image.manifest.v1+json';
  const manifest = {
    schemaVersion: 2,
    mediaType: type,
    artifactType: `${MODEL}.manifest.v1+json`,
    config: { mediaType, digest: digestOf(config), size: config.length },
    layers: described,
  };
  await client.pushManifest(source, Buffer.from(JSON.stringify(manifest)), type, '1');
  return ref;
}

function tarOf(files: Record<string, Buffer>): Buffer {
  const dir = join(work, `tar-${Math.random().toString(36).slice(2)}`);
  mkdirSync(dir);
  for (const [name, bytes] of Object.entries(files)) writeFileSync(join(dir, name), bytes);
  return execFileSync('tar', ['-C', dir, '-cf', '-', ...Object.keys(files)], { maxBuffer: 1 << 28 });
}

/** Every file below a folder, by its path. */
function filesIn(dir: string): Record<string, string> {
  const paths = readdirSync(dir, { recursive: true, encoding: 'utf8' });
  const files = paths.filter((path) => statSync(join(dir, path)).isFile()).sort();
  return Object.fromEntries(files.map((path) => [path, digestOf(readFileSync(join(dir, path)))]));
}

const weights = noise(5_000_001, 1);
let readme: Buffer;
const model = (seed: number): { layers: Layer[]; files: Record<string, string> } => {
  const shard = noise(700_000, seed);
  const empty = Buffer.alloc(0);
  return {
    layers: [
      file('model-1.safetensors', weights, 'weight', {
        'org.cncf.model.file.metadata+json': JSON.stringify({
          mode: 0o640,
          uid: 7,
          gid: 8,
          mtime: '2026-01-02T03:04:05Z',
        }),
      }),
      file('shards/deep/2.bin', shard),
      file('shards/same.bin', shard),
      file('code/__init__.py', empty, 'code'),
      { bytes: gzipSync(readme), mediaType: `${MODEL}.doc.v1.tar+gzip`, diffId: digestOf(readme) },
      {
        bytes: readme,
        mediaType: `${MODEL}.code.v1.raw`,
        annotations: { 'org.opencontainers.image.title': 'readme.tar' },
      },
    ],
    files: {
      'README.md': digestOf(noise(3_000, 2)),
      'code/__init__.py': digestOf(empty),
      'model-1.safetensors': digestOf(weights),
      'readme.tar': digestOf(readme),
      'shards/deep/2.bin': digestOf(shard),
      'shards/same.bin': digestOf(shard),
    },
  };
};

async function mounted(ref: string, name: string): Promise<string> {
  const dir = join(work, name);
  mkdirSync(dir);
  await mountImage(engine, ref, dir);
  cleanup.defer(async () => void (await engine.cli(['unmount', dir])));
  return dir;
}

describe('a model', () => {
  test('with a sidecar is mounted lazily, every file as it was pushed, and proven by its layers', async () => {
    const { layers, files } = model(10);
    const ref = await push('lazy', layers);
    expect(await engine.cli(['index', ref])).toMatchObject({ code: 0, stderr: expect.anything() });
    const dir = await mounted(ref, 'lazy');
    const { mode, uid, gid, mtimeMs, size } = statSync(join(dir, 'model-1.safetensors'));
    expect({ mode: mode & 0o777, uid, gid, mtimeMs, size }).toEqual({
      mode: 0o640,
      uid: 7,
      gid: 8,
      mtimeMs: Date.UTC(2026, 0, 2, 3, 4, 5),
      size: weights.length,
    });
    expect(await imageOf(engine, ref)).toMatchObject({ origin: 'sidecar' });
    expect(filesIn(dir)).toEqual(files);
    await eventually('its proof', async () => (await imageOf(engine, ref)).trust === 'proven', PROOF_MS);
  });

  test('without one is mounted when its layers are here', async () => {
    const { layers, files } = model(20);
    const dir = await mounted(await push('plain', layers), 'plain');
    expect(filesIn(dir)).toEqual(files);
  });

  test('whose files have other names is another flat image, though each diffID is the same', async () => {
    const { layers, files } = model(30);
    const ref = await push('again', layers);
    const first = await mounted(ref, 'first');
    expect(filesIn(first)).toEqual(files);
    const renamed = layers.map((layer, at) => (at === 0 ? file('other-name.bin', layer.bytes) : layer));
    const { 'model-1.safetensors': moved, ...others } = files;
    const dir = await mounted(await push('renamed', renamed), 'renamed');
    expect(filesIn(dir)).toEqual({ ...others, 'other-name.bin': moved });
  });
});

test('bytes that are a file in one artifact and a tar in another are two images of one device', async () => {
  const tar = tarOf({ secret: noise(90_000, 3) });
  const asTar: Layer = { bytes: tar, mediaType: `${MODEL}.weight.v1.tar` };
  for (const name of ['tar-first', 'tar-again']) {
    const dir = await mounted(await push(name, [asTar]), name);
    expect(filesIn(dir)).toEqual({ secret: digestOf(noise(90_000, 3)) });
    const other = await mounted(await push(`${name}-file`, [file('weights.bin', tar)]), `${name}-file`);
    expect(filesIn(other)).toEqual({ 'weights.bin': digestOf(tar) });
  }
});

describe('is refused with the reason', () => {
  test('a file whose name leads nowhere, a packed tar without its digest, an artifact without names', async () => {
    const bytes = noise(1_000, 4);
    const tar = gzipSync(readme);
    const cases: Array<[string, Layer, string]> = [
      ['nowhere', file('../..', bytes), 'names no file'],
      ['hidden', file('a/.wh.b', bytes), 'names no file'],
      ['long', file('x'.repeat(300), bytes), 'names no file'],
      [
        'other',
        { bytes: tar, mediaType: `${MODEL}.doc.v1.tar+gzip`, diffId: 'none' },
        'nothing says the digest',
      ],
      ['unnamed', { bytes, mediaType: `${MODEL}.weight.v1.raw` }, 'it is no container image'],
      ['wrong', { bytes: tar, mediaType: `${MODEL}.doc.v1.tar+gzip`, diffId: digestOf(bytes) }, 'digest'],
    ];
    for (const [name, layer, message] of cases) {
      const ref = await push(name, [layer]);
      const dir = join(work, name);
      mkdirSync(dir);
      const result = await engine.cli(['mount', '--json', ref, dir]);
      expect(result.code, name).not.toBe(0);
      expect(errorOf(result).message).toContain(message);
    }
  });

  test('a container of a model', async () => {
    const ref = await push('container', [file('weights.bin', noise(1_000, 5))]);
    const { code, stderr } = await engine.cli(['run', '--rm', ref]);
    expect(code).not.toBe(0);
    expect(stderr).toMatch(/the image names none/);
  });
});
