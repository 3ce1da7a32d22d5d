/**
 * Mounts that show other owners than the file system stores (mount_setattr(2), MOUNT_ATTR_IDMAP): a copy of a mount,
 * with the ids of a user namespace.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync } from 'node:fs';
import { type FileHandle, open, writeFile } from 'node:fs/promises';
import type { IdMaps, IdRange } from '../../actors/id-maps.ts';
import { CofaError } from '../../schemas/errors.ts';
import { explain, isErrno } from './errno.ts';
import { callOffLoop, declare, type ForeignFunction } from './libc.ts';

/** glibc has these functions since 2.36 (Debian 12). Declared on first use, since an older glibc lacks them. */
let calls:
  | { openTree: ForeignFunction; setAttributes: ForeignFunction; moveMount: ForeignFunction }
  | undefined;

const AT_FDCWD = -100;
const AT_EMPTY_PATH = 0x1000;
const AT_SYMLINK_NOFOLLOW = 0x100;
const OPEN_TREE_CLONE = 1;
const O_CLOEXEC = 0o2000000;
const MOVE_MOUNT_F_EMPTY_PATH = 4;
/** linux/mount.h */
const MOUNT_ATTR_RDONLY = 1n;
const MOUNT_ATTR_IDMAP = 0x00100000n;
/** A new user namespace takes milliseconds; a busy machine may need longer. */
const NAMESPACE_MS = 20_000;

/**
 * Mounts the folder `source` read-only at the existing folder `target`, without the mounts below it. The maps say which
 * owner each stored owner is shown as; one that they leave out is shown as the kernel's overflow user. Errors:
 * `unsupported` where the file system or the kernel cannot map ids, `environment` where the node forbids user
 * namespaces.
 */
export async function mountMapped(order: { source: string; target: string; maps: IdMaps }): Promise<void> {
  const { source, target, maps } = order;
  await withNamespace(maps, async (namespace) => {
    const { moveMount } = foreign();
    const tree = await mappedTree(source, namespace.fd);
    try {
      const args = [tree, '', AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH];
      await callOffLoop('move_mount', moveMount, ...args);
    } catch (error) {
      throw explain(error, `mount of ${source} with other owners at ${target}`);
    } finally {
      closeSync(tree);
    }
  });
}

/**
 * Whether the folder's file system can be mounted with mapped ids; found out by trying. Errors: those of the folder.
 */
export async function canMapIds(folder: string): Promise<boolean> {
  const some: IdRange[] = [{ container: 0, host: 0, size: 1 }];
  try {
    await withNamespace({ uid: some, gid: some }, async (namespace) => {
      closeSync(await mappedTree(folder, namespace.fd));
    });
    return true;
  } catch (error) {
    if (error instanceof CofaError && (error.code === 'unsupported' || error.code === 'environment'))
      return false;
    throw error;
  }
}

/** A copy of the mount, outside of the tree: the kernel maps only such a one, and ends it with its last descriptor. */
async function mappedTree(source: string, namespace: number): Promise<number> {
  const attempted = `mount of ${source} with other owners`;
  const { openTree, setAttributes } = foreign();
  let tree: number | undefined;
  try {
    const how = OPEN_TREE_CLONE | O_CLOEXEC | AT_SYMLINK_NOFOLLOW;
    tree = await callOffLoop('open_tree', openTree, AT_FDCWD, source, how);
    // struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
    const attributes = Buffer.alloc(32);
    attributes.writeBigUInt64LE(MOUNT_ATTR_IDMAP | MOUNT_ATTR_RDONLY, 0);
    attributes.writeBigUInt64LE(BigInt(namespace), 24);
    const args = [tree, '', AT_EMPTY_PATH, attributes, attributes.length];
    await callOffLoop('mount_setattr', setAttributes, ...args);
    return tree;
  } catch (error) {
    if (tree !== undefined) closeSync(tree);
    throw explain(error, attempted, {
      EINVAL: { code: 'unsupported', hint: 'its file system cannot be mounted so; ext4, xfs and btrfs can' },
      ENOSYS: { code: 'unsupported', hint: 'the kernel is too old' },
      EOPNOTSUPP: { code: 'unsupported' },
    });
  }
}

/** A user namespace with these maps, for as long as `work` takes. Only the process that made it lives in it. */
async function withNamespace<T>(maps: IdMaps, work: (namespace: FileHandle) => Promise<T>): Promise<T> {
  // `cat` ends when this process closes its input.
  const child = spawn('unshare', ['--user', 'sh', '-c', 'echo; exec cat'], {
    stdio: ['pipe', 'pipe', 'pipe'],
    timeout: NAMESPACE_MS,
    killSignal: 'SIGKILL',
  });
  let said = '';
  child.stderr.on('data', (bytes: Buffer) => (said += bytes.toString()));
  child.stdin.on('error', () => {});
  const ended = once(child, 'close').then(
    () => said.trim(),
    (error: unknown) => String(error),
  );
  try {
    const answer = await Promise.race([once(child.stdout, 'data').then(() => undefined), ended]);
    if (answer !== undefined) throw noNamespace(answer);
    let namespace: FileHandle;
    try {
      await writeFile(`/proc/${child.pid}/uid_map`, lines(maps.uid));
      await writeFile(`/proc/${child.pid}/gid_map`, lines(maps.gid));
      namespace = await open(`/proc/${child.pid}/ns/user`, 'r');
    } catch (error) {
      if (isErrno(error, 'EINVAL'))
        throw new CofaError('invalid-argument', 'the kernel does not take the maps of ids', { cause: error });
      throw noNamespace(String(error));
    }
    try {
      return await work(namespace);
    } finally {
      await namespace.close();
    }
  } finally {
    child.stdin.end();
    await ended;
  }
}

/** user_namespaces(7): the whole map in one write. */
const lines = (ranges: readonly IdRange[]): string =>
  ranges.map(({ container, host, size }) => `${container} ${host} ${size}\n`).join('');

const noNamespace = (why: string): CofaError =>
  new CofaError('environment', `no user namespace can be made: ${why}`, {
    hint: 'sysctl user.max_user_namespaces',
  });

function foreign(): NonNullable<typeof calls> {
  try {
    calls ??= {
      openTree: declare('open_tree', ['int', 'str', 'uint']),
      setAttributes: declare('mount_setattr', ['int', 'str', 'uint', 'void *', 'size_t']),
      moveMount: declare('move_mount', ['int', 'str', 'int', 'str', 'uint']),
    };
  } catch (error) {
    throw new CofaError('unsupported', 'the C library cannot mount with other owners', {
      cause: error,
      hint: 'glibc 2.36 or newer',
    });
  }
  return calls;
}
