/** What an indexer does with an image, as a rehearsal (src/engine/rehearsal.ts). */
import { createHash, randomBytes } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { type Rehearsal, rehearse } from '../engine/rehearsal.ts';
import { buildFlat } from '../image/erofs.ts';
import { decodeToc } from '../image/toc-codec.ts';
import { Pieces } from './pieces.ts';
import type { ThreadPool } from './thread-pool.ts';

/** Of the layer that is made for it: enough for a few spans, and for the loops over windows and headers. */
const FILES = 400;
const FILE_BYTES = 8_192;
/** Rounds in which the layers are written as devices, too: each is synced, and a disk may be slow. */
const WRITTEN = 2;

/** Every thread of the pool, which has nothing else to do, reads a layer in each round. Throws what goes wrong in it. */
export async function rehearseIndex(rehearsal: Rehearsal, pool: ThreadPool, threads: number): Promise<void> {
  const tar = rehearsalTar();
  const blob = gzipSync(tar, { level: 6 });
  const diffId = digestOf(tar);
  const digest = digestOf(blob);
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
      Array.from({ length: threads }, (_, at) =>
        pool.run(
          {
            blob: { digest, size: blob.length },
            diffId,
            ...(round <= WRITTEN ? { device: layout.in('devices', `${round}-${at}`) } : {}),
          },
          new Pieces(() => inParts(blob)),
        ),
      ),
    );
    buildFlat(
      layers.map(({ toc }) => decodeToc(toc)),
      layers.map(({ rawSize }) => ({ diffId, size: rawSize })),
    );
  });
}

async function* inParts(bytes: Buffer): AsyncGenerator<Buffer, void, undefined> {
  for (let at = 0; at < bytes.length; at += 65_536) yield bytes.subarray(at, at + 65_536);
}

/** Files of which half is noise and half is text, as a tar (POSIX.1-1988). */
function rehearsalTar(): Buffer {
  const text = Buffer.alloc(FILE_BYTES / 2, 'a line of text, again and again, with a number or two: ');
  const parts: Buffer[] = [];
  for (let file = 0; file < FILES; file++) {
    const header = Buffer.alloc(512);
    header.write(`folder-${file % 20}/file-${file}`, 0);
    header.write([0o644, 0, 0].map((value) => octal(value, 7)).join(''), 100);
    header.write(`${octal(FILE_BYTES, 11)}${octal(0, 11)}        0`, 124);
    header.write('ustar\x0000', 257);
    const sum = header.reduce((all, byte) => all + byte, 0);
    header.write(`${octal(sum, 6)} `, 148);
    parts.push(header, randomBytes(FILE_BYTES / 2), text);
  }
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}

const octal = (value: number, digits: number) => `${value.toString(8).padStart(digits, '0')}\0`;
const digestOf = (bytes: Buffer) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
