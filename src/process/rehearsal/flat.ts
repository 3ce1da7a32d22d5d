/**
 * The flat metadata of rehearsals: small, and with all that images commonly hold. What V8 has compiled without having met a kind
 * of inode it throws away when the first one comes, which would be in the middle of a start.
 */
import { buildFlat } from '../../image/erofs.ts';
import type { TocEntry } from '../../image/toc.ts';

const FOLDERS = 40;
const FILES = 30;
/** Names of a directory that has blocks of its own, and they a second one. */
const MANY = 80;
const NONE = Buffer.alloc(0);

/** For a layer of so many bytes. */
export function rehearsalFlat(diffId: string, size: number): Buffer {
  return buildFlat([{ entries: entries(size) }], [{ diffId, size }]).metadata;
}

function entries(bytes: number): TocEntry[] {
  const all: TocEntry[] = [];
  const add = (path: string, type: TocEntry['type'], more: Partial<TocEntry> = {}) => {
    const number = all.length;
    all.push({
      path: Buffer.from(path),
      type,
      mode: type === 'dir' || number % 5 === 0 ? 0o755 : 0o644,
      // V8 holds numbers above 2^30 otherwise.
      uid: number % 50 === 0 ? 3_000_000_000 : number % 7 === 0 ? 1_000 : 0,
      gid: number % 11 === 0 ? 100 : 0,
      mtime: { sec: 1_700_000_000 + number, nsec: number % 3 === 0 ? 123_456_789 : 0 },
      size: 0,
      link: NONE,
      major: 0,
      minor: 0,
      xattrs: [],
      extents: [],
      patches: [],
      ...more,
    });
  };
  const file = (path: string, number: number, more: Partial<TocEntry> = {}) => {
    const size = 200 + ((number * 37) % 3_000);
    const deviceOffset = ((number * 8) % (bytes / 512 - 8)) * 512;
    add(path, 'file', { size, extents: [{ fileOffset: 0, deviceOffset, length: size }], ...more });
  };
  for (let folder = 0; folder < FOLDERS; folder++) {
    const name = `folder-${folder}`;
    add(name, 'dir');
    for (let number = 0; number < FILES; number++) file(`${name}/file-${number}`, folder * FILES + number);
    add(`${name}/empty`, 'file');
    add(`${name}/link`, 'symlink', { mode: 0o777, link: Buffer.from('file-0') });
    add(`${name}/far`, 'symlink', { mode: 0o777, link: Buffer.from('../'.repeat(100 + folder)) });
    add(`${name}/hard`, 'hardlink', { link: Buffer.from(`${name}/file-1`) });
    add(`${name}/null`, 'char', { major: 1, minor: 3 });
    add(`${name}/fifo`, 'fifo');
    const xattrs = [[Buffer.from('user.note'), Buffer.from(`value ${folder % 4}`)] as const];
    file(`${name}/noted`, folder, { xattrs });
    const piece = { deviceOffset: 0, length: 512 };
    const extents = [0, 8_192].map((fileOffset) => ({ ...piece, fileOffset }));
    const patches = [{ fileOffset: 4_096, bytes: Buffer.alloc(512, 'x') }];
    add(`${name}/sparse`, 'file', { size: 20_000, extents, patches });
    add(`${name}/deep`, 'dir');
    add(`${name}/deep/er`, 'dir');
    file(`${name}/deep/er/file`, folder);
    if (folder % 8 !== 0) continue;
    add(`many-${folder}`, 'dir');
    for (let number = 0; number < MANY; number++) file(`many-${folder}/a-longer-name-${number}`, number);
  }
  return all;
}
