/**
 * Names in a layer: brought to one form, confined to the image's root, and told apart from whiteouts.
 *
 * `..` is resolved as text and stops at the root, as in containerd (`filepath.Clean`, `fs.RootPath`) and umoci
 * (`CleanPath`); layer-tree.ts resolves components that are symlinks. Docker's own unpacker refuses a name that leads
 * out of the root; here it cannot lead out.
 *
 * Whiteouts: image-spec layer.md, "Whiteouts". Other names that begin with `.wh..wh.` belong to AUFS and name nothing
 * that an image contains.
 */

/** Linux: PATH_MAX with its NUL, NAME_MAX. */
export const MAX_PATH = 4095;
export const MAX_NAME = 255;

/**
 * The path relative to the root: no leading or trailing `/`, no empty, `.` or `..` component; the root itself
 * is empty. A view into `name` where it needs no change.
 */
export function normalisePath(name: Buffer): Buffer {
  let start = 0;
  let end = name.length;
  while (name[start] === SLASH || (name[start] === DOT && name[start + 1] === SLASH)) {
    start += name[start] === SLASH ? 1 : 2;
  }
  while (end > start && name[end - 1] === SLASH) end--;
  const path = name.subarray(start, end);
  return hasOddComponent(path) ? resolved(path) : path;
}

/** Why `path` is not what `normalisePath` makes, or cannot exist on Linux; undefined if it is fine. */
export function pathProblem(path: Buffer): string | undefined {
  if (path.length === 0) return undefined;
  if (path.length > MAX_PATH) return `a path of ${path.length} bytes`;
  if (path.includes(0)) return 'a NUL in a path';
  let start = 0;
  for (let at = 0; at <= path.length; at++) {
    if (at < path.length && path[at] !== SLASH) continue;
    const length = at - start;
    if (length > MAX_NAME) return `a name of ${length} bytes`;
    if (
      length === 0 ||
      (path[start] === DOT && (length === 1 || (length === 2 && path[start + 1] === DOT)))
    ) {
      return 'a path that is not normalised';
    }
    start = at + 1;
  }
  return undefined;
}

export type LayerName =
  | { kind: 'plain'; path: Buffer }
  | { kind: 'whiteout'; path: Buffer }
  | { kind: 'opaque'; path: Buffer }
  /** AUFS's own: left out. */
  | { kind: 'aufs'; path: Buffer }
  /** A whiteout of nothing, of `.` or of `..`. */
  | { kind: 'bad'; path: Buffer };

/** What a normalised path in a layer stands for. */
export function classify(path: Buffer): LayerName {
  const slash = path.lastIndexOf(SLASH);
  const start = slash + 1;
  // AUFS keeps its own folders in the root of a layer.
  if (slash > 0 && startsWith(path, 0, AUFS)) return { kind: 'aufs', path };
  if (path[start] !== DOT || !startsWith(path, start, WHITEOUT)) return { kind: 'plain', path };
  const parent = path.subarray(0, Math.max(slash, 0));
  if (startsWith(path, start, OPAQUE) && path.length - start === OPAQUE.length) {
    return { kind: 'opaque', path: parent };
  }
  if (startsWith(path, start, AUFS)) return { kind: 'aufs', path };
  const name = path.subarray(start + WHITEOUT.length);
  if (name.length === 0 || name.equals(ONE_DOT) || name.equals(TWO_DOTS)) return { kind: 'bad', path };
  return { kind: 'whiteout', path: Buffer.concat([path.subarray(0, start), name]) };
}

const SLASH = 0x2f;
const DOT = 0x2e;
const ONE_DOT = Buffer.from('.');
const TWO_DOTS = Buffer.from('..');
const WHITEOUT = Buffer.from('.wh.');
const AUFS = Buffer.from('.wh..wh.');
const OPAQUE = Buffer.from('.wh..wh..opq');

function startsWith(path: Buffer, start: number, prefix: Buffer): boolean {
  return (
    path.length - start >= prefix.length &&
    path.compare(prefix, 0, prefix.length, start, start + prefix.length) === 0
  );
}

/** Whether a component is empty, `.` or `..`. */
function hasOddComponent(path: Buffer): boolean {
  for (let start = 0; start < path.length; ) {
    const first = path[start];
    if (first === SLASH) return true;
    if (first === DOT) {
      const second = path[start + 1];
      if (second === undefined || second === SLASH) return true;
      const third = path[start + 2];
      if (second === DOT && (third === undefined || third === SLASH)) return true;
    }
    const slash = path.indexOf(SLASH, start);
    if (slash < 0) return false;
    start = slash + 1;
  }
  return false;
}

function resolved(path: Buffer): Buffer {
  const kept: string[] = [];
  for (const name of path.toString('latin1').split('/')) {
    if (name === '..') kept.pop();
    else if (name !== '' && name !== '.') kept.push(name);
  }
  return Buffer.from(kept.join('/'), 'latin1');
}
