/** Serves layer devices through the npm package fuse-native, on the main thread. */
import { CofaError } from '../../schemas/errors.ts';
import type { ColdRead, FuseTransport } from './transport.ts';

export async function fuseNativeTransport(options: {
  target: string;
  cold: ColdRead;
}): Promise<FuseTransport> {
  throw new CofaError('internal', `not there yet: ${options.target}`);
}
