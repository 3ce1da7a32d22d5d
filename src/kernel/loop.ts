/** Loop devices: a file as a block device, whose backing file can be exchanged under a mounted file system. */
import { CofaError } from '../../schemas/errors.ts';

export interface LoopDevice {
  number: number;
  /** /dev/loopN */
  path: string;
  /** lo_file_name: by it cofa knows its own loops again after a crash. */
  label: string;
}

export interface LoopStatus extends LoopDevice {
  /** As the kernel shows it; ends in ` (deleted)` when unlinked. */
  backingFile: string;
  directIo: boolean;
  readOnly: boolean;
  /** Goes away with its last user. */
  autoclear: boolean;
}

export interface AttachOptions {
  directIo: boolean;
  readOnly: true;
  /** At most 63 bytes. */
  label: string;
}

export async function attachLoop(file: string, options: AttachOptions): Promise<LoopDevice> {
  throw new CofaError('internal', `not there yet: ${file} ${options.label}`);
}
/** Exchanges the backing file for one of the same size (LOOP_CHANGE_FD), under a mounted file system if need be. */
export async function changeBacking(loop: LoopDevice, file: string): Promise<void> {
  throw new CofaError('internal', `not there yet: ${loop.path} ${file}`);
}
/** Gone when it resolves. Nothing happens where it is gone already or belongs to somebody else by now. Errors: `busy`. */
export async function detachLoop(loop: LoopDevice): Promise<void> {
  throw new CofaError('internal', `not there yet: ${loop.path}`);
}
/** All configured loop devices; off the event loop, since the kernel may ask a FUSE server about a backing file. */
export async function listLoops(): Promise<LoopStatus[]> {
  return [];
}
