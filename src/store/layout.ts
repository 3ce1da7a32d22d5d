/**
 * Where things lie below the root (default /var/lib/cofa). Everything is named by digest, so two images share what
 * they have in common and nothing is ever changed under its name.
 *
 *     run/                    of this start only: endpoint.json, lock, nats.conf, sockets, devices/ (the FUSE mount),
 *                             rehearsal-<process>/ for some seconds; of every start: nats.pem (key and certificate), label
 *     layers/<layer>/device   the layer device: the uncompressed tar, sparse until its blocks have come. A layer's id is the
 *                             block root of its span table: two tables that disagree never share a device
 *     spans/<table>           span table of a layer, by its own digest
 *     tocs/<diffID>           table of contents of a layer (only where this node built it)
 *     images/<manifest>/      flat.erofs, manifest.json, config.json; hints where its sidecar has some
 *     snapshots/<id>/         containerd's snapshots: fs/ (upper or lower folder), work/
 *     flats/<ChainID>         mount point of a flat image that snapshots stand on
 *     mapped/<maps>/<name>    the same, and snapshots/, with the ids of a user namespace
 *     blobs/                  FUSE mount of layers' blobs that containerd's content store links to
 *     hidden-blobs            written by cofa uninstall: containerd's namespaces whose clients are shown no such blobs
 *     podman/                 podman's additional image store: what podman, buildah and CRI-O read (src/supervisor/podman)
 *     containers/<id>/        overlay and bundle of a running container
 *     nats/                   JetStream's files: the event log
 *     log/                    one file a process
 *     incidents/              stretches of the event log around what went wrong (src/incidents/folder.ts)
 *     fleet/                  pieces of blobs that a member of a fleet keeps for others (src/fleet/piece-store.ts)
 *     trusted-sidecars        written by the user: digests of sidecars that policy `own` takes unproven
 *
 * (hex digits only in the names: `sha256:` is left out. Images that a cofa without block roots has prepared have devices
 * that bear the diffID, and span tables that bear the blob's digest.)
 */
import { chmod, type FileHandle, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { hexOf } from '../../schemas/digest.ts';
import { CofaError } from '../../schemas/errors.ts';
import { DiskRoom } from './disk-room.ts';

const FOLDERS = ['run', 'layers', 'spans', 'tocs', 'images', 'flats', 'containers', 'nats', 'log'] as const;
/** Made by others, or when they are needed. */
const LATER_FOLDERS = ['snapshots', 'mapped', 'discarded', 'runc', 'incidents', 'podman'] as const;

export class Layout {
  readonly root: string;
  constructor(root: string) {
    this.root = root;
  }

  readonly in = (...parts: string[]): string => join(this.root, ...parts);
  endpoint = (): string => this.in('run/endpoint.json');
  lock = (): string => this.in('run/lock');
  /** The word by which this engine knows its loop devices (src/supervisor/start/leftovers.ts). */
  label = (): string => this.in('run/label');
  devices = (): string => this.in('run/devices');
  /** Who offers the FUSE mount of an engine that makes room (src/fuse/hand-over.ts). */
  handOver = (): string => this.in('run/hand-over.json');
  /** Process id of the engine whose place another one took with `cofa up --take-over`: that is no crash. */
  replaced = (): string => this.in('run/replaced');
  /**
   * Where supervisor and front end answer without NATS; `credentials`: the supervisor's desk for these; `fleet`: what the node's
   * member of a fleet says of itself; `pieces`: its door for processes that read blobs.
   */
  socket = (name: 'supervisor' | 'front-end' | 'credentials' | 'fleet' | 'pieces'): string =>
    this.in('run', `${name}.sock`);
  device = (layer: string): string => this.in('layers', hexOf(layer), 'device');
  /** Where a layer's device lies while it is written, and its id is not known yet. */
  deviceDraft = (diffId: string, token: string): string =>
    this.in('layers', `${hexOf(diffId)}.${token}.draft`);
  spans = (table: string): string => this.in('spans', hexOf(table));
  toc = (diffId: string): string => this.in('tocs', hexOf(diffId));
  image = (manifest: string): string => this.in('images', hexOf(manifest));
  flat = (manifest: string): string => join(this.image(manifest), 'flat.erofs');
  hints = (manifest: string): string => join(this.image(manifest), 'hints');
  config = (manifest: string): string => join(this.image(manifest), 'config.json');
  manifest = (manifest: string): string => join(this.image(manifest), 'manifest.json');
  snapshots = (): string => this.in('snapshots');
  flats = (): string => this.in('flats');
  flatMount = (chain: string): string => this.in('flats', hexOf(chain));
  mapped = (): string => this.in('mapped');
  blobs = (): string => this.in('blobs');
  podman = (): string => this.in('podman');
  /** Namespaces of containerd whose clients are shown no such blobs (hidden-blobs.ts). */
  hiddenBlobs = (): string => this.in('hidden-blobs');
  trustedSidecars = (): string => this.in('trusted-sidecars');
  /** What containers left that have ended, until it is gone. */
  discarded = (): string => this.in('discarded');
  incidents = (): string => this.in('incidents');
  log = (name: string): string => this.in('log', `${name}.log`);

  /**
   * Makes the folders. They are for root alone, whatever made them, since layers hold secrets and images hold setuid
   * programs; the root itself may be another's, such as a hostPath of kubelet's, which makes it 0755. Error
   * `environment` where others may write into the root: they could put folders of their own in the place of these.
   */
  async prepare(): Promise<void> {
    for (const name of FOLDERS) await mkdir(this.in(name), { recursive: true, mode: 0o700 });
    const writers = await this.writers();
    if (writers !== undefined)
      throw new CofaError('environment', `${this.root} may be written by ${writers}`, {
        hint: `chown root ${this.root} && chmod go-w ${this.root}`,
      });
    for (const path of await this.opened()) await chmod(path, 0o700);
  }

  /** Who else may write into the root, in words; undefined: only root, or whose process this is. */
  async writers(): Promise<string | undefined> {
    const { mode, uid } = await stat(this.root);
    if (uid !== 0 && uid !== process.getuid?.()) return `the user ${uid}, whose folder it is`;
    return (mode & 0o022) === 0 ? undefined : 'others than its owner';
  }

  /** Folders of cofa in the root that others than their owner may enter. */
  async opened(): Promise<string[]> {
    const found: string[] = [];
    for (const path of [...FOLDERS, ...LATER_FOLDERS].map((name) => this.in(name))) {
      const there = await stat(path).catch(() => undefined);
      if (there?.isDirectory() === true && (there.mode & 0o077) !== 0) found.push(path);
    }
    return found;
  }
}

/**
 * Removes the drafts of processes that were killed while they wrote (`writeWhole`). For whoever has the root to itself;
 * returns how many there were.
 */
export async function removeDrafts(layout: Layout): Promise<number> {
  let removed = 0;
  const clean = async (folder: string, depth: number): Promise<void> => {
    for (const entry of await readdir(folder, { withFileTypes: true }).catch(() => [])) {
      const path = join(folder, entry.name);
      if (entry.isDirectory() && depth > 0) await clean(path, depth - 1);
      else if (entry.isFile() && entry.name.endsWith('.draft')) {
        await rm(path, { force: true });
        removed += 1;
      }
    }
  };
  await clean(layout.root, 0);
  await clean(layout.in('run'), 0);
  await clean(layout.incidents(), 0);
  for (const name of ['spans', 'tocs']) await clean(layout.in(name), 0);
  await clean(layout.in('images'), 1);
  return removed;
}

let drafts = 0;

/** What is smaller may take of the log's room, bytes: an engine has to come up on a full disk as well. */
const SMALL_FILE = 64 * 1024;

/** Writes a file so that it is there whole and synced, or not at all. Error `no-space` also where it would take the log's room. */
export async function writeWhole(path: string, bytes: Uint8Array): Promise<void> {
  const file = await placeFile(path, bytes, (draft) => draft.sync());
  await file.close();
}

/**
 * Writes a file under the name of a draft and gives it its own when `ready` has resolved; the caller closes it. On an error there
 * is no file. Error `no-space` also where it would take the log's room.
 */
export async function placeFile(
  path: string,
  bytes: Uint8Array,
  ready: (draft: FileHandle) => Promise<void>,
): Promise<FileHandle> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  if (bytes.length > SMALL_FILE) new DiskRoom(dirname(path)).take(bytes.length);
  // Two images that share a layer may both be at it.
  const draft = `${path}.${process.pid}.${++drafts}.draft`;
  let file: FileHandle | undefined;
  try {
    file = await open(draft, 'w', 0o600);
    await file.writeFile(bytes);
    await ready(file);
    await rename(draft, path);
    return file;
  } catch (error) {
    await file?.close();
    await rm(draft, { force: true });
    throw error;
  }
}
