/** The process that rebuilds one flat image (src/index/rebuild-flat.ts) and compares it with the one in use. */
import { createHash } from 'node:crypto';
import { readFile, rm } from 'node:fs/promises';
import { setPriority } from 'node:os';
import { rebuildFlat } from '../index/rebuild-flat.ts';
import { RegistryClient } from '../registry/client.ts';
import { Layout, writeWhole } from '../store/layout.ts';
import { serveForked } from './forked.ts';
import type { RebuilderOrder, Rebuilt } from './rebuild.ts';

/** Nobody waits for it: whoever has something to do goes first. */
const NICE = 19;
/** A sign of life after so many bytes. */
const NOTE_BYTES = 8 << 20;

let noted = 0;
serveForked<RebuilderOrder, number, Rebuilt>(async ({ root, manifest, background, ...order }, note) => {
  if (background) setPriority(NICE);
  const layout = new Layout(root);
  const registry = new RegistryClient({});
  try {
    const onProgress = (bytes: number) => {
      if (bytes - noted < NOTE_BYTES) return;
      noted = bytes;
      note(bytes);
    };
    const { metadata, devices } = await rebuildFlat(order, { layout, registry, onProgress });
    const inUse = await readFile(layout.flat(manifest)).catch(() => undefined);
    const difference = inUse === undefined ? 'there is none' : differenceOf(inUse, metadata);
    const path = `${layout.flat(manifest)}.${background ? 'rebuilt' : 'own'}`;
    if (difference === undefined) await rm(path, { force: true });
    else await writeWhole(path, metadata);
    const flat = `sha256:${createHash('sha256').update(metadata).digest('hex')}`;
    return { flat, devices, difference, path };
  } finally {
    await registry.close();
  }
});

/** The first difference of what is in use from what the layers give, in words. */
function differenceOf(inUse: Buffer, rebuilt: Buffer): string | undefined {
  if (inUse.equals(rebuilt)) return undefined;
  const common = Math.min(inUse.length, rebuilt.length);
  let at = 0;
  while (at < common && inUse[at] === rebuilt[at]) at++;
  const sizes = inUse.length === rebuilt.length ? '' : `${inUse.length} bytes instead of ${rebuilt.length}, `;
  return `${sizes}first other byte at ${at}`;
}
