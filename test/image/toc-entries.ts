/** Hand-made tables of contents for tests of what is made of them. Names in latin1. */
import type { Toc, TocEntry, Xattr } from '../../src/image/toc.ts';

export function entry(path: string, type: TocEntry['type'], more: Partial<TocEntry> = {}): TocEntry {
  return {
    path: Buffer.from(path, 'latin1'),
    type,
    mode: type === 'dir' ? 0o755 : 0o644,
    uid: 0,
    gid: 0,
    mtime: { sec: 1000, nsec: 0 },
    size: 0,
    link: Buffer.alloc(0),
    major: 0,
    minor: 0,
    xattrs: [],
    extents: [],
    patches: [],
    ...more,
  };
}

export const toc = (...entries: TocEntry[]): Toc => ({ entries });

export const dir = (path: string, more: Partial<TocEntry> = {}): TocEntry => entry(path, 'dir', more);

/** A file in one piece, by default from the second sector of its device on. */
export function file(path: string, size = 0, more: Partial<TocEntry> & { at?: number } = {}): TocEntry {
  const { at = 512, ...rest } = more;
  const extents = size === 0 ? [] : [{ fileOffset: 0, deviceOffset: at, length: size }];
  return entry(path, 'file', { size, extents, ...rest });
}

export const symlink = (path: string, target: string, more: Partial<TocEntry> = {}): TocEntry =>
  entry(path, 'symlink', { link: Buffer.from(target, 'latin1'), ...more });

export const hardlink = (path: string, target: string, more: Partial<TocEntry> = {}): TocEntry =>
  entry(path, 'hardlink', { link: Buffer.from(target, 'latin1'), ...more });

export const whiteout = (path: string): TocEntry => entry(path, 'whiteout', BARE);
export const opaque = (path: string): TocEntry => entry(path, 'opaque', BARE);

export const xattr = (name: string, value: string | Buffer): Xattr => [Buffer.from(name), Buffer.from(value)];

const BARE = { mode: 0, mtime: { sec: 0, nsec: 0 } };
