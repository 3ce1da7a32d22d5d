/** Stand-in for src/image/erofs-check.ts: flat metadata are a JSON list of devices. */
import { CofaError } from '../../../../schemas/errors.ts';

export * from '../../../../src/image/erofs-check.ts';

export function checkFlat(metadata: Buffer): {
  devices: Array<{ diffId: string; size: number }>;
  inodes: number;
} {
  try {
    const { devices } = JSON.parse(metadata.toString()) as {
      devices: Array<{ diffId: string; size: number }>;
    };
    return { devices, inodes: 1 };
  } catch (cause) {
    throw new CofaError('integrity', 'no flat metadata', { cause });
  }
}
