/** Mounts a flat image: EROFS metadata on one loop device, file data on others. */
import { CofaError } from '../../schemas/errors.ts';
import type { LoopDevice } from './loop.ts';

export interface ErofsMount {
  metadata: LoopDevice;
  /** In the order of the image's device slots. */
  devices: LoopDevice[];
  target: string;
  /** How far the kernel reads ahead, KiB; 1024 by default. */
  readAheadKb?: number;
}

/** Off the event loop. Errors: `environment` without EROFS in the kernel, `unsupported` for an image it refuses. */
export async function mountErofs(options: ErofsMount): Promise<void> {
  throw new CofaError('internal', `not there yet: ${options.target}`);
}
