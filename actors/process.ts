/**
 * A child process under supervision: started, watched, restarted with a growing pause. After too many short lives in a
 * row it is given up: who waits for it is told so, and it is tried now and then only, in case the cause goes away. Time
 * comes in with the events.
 *
 *     stopped ─START→ starting ─READY→ running ─EXITED→ pausing ─RETRY→ starting …
 *                                                          └→ failed (more than `LIMIT` short lives in a row)
 *                                                               └─RETRY→ starting ─EXITED→ failed …
 */
import { setup } from 'xstate';

/** Why a process ended that the supervisor wanted to end; another reason, or none, is a crash. */
export const ASKED_ENDS = { stopped: 'it was stopped', handedOver: 'another took over' } as const;

export type ProcessEvent =
  | { type: 'START' }
  | { type: 'READY' }
  /** `livedMs`: how long it had lived. */
  | { type: 'EXITED'; livedMs: number }
  | { type: 'RETRY' }
  | { type: 'STOP' };

export interface ProcessContext {
  restarts: number;
  /** Lives in a row that were shorter than `HEALTHY_MS`. */
  shortLives: number;
  /** Pause before the next start, ms. */
  pauseMs: number;
}

/** A life this long forgives the failures before it, ms. */
const HEALTHY_MS = 10_000;
const FIRST_PAUSE_MS = 20;
const LONGEST_PAUSE_MS = 5_000;
/** Short lives in a row after which a process is given up. */
const LIMIT = 10;
/** One that was given up is tried again after this, ms. */
const GIVEN_UP_PAUSE_MS = 30_000;

const machine = setup({
  types: { context: {} as ProcessContext, events: {} as ProcessEvent },
  actions: {
    spawn: () => {},
    schedule: (_context, _params: { ms: number }) => {},
    kill: () => {},
    giveUp: () => {},
  },
  guards: {
    hopeless: ({ context, event }) =>
      event.type === 'EXITED' && event.livedMs < HEALTHY_MS && context.shortLives + 1 > LIMIT,
  },
});

const countTry = machine.assign({ restarts: ({ context }) => context.restarts + 1 });
const countLife = machine.assign(({ context, event }) => {
  const short = event.type === 'EXITED' && event.livedMs < HEALTHY_MS;
  const shortLives = short ? context.shortLives + 1 : 0;
  return {
    restarts: context.restarts + 1,
    shortLives,
    // The first restart is quick: a single crash should cost its users little.
    pauseMs: shortLives === 0 ? 0 : Math.min(FIRST_PAUSE_MS * 2 ** (shortLives - 1), LONGEST_PAUSE_MS),
  };
});

export const processMachine = machine.createMachine({
  id: 'process',
  initial: 'stopped',
  context: { restarts: 0, shortLives: 0, pauseMs: 0 },
  states: {
    stopped: { on: { START: 'starting' } },
    starting: {
      entry: 'spawn',
      on: {
        READY: 'running',
        EXITED: [
          { target: 'failed', guard: 'hopeless' },
          { target: 'pausing', actions: countLife },
        ],
        STOP: 'stopping',
      },
    },
    running: {
      on: {
        EXITED: [
          { target: 'failed', guard: 'hopeless' },
          { target: 'pausing', actions: countLife },
        ],
        STOP: 'stopping',
      },
    },
    pausing: {
      entry: { type: 'schedule', params: ({ context }) => ({ ms: context.pauseMs }) },
      on: { RETRY: 'starting', STOP: 'stopped' },
    },
    stopping: { entry: 'kill', on: { EXITED: 'stopped' } },
    failed: {
      entry: ['giveUp', { type: 'schedule', params: { ms: GIVEN_UP_PAUSE_MS } }],
      on: { START: 'starting', RETRY: { target: 'starting', actions: countTry }, STOP: 'stopped' },
    },
  },
});
