/** A startup pack of a liar: its header is right, and its blocks are zeros. */
import { decodePack, encodePack, type PackHeader } from '../../src/pack/format.ts';
import type { PackStore } from '../../src/pack/pack-store.ts';

type Kept = Awaited<ReturnType<PackStore['list']>>[number];

/** Puts such a pack into the place of the one that is kept. */
export async function spoilPack(store: PackStore, { name, manifest, start }: Kept): Promise<void> {
  const headers: PackHeader[] = [];
  await decodePack(
    store.read(name),
    (header) => void headers.push(header),
    () => {},
  );
  const [header] = headers;
  if (header === undefined) throw new Error(`the startup pack ${name} has no header`);
  await store.put(
    manifest,
    start,
    encodePack(header, (_device, _block, length) => Buffer.alloc(length)),
  );
}
