/** The table of contents of a layer that is one file as it is: the file begins with the layer's first byte. */
import type { LayerFile } from '../../schemas/events.ts';
import { CofaError } from '../../schemas/errors.ts';
import { MAX_FILE_SIZE } from './toc-limits.ts';
import type { Toc, TocEntry } from './toc.ts';

/** `size`: bytes of the layer. Errors: `unsupported` for a file that no file system holds. */
export function tocOfFile(file: LayerFile, size: number): Toc {
  if (size > MAX_FILE_SIZE)
    throw new CofaError('unsupported', `${file.path} has ${size} bytes; the limit is ${MAX_FILE_SIZE}`);
  return { entries: [entryOf(file, size)] };
}

const entryOf = ({ path, mode, uid, gid, mtime }: LayerFile, size: number): TocEntry => ({
  path: Buffer.from(path),
  type: 'file',
  mode,
  uid,
  gid,
  mtime: { sec: mtime, nsec: 0 },
  size,
  link: Buffer.alloc(0),
  major: 0,
  minor: 0,
  xattrs: [],
  extents: size === 0 ? [] : [{ fileOffset: 0, deviceOffset: 0, length: size }],
  patches: [],
});
