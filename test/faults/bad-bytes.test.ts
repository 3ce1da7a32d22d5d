/**
 * Bytes that are not what they should be: cut, flipped or foreign, in layers and in sidecars. Docker's registry serves
 * what lies in its storage without looking, so the tests change them there.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SpanTable } from '../../src/image/span-table.ts';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { ERROR_KINDS, type ErrorCode, type ErrorRecord } from '../../schemas/errors.ts';
import { RegistryClient, type ResolvedImage } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { findSidecar, SIDECAR_TYPES } from '../../src/registry/sidecars.ts';
import { noise } from '../images/nasty.ts';
import { rootOf } from '../support/roots.ts';
import { type Engine, errorOf, eventually, imageOf, mountImage, startEngine } from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';
import {
  type FaultImage,
  offsetInTar,
  pushImage,
  readPieces,
  spanTableOf,
  twoLayers,
} from './fault-image.ts';

const cleanup = new Cleanup();
const undo: Array<() => Promise<void>> = [];
let directory = '';
let storage = '';
let registry: RegistryServer;
let engine: Engine;
let client: RegistryClient;
let mounts = 0;

beforeAll(async () => {
  directory = await cleanup.tempDir('bytes');
  storage = join(directory, 'storage');
  registry = await startRegistry({ storage });
  cleanup.defer(() => registry.stop());
  client = new RegistryClient({});
  cleanup.defer(() => client.close());
  engine = await startEngine({ readDeadlineMs: 20_000 });
  cleanup.defer(() => engine.stop());
});
afterEach(async () => {
  for (const step of undo.splice(0)) await step();
});
afterAll(() => cleanup.run());

const push = (name: string, seed: number, variant: 'gzip' | 'plain' = 'gzip', layers = twoLayers(seed)) =>
  pushImage(join(directory, name), registry.host, name, layers, variant);
const newDir = () => join(directory, `mnt-${mounts++}`);

/** Changes a blob where the registry keeps it, until the end of the test. */
async function spoil(digest: string, change: (bytes: Buffer) => Buffer): Promise<void> {
  const hex = digest.slice('sha256:'.length);
  const path = join(storage, 'docker/registry/v2/blobs/sha256', hex.slice(0, 2), hex, 'data');
  const before = await readFile(path);
  undo.push(() => writeFile(path, before));
  await writeFile(path, change(Buffer.from(before)));
}

function flipped(bytes: Buffer, at: number): Buffer {
  bytes[at] = (bytes[at] as number) ^ 1;
  return bytes;
}

const resolve = (image: FaultImage): Promise<ResolvedImage> => client.resolve(parseReference(image.ref));

/** `bad`: the layer that is wrong. */
async function refusedEverywhere(image: FaultImage, bad: number, code: ErrorCode): Promise<ErrorRecord> {
  const dir = newDir();
  const [index, mount] = [
    await engine.cli(['index', '--json', image.ref]),
    await engine.cli(['mount', '--json', image.ref, dir]),
  ];
  expect([errorOf(index).code, index.code]).toEqual([code, ERROR_KINDS[code].exit]);
  expect([errorOf(mount).code, mount.code]).toEqual([code, ERROR_KINDS[code].exit]);
  expect(errorOf(index).message).toContain(image.blobs[bad]?.digest);
  expect(existsSync(dir)).toBe(false);
  // A layer that was right may stay, whole and proven; of the bad one and of the image nothing does.
  const root = rootOf(image.tars[bad] as Buffer).slice('sha256:'.length);
  const stored = readdirSync(engine.root, { recursive: true }).map(String);
  expect(stored.filter((path) => path.endsWith('.draft') || path.includes(`${root}/`))).toEqual([]);
  const tables = stored.filter((path) => /^spans\/[0-9a-f]{64}$/.test(path));
  const blobs = tables.map((path) => SpanTable.decode(readFileSync(join(engine.root, path))).blobDigest);
  expect(blobs).not.toContain(image.blobs[bad]?.digest);
  expect(stored).not.toContain(`images/${image.layout.manifest.digest.slice('sha256:'.length)}/flat.erofs`);
  expect(await findSidecar(client, await resolve(image))).toBeUndefined();
  return errorOf(mount);
}

describe('a layer that is not what the manifest says', () => {
  it('cut short: index and mount refuse, nothing is pushed, nothing stays', async () => {
    const image = await push('short', 100);
    await spoil(image.blobs[1]?.digest as string, (bytes) => bytes.subarray(0, bytes.length - 100_000));
    // The registry breaks the connection. It may be ill, or the blob may be short, so the error says both.
    const error = await refusedEverywhere(image, 1, 'unavailable');
    expect(error.message).toMatch(/at byte \d+ of \d+/);
    expect(error.hint).toMatch(/push the image again/);
  });

  it('one flipped byte: index and mount refuse; put right again, both work', async () => {
    const image = await push('flipped', 200);
    await spoil(image.blobs[0]?.digest as string, (bytes) => flipped(bytes, bytes.length >> 1));
    await refusedEverywhere(image, 0, 'integrity');
    for (const step of undo.splice(0)) await step();
    const dir = newDir();
    await mountImage(engine, image.ref, dir);
    expect(await readInParallel({ root: dir, expected: image.expected, readers: 4 })).toMatchObject({
      failures: [],
    });
  });

  it.each(['gzip', 'plain'] as const)(
    'flipped after it was indexed (%s): EIO where a block cannot be proven, the rest is right',
    async (variant) => {
      const image = await push(`later-${variant}`, variant === 'gzip' ? 300 : 400, variant);
      expect((await engine.cli(['index', image.ref])).code).toBe(0);
      const blob = image.blobs[0]?.digest as string;
      const dir = newDir();
      await mountImage(engine, image.ref, dir);
      const table = await spanTableOf(engine.root, blob);
      const name = 'app/noise';
      const content = image.files.get(name) as Buffer;
      const start = offsetInTar(image.tars[0] as Buffer, content);
      // A span in the midst of the file, and a byte in the midst of the span.
      const span = table.span(table.spanOfBlock(Math.floor((start + content.length / 2) / table.blockSize)));
      const at = (span.inStart + span.inEnd) >> 1;
      await spoil(blob, (bytes) => flipped(bytes, at));

      const outcomes = await readPieces(join(dir, name), content, { exact: true });
      expect([...new Set(outcomes)].sort()).toEqual(['EIO', 'ok']);
      const bad = outcomes.flatMap((outcome, piece) => (outcome === 'ok' ? [] : [piece]));
      // Which blocks of the device does a page of the file lie in?
      const blocksOf = (piece: number) =>
        [start + piece * 4096, start + Math.min((piece + 1) * 4096, content.length) - 1].map((byte) =>
          Math.floor(byte / table.blockSize),
        );
      const firstBad = blocksOf(bad[0] as number)[1] as number;
      expect(firstBad).toBeGreaterThanOrEqual(span.firstBlock);
      if (variant === 'plain') expect(firstBad).toBe(Math.floor(at / table.blockSize));
      const last = span.firstBlock + span.blockCount - 1;
      // A span is decoded in order: what follows the bad byte within it is concerned, and nothing else is.
      const concerned = outcomes.flatMap((_, piece) => {
        const [from, to] = blocksOf(piece) as [number, number];
        return to >= firstBad && from <= last ? [piece] : [];
      });
      expect(bad).toEqual(concerned);
      const others = {
        ...image.expected,
        nodes: image.expected.nodes.filter((node) => node.path.toString() !== name),
      };
      expect(await readInParallel({ root: dir, expected: others, readers: 8 })).toMatchObject({
        failures: [],
      });
      const status = await imageOf(engine, image.ref);
      expect(status.reads.errors).toBeGreaterThan(0);
      expect(status.layers.map(({ state }) => state)).not.toContain('corrupt');

      // The registry is repaired: so is the mount, without anybody's doing. What was bad is remembered for a moment.
      for (const step of undo.splice(0)) await step();
      await eventually('the bad piece is read', async () => {
        const again = await readPieces(join(dir, name), content, {
          from: bad[0] as number,
          count: 1,
          exact: true,
        });
        return again[0] === 'ok';
      });
      expect(await readInParallel({ root: dir, expected: image.expected, readers: 8 })).toMatchObject({
        failures: [],
      });
      expect((await engine.cli(['unmount', dir])).code).toBe(0);
    },
  );
});

describe('a sidecar that is not what it should be', () => {
  interface Parts {
    layers: Array<{ mediaType: string; digest: string; size: number; annotations?: Record<string, string> }>;
  }
  const sidecarOf = async (image: FaultImage) => {
    const resolved = await resolve(image);
    const handle = await findSidecar(client, resolved);
    if (handle === undefined) throw new Error('no sidecar');
    const { bytes } = await client.manifest(resolved.reference, handle.descriptor.digest);
    return { resolved, handle, parts: JSON.parse(bytes.toString()) as Parts };
  };

  it.each([
    ['flat', 500],
    ['spans', 520],
    ['toc', 540],
  ] as const)(
    'one flipped byte in its %s: the reader of the blob gets an error, and the mount succeeds',
    async (kind, seed) => {
      const layers = twoLayers(seed);
      // Flat metadata that their descriptor does not carry as well.
      for (let n = 0; n < 200; n++)
        Object.assign(layers[0] ?? {}, {
          [`app/${noise(12, seed + n).toString('hex')}`]: Buffer.from(`${n}`),
        });
      const image = await push(`sidecar-${kind}`, seed, 'gzip', layers);
      expect((await engine.cli(['index', image.ref])).code).toBe(0);
      const { handle, parts } = await sidecarOf(image);
      expect(parts.layers.map(({ mediaType }) => mediaType).sort()).toEqual(
        [
          SIDECAR_TYPES.flat,
          SIDECAR_TYPES.spans,
          SIDECAR_TYPES.spans,
          SIDECAR_TYPES.toc,
          SIDECAR_TYPES.toc,
        ].sort(),
      );
      const part = parts.layers.find(({ mediaType }) => mediaType === SIDECAR_TYPES[kind]);
      if (part === undefined) throw new Error('no such part');
      await spoil(part.digest, (bytes) => flipped(bytes, bytes.length >> 1));
      const dir = newDir();
      const mount = await engine.cli(['mount', '--json', image.ref, dir]);
      expect([mount.code, mount.stdout]).toEqual([0, expect.any(String)]);
      if (kind === 'toc') {
        // Mounts do without tables of contents; their readers are told.
        const layer = image.blobs.findIndex(
          ({ digest }) => digest === part.annotations?.['io.cofa.layer.blob'],
        );
        await expect(handle.toc(layer)).rejects.toMatchObject({ code: 'integrity' });
        expect(JSON.parse(mount.stdout)).toMatchObject({ origin: 'sidecar' });
      } else {
        const inspect = await engine.cli(['inspect', '--json', image.ref]);
        expect([errorOf(inspect).code, inspect.code]).toEqual(['integrity', 6]);
        expect(errorOf(inspect).message).toContain(part.digest);
        expect(JSON.parse(mount.stdout)).toMatchObject({ origin: 'node', trust: 'proven' });
        expect(mount.stderr).toContain(part.digest);
        const { passed } = await imageOf(engine, image.ref);
        expect(passed).toEqual([
          { sidecar: handle.descriptor.digest, reason: expect.stringContaining(part.digest) },
        ]);
      }
      expect(await readInParallel({ root: dir, expected: image.expected, readers: 8 })).toMatchObject({
        failures: [],
      });
    },
  );

  it("another image's sidecar as a referrer is passed over: the node indexes for itself", async () => {
    const image = await push('victim', 600);
    const other = await push('other', 700);
    expect((await engine.cli(['index', other.ref])).code).toBe(0);
    const { resolved: theirs, parts } = await sidecarOf(other);
    const mine = await resolve(image);
    // Everything of the other's, pushed here, with a subject that says: this image.
    const { mediaType, digest, size } = mine.descriptor;
    for (const part of parts.layers) {
      await client.pushBlob(mine.reference, await client.blob(theirs.reference, part), part.mediaType);
    }
    await pushForged(mine, { ...parts, subject: { mediaType, digest, size } });
    const dir = newDir();
    expect(await mountImage(engine, image.ref, dir)).toMatchObject({ origin: 'node' });
    expect(await readInParallel({ root: dir, expected: image.expected, readers: 8 })).toMatchObject({
      failures: [],
    });
  });

  it("another layer's span table under this layer's name: the next sidecar is taken", async () => {
    const image = await push('swapped', 800);
    expect((await engine.cli(['index', image.ref])).code).toBe(0);
    const { resolved, parts } = await sidecarOf(image);
    const tables = parts.layers.filter(({ mediaType }) => mediaType === SIDECAR_TYPES.spans);
    const [first, second] = tables;
    const layers = parts.layers.map((part) =>
      part === first && second !== undefined
        ? {
            ...second,
            annotations: { ...part.annotations, 'io.cofa.size': `${second.annotations?.['io.cofa.size']}` },
          }
        : part,
    );
    // A higher revision is preferred.
    await pushForged(resolved, { ...parts, layers, annotations: { 'io.cofa.revision': '1000' } });
    const dir = newDir();
    expect(await mountImage(engine, image.ref, dir)).toMatchObject({ origin: 'sidecar' });
    const { passed } = await imageOf(engine, image.ref);
    expect(passed).toEqual([{ sidecar: expect.any(String), reason: expect.stringMatching(/span table/) }]);
    expect(await readInParallel({ root: dir, expected: image.expected, readers: 8 })).toMatchObject({
      failures: [],
    });
  });
});

async function pushForged(image: ResolvedImage, manifest: object): Promise<void> {
  const type = 'application/vnd.oci.image.manifest.v1+json';
  await client.pushBlob(image.reference, Buffer.from('{}'), 'application/vnd.oci.empty.v1+json');
  await client.pushManifest(image.reference, Buffer.from(JSON.stringify(manifest)), type);
}
