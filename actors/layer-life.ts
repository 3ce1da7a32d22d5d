/** The life of a layer as a whole; its blocks have theirs in block.ts. */
import { setup } from 'xstate';
import { compileTable } from './table.ts';

export type LayerState = 'lazy' | 'verifying' | 'complete' | 'handed-over' | 'corrupt' | 'closed';

export const layerMachine = setup({
  types: {
    events: {} as {
      type: 'FILLED' | 'RESTORED' | 'PROVEN' | 'REFUTED' | 'HANDED_OVER' | 'TAKEN_BACK' | 'EVICTED' | 'CLOSE';
    },
  },
}).createMachine({
  id: 'layer',
  initial: 'lazy',
  states: {
    lazy: { on: { FILLED: 'verifying', RESTORED: 'complete', CLOSE: 'closed' } },
    verifying: { on: { PROVEN: 'complete', REFUTED: 'corrupt', CLOSE: 'closed' } },
    complete: { on: { HANDED_OVER: 'handed-over', EVICTED: 'lazy', CLOSE: 'closed' } },
    'handed-over': { on: { TAKEN_BACK: 'complete', CLOSE: 'closed' } },
    corrupt: { on: { CLOSE: 'closed' } },
    closed: {},
  },
});

export const LAYER_STATES: readonly LayerState[] = [
  'lazy',
  'verifying',
  'complete',
  'handed-over',
  'corrupt',
  'closed',
];
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
export const layerTable: Uint8Array = compileTable(layerMachine, LAYER_STATES, LAYER_EVENTS);
