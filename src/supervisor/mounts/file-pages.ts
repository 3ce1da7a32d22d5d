/**
 * The page cache above a mount. Pages that a reader got from a damaged block stay there when the block has been taken out,
 * so the files that have a part of it lose their pages. Those that a process has mapped stay until it ends: the kernel
 * gives no way to take them.
 */
import { constants } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { layerIdOf } from '../../../actors/device.ts';
import { dropPages } from '../../kernel/page-cache.ts';
import { extentsOf } from '../../image/file-paths.ts';
import type { Layout } from '../../store/layout.ts';
import type { Images } from '../images/images.ts';
import type { Mounts } from './mounts.ts';

const BLOCK_SIZE = 65_536;

/** Drops the pages of all files in all mounts that lie in these blocks of the layer of this id, where no process has them mapped. */
export async function dropFilePages(
  layer: string,
  ranges: ReadonlyArray<readonly [number, number]>,
  { layout, images, mounts }: { layout: Layout; images: Images; mounts: Mounts },
): Promise<void> {
  for (const { dir, manifest, state } of mounts.list()) {
    const devices = images.get(manifest)?.prepared?.devices ?? [];
    const device = devices.find((one) => layerIdOf(one) === layer);
    if (state !== 'mounted' || device === undefined) continue;
    const extents = extentsOf(await readFile(layout.flat(manifest))).get(device.diffId) ?? [];
    const paths = new Set<string>();
    for (const { from, to, path } of extents) {
      const isIn = ranges.some(
        ([first, count]) => from < (first + count) * BLOCK_SIZE && to > first * BLOCK_SIZE,
      );
      if (isIn) paths.add(path);
    }
    for (const path of paths) await dropPagesOf(`${dir}${path}`);
  }
}

async function dropPagesOf(path: string): Promise<void> {
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW).catch(() => undefined);
  // Something else may have been mounted above it meanwhile.
  if (file === undefined) return;
  try {
    await dropPages(file.fd, 0, 0);
  } finally {
    await file.close();
  }
}
