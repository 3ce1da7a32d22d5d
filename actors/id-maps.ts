/**
 * User namespaces: labels by which a client says which ids of the node the ids of a container are (containerd,
 * docs/user-namespaces).
 *
 * containerd asks whether a snapshotter's layers can be mounted with other ids (the capability `remap-ids`). It then maps the
 * folder that they have in common, without what is mounted below it, which is where flat images are: containers would start
 * without their files. So cofa does not say that it can. containerd makes a copy of the image with other owners instead, and
 * names it for them.
 */
import { SnapshotError } from './snapshots.ts';

export const MAP_LABELS = {
  uid: 'containerd.io/snapshot/uidmapping',
  gid: 'containerd.io/snapshot/gidmapping',
} as const;

/**
 * Takes labels on such a copy (`resolveSnapshotOptions` in containerd's client), which need nothing more. Errors:
 * `failed-precondition` where layers as they are would have to be mapped, `invalid-argument` for what is no map.
 */
export function checkMaps(labels: Readonly<Record<string, string>>, parent: string): void {
  const uid = labels[MAP_LABELS.uid] ?? '';
  const gid = labels[MAP_LABELS.gid] ?? '';
  if (uid === '' && gid === '') return;
  if (parent.endsWith(`-${hostRoot(uid)}-${hostRoot(gid)}`)) return;
  const message =
    'layers of cofa cannot be mounted with other ids, as --remap-labels wants it; without it containerd copies them';
  throw new SnapshotError('failed-precondition', message);
}

/** Which id of the node a container's 0 is, by `CONTAINER:HOST:SIZE,…`. */
function hostRoot(map: string): number {
  const ranges = map.split(',').map((range) => /^(\d{1,10}):(\d{1,10}):\d{1,10}$/.exec(range));
  const root = ranges.find((range) => Number(range?.[1]) === 0);
  if (root != null && ranges.every((range) => range !== null)) return Number(root[2]);
  throw new SnapshotError(
    'invalid-argument',
    `${JSON.stringify(map.slice(0, 100))} is no map of ids with a root`,
  );
}
