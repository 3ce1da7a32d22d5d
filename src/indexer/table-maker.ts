/** The process that makes the span table of one layer anew, from its blob; started by src/supervisor/images/rebuild.ts. */
import { writeFile } from 'node:fs/promises';
import { MAKING_TABLE, type NodeIndex, type TableOrder } from '../index/orders.ts';
import { indexedFrom } from '../index/rebuild-flat.ts';
import { serveForked } from '../process/forked.ts';
import { readSettings } from '../process/settings.ts';
import { RegistryClient } from '../registry/client.ts';
import { Layout } from '../store/layout.ts';

/** A sign of life after so many bytes. */
const NOTE_BYTES = 8 << 20;

/** `note`: called with the bytes so far, now and then. Errors: those of the registry, `integrity` where the blob is not the layer. */
async function makeTable(
  { root, layer, source }: TableOrder,
  note: (bytes: number) => void,
): Promise<NodeIndex['devices'][number]> {
  // When memory runs out the kernel kills this process before all others: it is only tried again.
  await writeFile('/proc/self/oom_score_adj', '1000').catch(() => {});
  const registry = new RegistryClient((await readSettings(root)).registry);
  let bytes = 0;
  const count = (more: number) => {
    if (Math.floor((bytes + more) / NOTE_BYTES) > Math.floor(bytes / NOTE_BYTES)) note(bytes + more);
    bytes += more;
  };
  try {
    return await indexedFrom(layer, source, { layout: new Layout(root), registry }, count);
  } finally {
    await registry.close();
  }
}

if (import.meta.main) await serveForked(MAKING_TABLE, makeTable);
