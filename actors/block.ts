/**
 * The life of one block of a layer device: absent → fetching → present.
 *
 * The machine is defined once, in XState. A 10 GB image has 160,000 blocks, so no block gets an actor: the
 * machine is compiled at start into a table of some bytes, and the state of a block is one byte of an array
 * that other threads read. `test/actors/block.test.ts` proves that table and machine agree everywhere.
 */
import { setup } from 'xstate';
import { compileTable, NOT_ALLOWED } from './table.ts';

/** State of a block: the byte in the array. Other threads and processes rely on these numbers. */
export const BlockState = { absent: 0, fetching: 1, present: 2 } as const;
export type BlockState = (typeof BlockState)[keyof typeof BlockState];

/** What can happen to a block; the number is the column of the table. */
export const BlockEvent = {
  /** A job that loads the block was started. */
  FETCH: 0,
  /** The block's bytes were verified and lie in the device file. Also true of a job that had been given up. */
  FETCHED: 1,
  /** The job ended without the block. */
  FAILED: 2,
  /** Present without a fetch: replay of the log, or a build on this node. */
  RESTORED: 3,
  /** The bytes are about to leave the device file. */
  EVICTED: 4,
} as const;
export type BlockEvent = (typeof BlockEvent)[keyof typeof BlockEvent];

export const blockMachine = setup({
  types: { events: {} as { type: keyof typeof BlockEvent } },
}).createMachine({
  id: 'block',
  initial: 'absent',
  states: {
    absent: { on: { FETCH: 'fetching', FETCHED: 'present', RESTORED: 'present' } },
    fetching: { on: { FETCHED: 'present', FAILED: 'absent' } },
    present: { on: { EVICTED: 'absent' } },
  },
});

export const BLOCK_STATES = Object.keys(BlockState) as Array<keyof typeof BlockState>;
export const BLOCK_EVENTS = Object.keys(BlockEvent) as Array<keyof typeof BlockEvent>;

/** `blockTable[state * BLOCK_EVENTS.length + event]` is the next state, or NOT_ALLOWED. */
export const blockTable: Uint8Array = compileTable(blockMachine, BLOCK_STATES, BLOCK_EVENTS);

const EVENT_COUNT = BLOCK_EVENTS.length;

/**
 * Lets `event` happen to one block. Returns false, and changes nothing, where the machine does not allow it.
 * The store is sequentially consistent, so a thread that reads `present` also sees what was done before.
 */
export function step(states: Uint8Array, block: number, event: BlockEvent): boolean {
  const state = states[block];
  if (state === undefined) return false;
  const next = blockTable[state * EVENT_COUNT + event] ?? NOT_ALLOWED;
  if (next === NOT_ALLOWED) return false;
  Atomics.store(states, block, next);
  return true;
}

/** `step` for `count` blocks from `first`; returns how many changed. `onChange` is told each, with its old state. */
export function stepRange(
  states: Uint8Array,
  first: number,
  count: number,
  event: BlockEvent,
  onChange?: (block: number, from: BlockState) => void,
): number {
  const end = Math.min(first + count, states.length);
  let changed = 0;
  for (let block = Math.max(0, first); block < end; block++) {
    const from = states[block] as BlockState;
    if (step(states, block, event)) {
      changed++;
      onChange?.(block, from);
    }
  }
  return changed;
}
