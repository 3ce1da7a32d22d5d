/** What files take on the disk. */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';

/** Bytes that the files below a folder take on the disk; what goes away meanwhile counts nothing. */
export async function treeBytes(folder: string): Promise<number> {
  const entries = await readdir(folder, { withFileTypes: true, recursive: true }).catch(() => []);
  let bytes = 0;
  for (const entry of entries) {
    if (!entry.isFile()) continue;
    bytes += await stat(join(entry.parentPath, entry.name)).then(
      ({ blocks }) => blocks * 512,
      () => 0,
    );
  }
  return bytes;
}
