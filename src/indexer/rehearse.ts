/** What an indexer does with an image, as a rehearsal (src/process/rehearsal/rehearsal.ts). */
import { gzipSync } from 'node:zlib';
import { digestOf } from '../digest/digest.ts';
import { type Rehearsal, rehearse } from '../process/rehearsal/rehearsal.ts';
import { buildFlat } from '../image/erofs.ts';
import { decodeToc } from '../image/toc-codec.ts';
import { Pieces } from '../index/pieces.ts';
import { rehearsalTars } from '../index/rehearsal-tar.ts';
import type { ThreadPool } from '../index/thread-pool.ts';

/** Rounds in which the layers are written as devices, too: each is synced, and a disk may be slow. */
const WRITTEN = 2;

/** Every thread of the pool, which has nothing else to do, reads a layer in each round. Throws what goes wrong in it. */
export async function rehearseIndex(rehearsal: Rehearsal, pool: ThreadPool, threads: number): Promise<void> {
  const made = rehearsalTars().map((tar) => {
    const blob = gzipSync(tar, { level: 6 });
    return { blob, digest: digestOf(blob), diffId: digestOf(tar) };
  });
  let round = 0;
  await rehearse(rehearsal, async (image, layout) => {
    round += 1;
    const { client, registry, repository, layerDigest, layer } = image;
    // What brings the bytes: the registry's part is that of a real one.
    const source = { registry, repository };
    const bytes = new Pieces((signal) =>
      client.blobRange(source, { digest: layerDigest, size: layer.length }, 0, layer.length, signal),
    );
    for (let piece = await bytes.next(); piece !== undefined; piece = await bytes.next())
      bytes.giveBack(piece);
    bytes.close();
    const layers = await Promise.all(
      Array.from({ length: Math.max(threads, made.length) }, (_, at) => {
        const { blob, digest, diffId } = made[(round + at) % made.length] as (typeof made)[number];
        return pool.run(
          {
            blob: { digest, size: blob.length },
            diffId,
            ...(round <= WRITTEN ? { device: layout.in('devices', `${round}-${at}`) } : {}),
          },
          new Pieces(() => inParts(blob)),
        );
      }),
    );
    buildFlat(
      layers.map(({ toc }) => decodeToc(toc)),
      layers.map(({ diffId, rawSize }) => ({ diffId, size: rawSize })),
    );
  });
}

async function* inParts(bytes: Buffer): AsyncGenerator<Buffer, void, undefined> {
  for (let at = 0; at < bytes.length; at += 65_536) yield bytes.subarray(at, at + 65_536);
}
