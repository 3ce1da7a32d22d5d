/** The process that unpacks one large part of a sidecar, and parses it; started by large-part.ts, ends when it has answered. */
import { readFile } from 'node:fs/promises';
import { digestOf } from '../digest/digest.ts';
import { checkFlat } from '../image/erofs-check.ts';
import { SpanTable } from '../image/span-table.ts';
import { type ToUnpacker, UNPACKING, type Unpacked } from '../index/orders.ts';
import { serveForked } from '../process/forked.ts';
import { unpackPart } from '../registry/unpack-part.ts';
import { Layout, writeWhole } from '../store/layout.ts';

async function unpack({ packed, size, blob, part }: ToUnpacker): Promise<Unpacked> {
  const bytes = await unpackPart(await readFile(packed), size, blob);
  const digest = digestOf(bytes);
  switch (part.kind) {
    case 'flat': {
      const { devices } = checkFlat(bytes);
      await writeWhole(part.target, bytes);
      return { digest, devices };
    }
    case 'spans': {
      const { rawSize, root } = SpanTable.of(bytes, part.layer);
      await writeWhole(new Layout(part.store).spans(digest), bytes);
      return { digest, table: { rawSize, root } };
    }
    case 'toc':
      await writeWhole(part.target, bytes);
      return { digest };
  }
}

if (import.meta.main) await serveForked(UNPACKING, unpack);
