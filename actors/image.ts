/**
 * The image actor: one per image manifest on a node. It prepares the flat image (from the sidecar in the registry, or
 * by indexing the layers here), attaches its devices when the first mount wants it, and lets go with the last.
 * Everything that the image's blocks do is the layer actors' business, since images share layers.
 *
 *     known ─USE→ preparing ─PREPARED→ ready ⇄ attaching → attached → detaching
 *                     └─FAILED→ failed ─USE→ preparing
 *
 * The machine decides; the named actions are effects that src/supervisor/images/image.ts runs.
 */
import { setup } from 'xstate';
import type { ErrorRecord } from '../schemas/errors.ts';

export type ImageEvent =
  /** A mount needs the image; idempotent per mount. */
  | { type: 'USE'; mount: string }
  /** The mount is gone. */
  | { type: 'RELEASE'; mount: string }
  | { type: 'PREPARED' }
  | { type: 'ATTACHED' }
  | { type: 'DETACHED' }
  | { type: 'FAILED'; error: ErrorRecord };

export interface ImageContext {
  /** Ids of the mounts that use the image. */
  users: readonly string[];
  error: ErrorRecord | undefined;
}

const machine = setup({
  types: { context: {} as ImageContext, events: {} as ImageEvent },
  actions: {
    prepare: () => {},
    attach: () => {},
    detach: () => {},
  },
  guards: {
    wanted: ({ context }) => context.users.length > 0,
    unwanted: ({ context }) => context.users.length === 0,
  },
});

const addUser = machine.assign({
  users: ({ context, event }) =>
    event.type === 'USE' && !context.users.includes(event.mount)
      ? [...context.users, event.mount]
      : context.users,
});
const dropUser = machine.assign({
  users: ({ context, event }) =>
    event.type === 'RELEASE' ? context.users.filter((user) => user !== event.mount) : context.users,
});
const keepError = machine.assign({
  error: ({ event }) => (event.type === 'FAILED' ? event.error : undefined),
});
const forgetError = machine.assign({ error: undefined });

export const imageMachine = machine.createMachine({
  id: 'image',
  initial: 'known',
  context: { users: [], error: undefined },
  on: { USE: { actions: addUser }, RELEASE: { actions: dropUser } },
  states: {
    known: {
      on: { USE: { target: 'preparing', actions: addUser } },
    },
    preparing: {
      entry: [forgetError, 'prepare'],
      on: { PREPARED: 'ready', FAILED: { target: 'failed', actions: keepError } },
    },
    ready: {
      always: { target: 'attaching', guard: 'wanted' },
    },
    attaching: {
      entry: 'attach',
      on: {
        ATTACHED: 'attached',
        // Whoever waits hears the error and releases; a later mount tries again.
        FAILED: { target: 'failed', actions: keepError },
      },
    },
    attached: {
      always: { target: 'detaching', guard: 'unwanted' },
    },
    detaching: {
      entry: 'detach',
      // A mount that came meanwhile finds `ready`, which attaches again.
      on: { DETACHED: 'ready', FAILED: { target: 'failed', actions: keepError } },
    },
    failed: {
      on: { USE: { target: 'preparing', actions: addUser } },
    },
  },
});
