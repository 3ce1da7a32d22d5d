import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { MessageChannel } from 'node:worker_threads';
import { gzipSync } from 'node:zlib';
import { afterAll, expect, test } from 'vitest';
import { BlockStates } from '../../src/image/block-states.ts';
import { indexLayer, type LayerIndex } from '../../src/image/index-layer.ts';
import { HashBeside, hashFor } from '../../src/index/hash-beside.ts';
import { Pieces } from '../../src/index/pieces.ts';
import { ThreadPool } from '../../src/index/thread-pool.ts';
import { Layout } from '../../src/store/layout.ts';
import { inPieces, layerTar, sha256 } from '../image/layer-blobs.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

const MIB = 2 ** 20;
// More segments than there are buffers, and a last one that is short.
const raw = layerTar(11, 9.3 * MIB);
const blob = gzipSync(raw, { level: 1 });

test('a layer that another thread hashes has the same table, and the same bytes are written', async () => {
  const written: Buffer[] = [];
  const beside = await withHash((hashBeside) =>
    indexLayer(inPieces(blob, 2), {
      hashBeside,
      expect: { diffId: sha256(raw) },
      onRaw: (_, bytes) => void written.push(Buffer.from(bytes)),
    }),
  );
  const alone = await indexLayer(inPieces(blob, 1));
  expect(sha256(Buffer.concat(written))).toBe(sha256(raw));
  expect(beside.spans.encode().equals(alone.spans.encode())).toBe(true);
  expect(beside.toc).toEqual(alone.toc);
});

test('no byte is overwritten before it has been hashed, however slow that is', async () => {
  const states = new BlockStates();
  let last = Promise.resolve();
  const hashBeside = {
    update: (bytes: Buffer) => {
      last = last.then(() => sleep(3)).then(() => states.update(bytes));
      return last;
    },
    finish: async () => states.finish(),
  };
  const { diffId } = await indexLayer(inPieces(blob, 6), { hashBeside });
  expect(diffId).toBe(sha256(raw));
});

test('a tar that is not what the image says fails there, too', async () => {
  const wrong = sha256(Buffer.from('another one'));
  const indexed = withHash((hashBeside) =>
    indexLayer(inPieces(blob, 3), { hashBeside, expect: { diffId: wrong } }),
  );
  await expect(indexed).rejects.toMatchObject({ code: 'integrity', message: /the tar's digest is/ });
});

test('the layer fails when the thread that hashes for it ends', async () => {
  const { port1, port2 } = new MessageChannel();
  const hashBeside = new HashBeside(port1);
  let segments = 0;
  port2.on('message', () => {
    segments += 1;
    if (segments === 3) port2.close();
    else port2.postMessage({ kind: 'hashed' }, []);
  });
  await expect(indexLayer(inPieces(blob, 4), { hashBeside })).rejects.toMatchObject({
    message: /the thread that hashed a layer has ended/,
  });
});

test('an idle thread of the pool hashes, and takes jobs of its own meanwhile', async () => {
  const layout = new Layout(await cleanup.tempDir('beside'));
  await layout.prepare();
  const pool = new ThreadPool(2);
  cleanup.defer(() => pool.close());
  const small = layerTar(12, 0.2 * MIB);
  const job = (tar: Buffer, hashBeside: boolean) => {
    const bytes = gzipSync(tar, { level: 1 });
    return pool.run(
      {
        blob: { digest: sha256(bytes), size: bytes.length },
        diffId: sha256(tar),
        store: layout.root,
        hashBeside,
      },
      new Pieces(() => inPieces(bytes, 5)),
    );
  };
  const layers = await Promise.all([job(raw, true), job(small, false)]);
  for (const [at, tar] of [raw, small].entries()) {
    const { root, rawSize } = layers[at] as (typeof layers)[number];
    expect(rawSize).toBe(tar.length);
    const device = await readFile(layout.device(root));
    expect(device.subarray(0, tar.length).equals(tar)).toBe(true);
  }
});

async function withHash(work: (hash: HashBeside) => Promise<LayerIndex>): Promise<LayerIndex> {
  const { port1, port2 } = new MessageChannel();
  hashFor(port2);
  const hash = new HashBeside(port1);
  try {
    return await work(hash);
  } finally {
    hash.close();
  }
}
