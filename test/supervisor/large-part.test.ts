/** A sidecar of 110,000 files: its metadata are unpacked and parsed by a process of its own, and nothing else changes. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { zstdCompressSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { digestOf } from '../../src/digest/digest.ts';
import type { TocEntry } from '../../src/image/toc.ts';
import { type ToUnpacker, UNPACKING } from '../../src/index/orders.ts';
import { runForked } from '../../src/process/forked.ts';
import { pushSidecar, type Sidecar } from '../../src/registry/sidecars.ts';
import { LaterSync } from '../../src/store/later-sync.ts';
import { Layout, writeWhole } from '../../src/store/layout.ts';
import { chooseSidecar } from '../../src/supervisor/images/sidecar-choice.ts';
import { layerTar } from '../image/layer-blobs.ts';
import { type GenuineLayer, genuineLayer } from '../support/attacker/layer.ts';
import { HostileRegistry } from '../support/attacker/registry.ts';
import { honestSidecar } from '../support/attacker/sidecars.ts';
import { entry } from '../image/toc-entries.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

const registry = new HostileRegistry();
cleanup.defer(() => registry.close());
let layer: GenuineLayer;
let sidecar: Sidecar;

/** Empty files of long names, in folders of a thousand. */
function manyFiles(count: number): TocEntry[] {
  return Array.from({ length: count / 1_000 }, (_, folder) => [
    entry(`d${folder}`, 'dir'),
    ...Array.from({ length: 1_000 }, (_, file) => entry(`d${folder}/${'n'.repeat(240)}${file}`, 'file')),
  ]).flat();
}

beforeAll(async () => {
  layer = await genuineLayer(layerTar(5, 100_000), 'none');
  const entries = [...layer.toc.entries, ...manyFiles(110_000)];
  sidecar = { ...honestSidecar([{ ...layer, toc: { entries } }]), layers: honestSidecar([layer]).layers };
});

async function choose(name: string, pushed: Sidecar) {
  const layout = new Layout(await cleanup.tempDir('large-part'));
  await layout.prepare();
  const image = await registry.pushImage(name, [layer]);
  await pushSidecar(registry, image, pushed);
  const passed: string[] = [];
  const { prepared } = await chooseSidecar({
    layout,
    files: new LaterSync(),
    registry,
    manifest: image.descriptor.digest,
    image,
    policy: 'registry',
    known: undefined,
    roots: new Map(),
    signers: undefined,
    refuted: { flat: undefined, sidecars: new Set() },
    onPassed: (sentence) => passed.push(sentence),
  });
  const drafts = (await readdir(layout.root, { recursive: true })).filter((path) => path.endsWith('.draft'));
  return { layout, prepared, passed, drafts, flat: layout.flat(image.descriptor.digest) };
}

describe('flat metadata of more than 32 MiB', () => {
  test('are taken, and lie in the store', async () => {
    expect(sidecar.flat.length).toBeGreaterThan(32 << 20);
    let started = 0;
    const note = () => void (started += 1);
    subscribe('child_process', note);
    const { prepared, passed, drafts, flat } = await choose('sound', sidecar);
    expect(passed).toEqual([]);
    expect(prepared).toMatchObject({
      flat: digestOf(sidecar.flat),
      devices: [{ diffId: layer.diffId, root: layer.spans.root, size: layer.rawSize }],
    });
    expect((await readFile(flat)).equals(sidecar.flat)).toBe(true);
    expect(drafts).toEqual([]);
    unsubscribe('child_process', note);
    // The one part that is large, and no other.
    expect(started).toBe(1);
  });

  test('with a byte of theirs changed are passed over, and leave nothing', async () => {
    const forged = Buffer.from(sidecar.flat);
    forged.writeUInt8((forged[5_000_000] as number) ^ 1, 5_000_000);
    const { prepared, passed, drafts, flat } = await choose('forged', { ...sidecar, flat: forged });
    expect(prepared).toBeUndefined();
    expect(passed).toEqual([expect.stringContaining('its UUID is not that of its bytes')]);
    expect(drafts).toEqual([]);
    await expect(readFile(flat)).rejects.toMatchObject({ code: 'ENOENT' });
  });
});

describe('the process that unpacks', () => {
  const unpack = async (bytes: Buffer, part: (folder: string) => ToUnpacker['part'], memoryMiB = 1_280) => {
    const folder = await cleanup.tempDir('unpacker');
    const packed = join(folder, 'packed');
    await writeWhole(packed, zstdCompressSync(bytes));
    const blob = { digest: layer.diffId, mediaType: 'a part' };
    return await runForked(
      UNPACKING,
      { packed, size: bytes.length, blob, part: part(folder) },
      {
        program: new URL('../../src/indexer/unpacker.ts', import.meta.url),
        what: 'the unpacker',
        heapMiB: 512,
        memoryMiB,
        silenceMs: 30_000,
      },
    );
  };

  test('stores a table under its own digest, and refuses that of another layer', async () => {
    const { diffId, blobDigest: digest, blobSize: size, spans } = layer;
    const table = spans.encode();
    const order = (diffId: string) => (store: string) =>
      ({ kind: 'spans', store, layer: { diffId, blob: { digest, size } } }) as const;
    expect(await unpack(table, order(diffId))).toEqual({
      digest: digestOf(table),
      table: { rawSize: layer.rawSize, root: spans.root },
    });
    await expect(unpack(table, order(digestOf(table)))).rejects.toMatchObject({ code: 'integrity' });
  });

  test('ends where it would take more memory than it may, and says so', async () => {
    const toc = (folder: string) => ({ kind: 'toc', target: join(folder, 'toc') }) as const;
    const bytes = Buffer.alloc(250 << 20);
    expect(await unpack(bytes, toc)).toMatchObject({ digest: digestOf(bytes) });
    await expect(unpack(bytes, toc, 64)).rejects.toMatchObject({
      code: 'internal',
      message: expect.stringContaining('there is no memory for blob'),
    });
  });
});
