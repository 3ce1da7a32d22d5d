/** What files take on the disk. */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';

/** Bytes that files in a folder take on the disk that are not written to their end: `….draft`. */
export async function draftBytes(folder: string): Promise<number> {
  const names = await readdir(folder).catch(() => []);
  const drafts = names.filter((name) => name.endsWith('.draft'));
  const sizes = await Promise.all(drafts.map((name) => bytesOf(join(folder, name))));
  return sizes.reduce((sum, bytes) => sum + bytes, 0);
}

const bytesOf = (path: string): Promise<number> =>
  stat(path).then(
    ({ blocks }) => blocks * 512,
    () => 0,
  );

/** Bytes that the files below a folder take on the disk; what goes away meanwhile counts nothing. */
export async function treeBytes(folder: string): Promise<number> {
  const entries = await readdir(folder, { withFileTypes: true, recursive: true }).catch(() => []);
  let bytes = 0;
  for (const entry of entries) {
    if (!entry.isFile()) continue;
    bytes += await bytesOf(join(entry.parentPath, entry.name));
  }
  return bytes;
}
