/** The life of a layer as a whole; its blocks have theirs in block.ts. */
import { setup } from 'xstate';
import { compileTable } from './table.ts';

/**
 * lazy: blocks are missing. verifying: every block is present, the whole is compared with the diffID. complete: it is the
 * layer. handed-over: the kernel reads the device file itself. corrupt: the blocks passed their checks and are not the
 * layer. closed: for good.
 */
export type LayerState = 'lazy' | 'verifying' | 'complete' | 'handed-over' | 'corrupt' | 'closed';

/** Every byte is there and is the layer. */
export const isWhole = (state: string | undefined): boolean =>
  state === 'complete' || state === 'handed-over';

export const layerMachine = setup({
  types: {
    events: {} as { type: LayerStep },
  },
}).createMachine({
  id: 'layer',
  initial: 'lazy',
  states: {
    lazy: { on: { FILLED: 'verifying', RESTORED: 'complete', CLOSE: 'closed' } },
    verifying: { on: { PROVEN: 'complete', REFUTED: 'corrupt', EVICTED: 'lazy', CLOSE: 'closed' } },
    complete: { on: { HANDED_OVER: 'handed-over', EVICTED: 'lazy', CLOSE: 'closed' } },
    'handed-over': { on: { TAKEN_BACK: 'complete', CLOSE: 'closed' } },
    corrupt: { on: { CLOSE: 'closed' } },
    closed: {},
  },
});

export const LAYER_STATES = Object.keys(layerMachine.states) as LayerState[];
export const LAYER_EVENTS = [
  'FILLED',
  'RESTORED',
  'PROVEN',
  'REFUTED',
  'HANDED_OVER',
  'TAKEN_BACK',
  'EVICTED',
  'CLOSE',
] as const;
export type LayerStep = (typeof LAYER_EVENTS)[number];

const layerTable = compileTable(layerMachine, LAYER_STATES, LAYER_EVENTS);

/** The state after the event; undefined where it cannot happen. */
export function nextLayerState(state: LayerState, event: LayerStep): LayerState | undefined {
  return LAYER_STATES[
    layerTable[LAYER_STATES.indexOf(state) * LAYER_EVENTS.length + LAYER_EVENTS.indexOf(event)] ?? -1
  ];
}
