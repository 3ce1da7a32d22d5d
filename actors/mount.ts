/**
 * The mount actor: one per directory that shows an image. Its states are what `status` prints; every change of them is
 * in the event log before anybody is told.
 *
 *     requested → mounting → mounted ⇄ unmounting → unmounted
 *                    └→ failed    └→ detached (engine stopped; comes back with it) → mounting
 */
import { setup } from 'xstate';
import type { ErrorRecord } from '../schemas/errors.ts';

export type MountEvent =
  | { type: 'MOUNT' }
  | { type: 'MOUNTED' }
  | { type: 'UNMOUNT' }
  | { type: 'UNMOUNTED' }
  /** Something uses it: nothing has changed. */
  | { type: 'BUSY' }
  | { type: 'DETACHED' }
  | { type: 'FAILED'; error: ErrorRecord };

const machine = setup({
  types: { context: {} as { error: ErrorRecord | undefined }, events: {} as MountEvent },
  actions: {
    mount: () => {},
    unmount: () => {},
  },
});

const keepError = machine.assign({
  error: ({ event }) => (event.type === 'FAILED' ? event.error : undefined),
});

export const mountMachine = machine.createMachine({
  id: 'mount',
  initial: 'requested',
  context: { error: undefined },
  states: {
    requested: {
      on: {
        MOUNT: 'mounting',
        UNMOUNT: 'unmounting',
        // The log did not take the request, or its directory could not be made.
        FAILED: { target: 'failed', actions: keepError },
      },
    },
    mounting: {
      entry: 'mount',
      on: {
        MOUNTED: 'mounted',
        FAILED: { target: 'failed', actions: keepError },
      },
    },
    mounted: { on: { UNMOUNT: 'unmounting', DETACHED: 'detached' } },
    unmounting: {
      entry: 'unmount',
      on: {
        UNMOUNTED: 'unmounted',
        BUSY: 'mounted',
        // It is gone from the kernel, or had been, and the log did not take that.
        DETACHED: 'detached',
        // It had not been mounted, and something else that stands there is in use.
        FAILED: { target: 'failed', actions: keepError },
      },
    },
    detached: { on: { MOUNT: 'mounting', UNMOUNT: 'unmounting' } },
    unmounted: { type: 'final' },
    failed: { on: { UNMOUNT: 'unmounting', MOUNT: 'mounting' } },
  },
});
