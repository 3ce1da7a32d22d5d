/** Takes span tables of a sidecar into the store; each is checked before anything uses it. */
import { digestOf } from '../../digest/digest.ts';
import { SpanTable } from '../../image/span-table.ts';
import type { ResolvedImage } from '../../registry/client.ts';
import type { SidecarHandle } from '../../registry/sidecars.ts';
import type { LaterSync } from '../../store/later-sync.ts';
import type { Layout } from '../../store/layout.ts';
import { isLarge, takeLarge } from './large-part.ts';

/** A table lies in the store under its own digest: one that nothing names in the end is swept up. */
export interface StoredTable {
  /** Bytes of the layer's tar. */
  size: number;
  root: string;
  table: string;
}

interface TableSource {
  layout: Layout;
  files: LaterSync;
  image: ResolvedImage;
  sidecar: SidecarHandle;
}

/** `at` counts the image's layers; `came`: its bytes are here. Error `integrity` for a table that is another layer's. */
export async function takeTable(
  { layout, files, image, sidecar }: TableSource,
  at: number,
  came: () => void = () => {},
): Promise<StoredTable> {
  const layer = image.layers[at] as ResolvedImage['layers'][number];
  const part = { kind: 'spans', layer: at } as const;
  if (isLarge(sidecar, part)) {
    const { diffId, blob } = layer;
    const { digest, size } = blob;
    const order = { kind: 'spans', store: layout.root, layer: { diffId, blob: { digest, size } } } as const;
    const { digest: table, table: said } = await takeLarge(layout, sidecar, part, order, came);
    if (said === undefined) throw new Error('a span table was unpacked that says nothing');
    return { size: said.rawSize, root: said.root, table };
  }
  return await sidecar.use(part, async (bytes) => {
    came();
    const { rawSize: size, root } = SpanTable.of(bytes, layer);
    const table = digestOf(bytes);
    await files.write(layout.spans(table), bytes);
    return { size, root, table };
  });
}
