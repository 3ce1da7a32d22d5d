/**
 * Mounts at a directory, not at a path: the new mount is made apart from the tree (fsopen(2), fsconfig(2), fsmount(2))
 * and then moved onto the open directory (move_mount(2)). Linux 5.2; by number, since a glibc before 2.36 lacks them.
 */
import { closeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { CofaError } from '../../schemas/errors.ts';
import { type Lookup, openDirectory } from './directory.ts';
import { explain } from './errno.ts';
import { call, callOffLoop, declare } from './libc.ts';
import { findMount } from './mount.ts';
import { systemNumber } from './system-numbers.ts';
import { mountErrors } from './mount-errors.ts';

export interface MountAt {
  source: string;
  /** File system type. */
  type: string;
  /** Options of the file system: `name=value`, or a name alone. */
  options?: readonly string[];
  /** `ATTRIBUTE` bits, or-ed. */
  attributes: number;
  /** Path of an existing directory. */
  target: string;
  lookup: Lookup;
}

/** MOUNT_ATTR_ of linux/mount.h. */
export const ATTRIBUTE = { RDONLY: 1, NOSUID: 2, NODEV: 4, NOEXEC: 8, NOATIME: 0x10 } as const;

/**
 * Mounts, off the event loop. Errors: `conflict` where the path leads through a link that is not followed, or the
 * directory was moved away meanwhile: then nothing is mounted; those of mount(2).
 */
export async function mountAt(order: MountAt): Promise<void> {
  const { source, type, target, lookup } = order;
  const directory = await openDirectory(target, lookup);
  try {
    const mount = await makeMount(order);
    try {
      const args = [
        MOVE_MOUNT,
        mount,
        '',
        directory.fd,
        '',
        MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
      ];
      await callOffLoop('move_mount', moveMount, ...args);
      if (findMount(target)?.id !== (await idOf(mount))) {
        await callOffLoop('umount2', umount2, `/proc/self/fd/${mount}`, MNT_DETACH);
        throw new CofaError('conflict', `${target} was moved away while it was mounted`);
      }
    } finally {
      closeSync(mount);
    }
  } catch (error) {
    throw explain(error, `mount of ${source} (${type}) at ${target}`, mountErrors(type));
  } finally {
    directory.close();
  }
}

/** Id of the mount that a descriptor stands in; the mount keeps it as long as the descriptor is open. */
export async function idOf(fd: number): Promise<number> {
  const info = await readFile(`/proc/self/fdinfo/${fd}`, 'latin1');
  return Number(/^mnt_id:\s*(\d+)$/m.exec(info)?.[1]);
}

/** A mount that is in no tree; it ends with its descriptor. */
async function makeMount({ source, type, options = [], attributes }: MountAt): Promise<number> {
  const context = call('fsopen', fsopen, FSOPEN, type, FSOPEN_CLOEXEC);
  try {
    const set = (name: string, value: string | undefined) =>
      value === undefined
        ? call('fsconfig', fsconfig, FSCONFIG, context, FSCONFIG_SET_FLAG, name, null, 0)
        : call('fsconfig', fsconfig, FSCONFIG, context, FSCONFIG_SET_STRING, name, value, 0);
    set('source', source);
    if ((attributes & ATTRIBUTE.RDONLY) !== 0) set('ro', undefined);
    for (const option of options) {
      const [name = '', ...value] = option.split('=');
      set(name, value.length === 0 ? undefined : value.join('='));
    }
    // The kernel reads what the device has, and checks it.
    await callOffLoop('fsconfig', fsconfig, FSCONFIG, context, FSCONFIG_CMD_CREATE, null, null, 0);
    return Number(call('fsmount', fsmount, FSMOUNT, context, FSMOUNT_CLOEXEC, attributes));
  } finally {
    closeSync(context);
  }
}

const MOVE_MOUNT = systemNumber('move_mount');
const FSOPEN = systemNumber('fsopen');
const FSCONFIG = systemNumber('fsconfig');
const FSMOUNT = systemNumber('fsmount');
/** linux/mount.h */
const FSOPEN_CLOEXEC = 1;
const FSMOUNT_CLOEXEC = 1;
const FSCONFIG_SET_FLAG = 0;
const FSCONFIG_SET_STRING = 1;
const FSCONFIG_CMD_CREATE = 6;
const MOVE_MOUNT_F_EMPTY_PATH = 4;
const MOVE_MOUNT_T_EMPTY_PATH = 0x40;
const MNT_DETACH = 2;

const moveMount = declare('syscall', ['long', 'int', 'str', 'int', 'str', 'uint'], 'int64');
const fsopen = declare('syscall', ['long', 'str', 'uint'], 'int64');
const fsconfig = declare('syscall', ['long', 'int', 'uint', 'str', 'str', 'int'], 'int64');
const fsmount = declare('syscall', ['long', 'int', 'uint', 'uint'], 'int64');
const umount2 = declare('umount2', ['str', 'int']);
