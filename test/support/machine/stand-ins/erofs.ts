/** Stand-in for src/kernel/erofs.ts. */
import type { ErofsMount } from '../../../../src/kernel/erofs.ts';
import type { LoopDevice } from '../../../../src/kernel/loop.ts';
import { machine } from '../machine.ts';
import { world } from '../world.ts';
import { explained } from './loop.ts';

export * from '../../../../src/kernel/erofs.ts';

export async function mountErofs({ metadata, devices, target }: ErofsMount): Promise<void> {
  try {
    await machine().call(5, () =>
      world().kernel.mountErofs(
        metadata.number,
        devices.map(({ number }) => number),
        target,
      ),
    );
  } catch (error) {
    throw explained(error);
  }
}

export const carriesErofs = ({ number }: Pick<LoopDevice, 'number'>): boolean =>
  (world().kernel.loops.get(number)?.users ?? 0) > 0;

export const loadMetadata = async (): Promise<void> => {};
