/**
 * The process that rebuilds one flat image (src/index/rebuild-flat.ts) and compares it with the one in use; started by
 * src/supervisor/images/rebuild.ts.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { digestOf } from '../digest/digest.ts';
import { REBUILDING, type RebuilderOrder, type Rebuilt, rebuiltPath } from '../index/orders.ts';
import { rebuildFlat } from '../index/rebuild-flat.ts';
import { RegistryClient } from '../registry/client.ts';
import { Layout, writeWhole } from '../store/layout.ts';
import { serveForked } from '../process/forked.ts';
import { readSettings } from '../process/settings.ts';

/** A sign of life after so many bytes. */
const NOTE_BYTES = 8 << 20;

/** `note`: called with the bytes so far, now and then. Errors: those of `rebuildFlat`. */
async function rebuild(
  { root, manifest, expected, ...order }: RebuilderOrder,
  note: (bytes: number) => void,
): Promise<Rebuilt> {
  // When memory runs out the kernel kills this process before all others: it is only tried again.
  await writeFile('/proc/self/oom_score_adj', '1000').catch(() => {});
  const layout = new Layout(root);
  const registry = new RegistryClient((await readSettings(root)).registry);
  try {
    let noted = 0;
    const onProgress = (bytes: number) => {
      if (bytes - noted < NOTE_BYTES) return;
      noted = bytes;
      note(bytes);
    };
    const { metadata, devices } = await rebuildFlat(order, { layout, registry, onProgress });
    const flat = digestOf(metadata);
    const path = rebuiltPath(layout, manifest, expected !== undefined);
    if (flat === expected) return { flat, devices, difference: undefined, path };
    await writeWhole(path, metadata);
    // Only for the words: what is in the store may be another mount's by now.
    const inStore = await readFile(layout.flat(manifest)).catch(() => undefined);
    const isThere = inStore !== undefined && digestOf(inStore) === expected;
    return { flat, devices, difference: isThere ? differenceOf(inStore, metadata) : 'other metadata', path };
  } finally {
    await registry.close();
  }
}

/** The first difference of what is in use from what the layers give, in words. */
function differenceOf(inUse: Buffer, rebuilt: Buffer): string {
  const common = Math.min(inUse.length, rebuilt.length);
  let at = 0;
  while (at < common && inUse[at] === rebuilt[at]) at++;
  const sizes = inUse.length === rebuilt.length ? '' : `${inUse.length} bytes instead of ${rebuilt.length}, `;
  return `${sizes}first other byte at ${at}`;
}

if (import.meta.main) await serveForked(REBUILDING, rebuild);
