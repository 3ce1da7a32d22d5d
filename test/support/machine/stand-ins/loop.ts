/** Stand-in for src/kernel/loop.ts. */
import { CofaError, type ErrorCode } from '../../../../schemas/errors.ts';
import type { AttachOptions, LoopDevice, LoopStatus } from '../../../../src/kernel/loop.ts';
import { type Backing, backingPath, KernelError } from '../kernel.ts';
import { machine } from '../machine.ts';
import { world } from '../world.ts';

export * from '../../../../src/kernel/loop.ts';

const CODES: Record<string, ErrorCode> = {
  ENOENT: 'not-found',
  ENXIO: 'not-found',
  EBUSY: 'busy',
  EINVAL: 'invalid-argument',
};

export function explained(error: unknown): unknown {
  return error instanceof KernelError
    ? new CofaError(CODES[error.code] ?? 'environment', error.message, { cause: error })
    : error;
}

const DETACH_WAIT_MS = 2_000;

export async function attachLoop(file: string, { label }: AttachOptions): Promise<LoopDevice> {
  try {
    const { number } = await world().kernel.attachLoop(file, label);
    return { number, path: `/dev/loop${number}`, label };
  } catch (error) {
    throw explained(error);
  }
}

export async function changeBacking(loop: LoopDevice, file: string): Promise<void> {
  try {
    await world().kernel.changeBacking(loop.number, loop.label, file);
  } catch (error) {
    throw explained(error);
  }
}

export async function detachLoop(loop: LoopDevice): Promise<void> {
  if (world().sabotage === 'forget-loop' && machine().random.chance(0.2)) return;
  const { kernel } = world();
  if (await machine().call(2, () => kernel.clear(loop.number, loop.label))) return;
  for (let waited = 0; waited <= DETACH_WAIT_MS; waited += 200) {
    if (kernel.loops.get(loop.number)?.label !== loop.label) return;
    await machine().sleep(200);
  }
  throw new CofaError('busy', `${loop.path} is in use`);
}

export async function dismissLoop(loop: LoopDevice): Promise<void> {
  await machine().call(2, () => world().kernel.clear(loop.number, loop.label));
}

export function listLoops(wanted?: (backingFile: string) => boolean): Promise<LoopStatus[]> {
  return machine().call(3, () =>
    [...world().kernel.loops.values()]
      .map(({ number, label, backing, autoclear }) => ({
        number,
        path: `/dev/loop${number}`,
        label,
        backingFile: shownPath(backing),
        directIo: true,
        readOnly: true,
        autoclear,
      }))
      .filter(({ backingFile }) => wanted?.(backingFile) !== false)
      .sort((a, b) => a.number - b.number),
  );
}

/** As the kernel shows it: it marks a file whose name was deleted or belongs to another file. */
function shownPath(backing: Backing): string {
  const path = backingPath(backing);
  return backing.kind === 'disk' && world().disk.file(path) !== backing.file ? `${path} (deleted)` : path;
}

/** Backing file → loops that stand on it. */
export function backingFiles(): Map<string, number[]> {
  const found = new Map<string, number[]>();
  for (const { number, backing } of world().kernel.loops.values()) {
    const path = shownPath(backing);
    found.set(path, [...(found.get(path) ?? []), number]);
  }
  return found;
}

export function backingFileOf({ number }: Pick<LoopDevice, 'number'>): string | undefined {
  const loop = world().kernel.loops.get(number);
  return loop && shownPath(loop.backing);
}

export const loopReads = (number: number): Promise<number | undefined> =>
  machine().call(1, () => world().kernel.loops.get(number)?.reads);
