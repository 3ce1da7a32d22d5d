import { getNextSnapshot } from 'xstate';
import { describe, expect, test } from 'vitest';
import {
  BLOCK_EVENTS,
  BLOCK_STATES,
  BlockEvent,
  blockMachine,
  BlockState,
  blockTable,
  step,
  stepRange,
} from '../../actors/block.ts';
import { compileTable, NOT_ALLOWED } from '../../actors/table.ts';

/** Where table and machine differ, asking the machine alone: its transitions as written, and its next snapshot. */
function disagreements(table: Uint8Array): string[] {
  const found: string[] = [];
  for (const [row, state] of BLOCK_STATES.entries()) {
    for (const [column, event] of BLOCK_EVENTS.entries()) {
      const entry = table[row * BLOCK_EVENTS.length + column];
      const isHandled = Object.keys(blockMachine.states[state]?.config.on ?? {}).includes(event);
      const snapshot = blockMachine.resolveState({ value: state, context: {} });
      const next = getNextSnapshot(blockMachine, snapshot, { type: event }).value;
      const agrees = isHandled
        ? BLOCK_STATES[entry ?? NOT_ALLOWED] === next
        : entry === NOT_ALLOWED && next === state;
      if (!agrees) found.push(`${state} + ${event}: table says ${entry}, machine ${String(next)}`);
    }
  }
  return found;
}

describe('the compiled table', () => {
  test('agrees with the machine on every state and event', () => {
    expect(blockTable.length).toBe(BLOCK_STATES.length * BLOCK_EVENTS.length);
    expect(disagreements(blockTable)).toEqual([]);
  });

  test('disagrees as soon as any one entry is changed', () => {
    for (let at = 0; at < blockTable.length; at++) {
      for (const value of [0, 1, 2, NOT_ALLOWED]) {
        if (value === blockTable[at]) continue;
        const changed = Uint8Array.from(blockTable);
        changed[at] = value;
        expect(disagreements(changed), `entry ${at} = ${value}`).toHaveLength(1);
      }
    }
  });

  test('says what the block machine is meant to say', () => {
    const rows = BLOCK_STATES.map((state) => [
      state,
      ...BLOCK_EVENTS.map((_, event) => {
        const next = blockTable[BlockState[state] * BLOCK_EVENTS.length + event];
        return BLOCK_STATES[next ?? NOT_ALLOWED] ?? '-';
      }),
    ]);
    expect([['', ...BLOCK_EVENTS], ...rows]).toEqual([
      ['', 'FETCH', 'FETCHED', 'FAILED', 'RESTORED', 'EVICTED'],
      ['absent', 'fetching', 'present', '-', 'present', '-'],
      ['fetching', '-', 'present', 'absent', '-', '-'],
      ['present', '-', '-', '-', '-', 'absent'],
    ]);
  });

  test('numbers states and events as everybody else does', () => {
    expect(BLOCK_STATES.map((name) => BlockState[name])).toEqual([0, 1, 2]);
    expect(BLOCK_EVENTS.map((name) => BlockEvent[name])).toEqual([0, 1, 2, 3, 4]);
  });

  test('cannot be made for a machine that leaves the given states', () => {
    expect(() => compileTable(blockMachine, ['absent', 'fetching'], BLOCK_EVENTS)).toThrow(/unknown state/);
  });
});

describe('steps', () => {
  test('an event that is not allowed changes nothing, nor does a block outside of the array', () => {
    const states = Uint8Array.of(0, 1, 2);
    expect(step(states, 0, BlockEvent.EVICTED)).toBe(false);
    expect(step(states, 1, BlockEvent.FETCH)).toBe(false);
    expect(step(states, 2, BlockEvent.FETCHED)).toBe(false);
    expect(step(states, 3, BlockEvent.FETCH)).toBe(false);
    expect(step(states, -1, BlockEvent.FETCH)).toBe(false);
    expect([...states]).toEqual([0, 1, 2]);
  });

  test('a byte that is no state allows nothing', () => {
    const states = Uint8Array.of(3, 77, 255);
    for (const event of Object.values(BlockEvent)) expect(stepRange(states, 0, 3, event)).toBe(0);
    expect([...states]).toEqual([3, 77, 255]);
  });

  test('a range is cut to the array and says what changed', () => {
    const states = new Uint8Array(new SharedArrayBuffer(5));
    const seen: Array<[number, number]> = [];
    expect(stepRange(states, 3, 10, BlockEvent.FETCH, (block, from) => seen.push([block, from]))).toBe(2);
    expect(stepRange(states, -2, 6, BlockEvent.FETCHED)).toBe(4);
    expect(seen).toEqual([
      [3, 0],
      [4, 0],
    ]);
    expect([...states]).toEqual([2, 2, 2, 2, 1]);
  });
});
