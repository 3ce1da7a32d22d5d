/**
 * User namespaces: labels by which a client says which ids of the node the ids of a container are (containerd,
 * docs/user-namespaces). The layers below such a snapshot are mounted with these ids; what the container writes lies in
 * its own folder with the node's ids, as with containerd's overlayfs.
 *
 * A containerd that was not told that cofa can do that (the capability `remap-ids`) makes a copy of the image with other owners
 * instead, in the same snapshotter. That needs nothing more.
 */
import { type SnapshotFacts, SnapshotError, TARGET_LABEL } from './snapshots.ts';

export const MAP_LABELS = {
  uid: 'containerd.io/snapshot/uidmapping',
  gid: 'containerd.io/snapshot/gidmapping',
} as const;

export interface IdRange {
  container: number;
  host: number;
  size: number;
}

/** In the order of the labels. */
export interface IdMaps {
  uid: readonly IdRange[];
  gid: readonly IdRange[];
}

/** The kernel takes as many (user_namespaces(7)). */
const MOST_RANGES = 340;
/** The last one means "none". */
const MAX_ID = 2 ** 32 - 2;

/**
 * The maps of a snapshot with these labels; undefined where it has none. Errors: `invalid-argument` for labels that are no maps, and
 * where a container would have no root.
 */
export function idMapsOf(labels: Readonly<Record<string, string>>): IdMaps | undefined {
  const uid = labels[MAP_LABELS.uid] ?? '';
  const gid = labels[MAP_LABELS.gid] ?? '';
  if (uid === '' && gid === '') return undefined;
  const maps = { uid: rangesOf(uid), gid: rangesOf(gid) };
  if (hostIds(maps, { uid: 0, gid: 0 }) === undefined)
    throw new SnapshotError('invalid-argument', `the maps ${uid} and ${gid} have no place for a root`);
  return maps;
}

/** Which ids of the node a container's are; undefined where a map leaves one out. */
export function hostIds(
  { uid, gid }: IdMaps,
  ids: { uid: number; gid: number },
): { uid: number; gid: number } | undefined {
  const host = { uid: through(uid, ids.uid), gid: through(gid, ids.gid) };
  return host.uid === undefined || host.gid === undefined ? undefined : { uid: host.uid, gid: host.gid };
}

/** As labels have them: `CONTAINER:HOST:SIZE,…`. */
export const mapText = (ranges: readonly IdRange[]): string =>
  ranges.map(({ container, host, size }) => `${container}:${host}:${size}`).join(',');

/**
 * Whether a snapshot is the copy that containerd has made of the one below it for these ids: it is known by its name
 * (`resolveSnapshotOptions` in its client, `IMAGE-UID-GID` until 2.0, a digest since). `digest`: SHA-256 as `sha256:…`.
 */
export function isCopyFor(
  maps: IdMaps,
  { name, parent }: CopyNames,
  digest: (text: string) => string,
): boolean {
  const root = hostIds(maps, { uid: 0, gid: 0 });
  if (root !== undefined && name.endsWith(`-${root.uid}-${root.gid}`)) return true;
  const list = (ranges: readonly IdRange[]) =>
    ranges
      .toSorted((a, b) => a.container - b.container)
      .map(({ container, host, size }) => ({ containerID: container, hostID: host, size }));
  const IDMap = { UidMap: list(maps.uid), GidMap: list(maps.gid) };
  return parent.some((Parent) => name.endsWith(digest(JSON.stringify({ Parent, IDMap }))));
}

export interface CopyNames {
  name: string;
  /** What containerd may call the snapshot below. */
  parent: readonly string[];
}

/** containerd puts `NAMESPACE/NUMBER/` before the names that its clients use, and knows a layer that it did not unpack by a label. */
export function copyNames(facts: SnapshotFacts, below: SnapshotFacts | undefined): CopyNames {
  if (below === undefined) return { name: facts.name, parent: [] };
  const own = below.name.replace(/^[^/]*\/\d+\//, '');
  return { name: facts.name, parent: [own, below.labels[TARGET_LABEL] ?? own] };
}

function through(ranges: readonly IdRange[], id: number): number | undefined {
  const range = ranges.find(({ container, size }) => id >= container && id < container + size);
  return range === undefined ? undefined : range.host + id - range.container;
}

function rangesOf(text: string): IdRange[] {
  const parts = text.split(',');
  const ranges = parts.flatMap((part) => {
    const match = /^(\d{1,10}):(\d{1,10}):(\d{1,10})$/.exec(part);
    if (match === null) return [];
    const [container, host, size] = match.slice(1).map(Number) as [number, number, number];
    const isGood = size > 0 && container + size - 1 <= MAX_ID && host + size - 1 <= MAX_ID;
    return isGood ? [{ container, host, size }] : [];
  });
  const isGood =
    ranges.length === parts.length &&
    parts.length <= MOST_RANGES &&
    areApart(ranges.map(({ container, size }) => [container, size])) &&
    areApart(ranges.map(({ host, size }) => [host, size]));
  if (isGood) return ranges;
  throw new SnapshotError('invalid-argument', `${JSON.stringify(text.slice(0, 100))} is no map of ids`);
}

/** The kernel refuses ranges that overlap. */
function areApart(ranges: ReadonlyArray<readonly [first: number, size: number]>): boolean {
  const sorted = ranges.toSorted(([a], [b]) => a - b);
  return sorted.every(([first], at) => {
    const before = sorted[at - 1];
    return before === undefined || before[0] + before[1] <= first;
  });
}
