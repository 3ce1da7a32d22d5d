/**
 * A container's folder, ROOT/containers/ID: a record of its owner, the mounts, and the bundle for runc.
 *
 *     container.json   what it is and which process started it
 *     image/           the image, mounted lazily and read-only by the engine
 *     upper/ work/     the container's writes
 *     rootfs/          overlay of the two: the container's root
 *     config.json      the bundle's configuration;  runc.log  runc's messages
 *     etc/             hosts, hostname and resolv.conf of this container
 */
import { closeSync, mkdirSync, openSync, readSync, renameSync, writeFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';
import { identify, type ProcessIdentity } from './host.ts';

export interface ContainerRecord {
  v: 1;
  id: string;
  ref: string;
  /** The arguments of `cofa run`; config.json has the command that runs. */
  args: string[];
  /** ISO 8601 */
  created: string;
  /** The `cofa run` that started it. */
  owner: ProcessIdentity;
  /** The upper layer outlives the container. */
  keep: boolean;
  /** Exit code, once it ended and was kept. */
  exit?: number;
}

export class ContainerFolder {
  readonly path: string;
  readonly id: string;
  constructor(root: string, id: string) {
    this.id = id;
    this.path = join(root, 'containers', id);
  }
  get image(): string {
    return join(this.path, 'image');
  }
  get upper(): string {
    return join(this.path, 'upper');
  }
  get work(): string {
    return join(this.path, 'work');
  }
  get rootfs(): string {
    return join(this.path, 'rootfs');
  }
  get etc(): string {
    return join(this.path, 'etc');
  }
  get config(): string {
    return join(this.path, 'config.json');
  }
  get record(): string {
    return join(this.path, 'container.json');
  }

  /** Replaces the record as a whole. */
  write(record: ContainerRecord): void {
    const draft = `${this.record}.draft`;
    writeFileSync(draft, `${JSON.stringify(record)}\n`, { mode: 0o600 });
    renameSync(draft, this.record);
  }
}

/**
 * Makes the folder of a new container, synchronously: `cofa run` has nothing else to do meanwhile. mkdir(2) takes the
 * name, so two containers never share one. Error: `conflict` when the name is taken.
 */
export function createFolder(
  root: string,
  wanted: { name: string | undefined; ref: string; args: string[]; keep: boolean; now: Date },
): { folder: ContainerFolder; record: ContainerRecord } {
  const owner = identify(process.pid);
  if (owner === undefined) throw new CofaError('environment', '/proc does not show this process');
  const folder = new ContainerFolder(root, wanted.name ?? randomName());
  mkdirSync(join(root, 'containers'), { recursive: true, mode: 0o700 });
  try {
    mkdirSync(folder.path, { mode: 0o700 });
  } catch (cause) {
    if ((cause as { code?: unknown }).code !== 'EEXIST') throw cause;
    throw new CofaError('conflict', `there is a container named ${folder.id} already`, {
      cause,
      hint: `see cofa ps; remove it: cofa rm ${folder.id}`,
    });
  }
  const record: ContainerRecord = {
    v: 1,
    id: folder.id,
    ref: wanted.ref,
    args: wanted.args,
    created: wanted.now.toISOString(),
    owner,
    keep: wanted.keep,
  };
  folder.write(record);
  // The upper layer is the container's root folder for every process in it.
  mkdirSync(folder.upper, { mode: 0o755 });
  for (const path of [folder.image, folder.work, folder.rootfs]) mkdirSync(path, { mode: 0o700 });
  mkdirSync(folder.etc, { mode: 0o755 });
  return { folder, record };
}

/** Twelve random hex digits, without node:crypto, which takes 5 ms to load. */
function randomName(): string {
  const bytes = Buffer.alloc(6);
  const source = openSync('/dev/urandom', 'r');
  try {
    readSync(source, bytes);
  } finally {
    closeSync(source);
  }
  return bytes.toString('hex');
}

/** Every folder below ROOT/containers; the record is undefined where its `cofa run` died while it wrote it. */
export async function readFolders(
  root: string,
): Promise<Array<{ folder: ContainerFolder; record: ContainerRecord | undefined }>> {
  let names: string[];
  try {
    names = await readdir(join(root, 'containers'));
  } catch (error) {
    if ((error as { code?: unknown }).code === 'ENOENT') return [];
    throw error;
  }
  return Promise.all(
    names.sort().map(async (name) => {
      const folder = new ContainerFolder(root, name);
      return { folder, record: await readRecord(folder) };
    }),
  );
}

async function readRecord(folder: ContainerFolder): Promise<ContainerRecord | undefined> {
  try {
    const record = JSON.parse(await readFile(folder.record, 'utf8')) as ContainerRecord;
    return record.v === 1 && record.id === folder.id ? record : undefined;
  } catch {
    return undefined;
  }
}
