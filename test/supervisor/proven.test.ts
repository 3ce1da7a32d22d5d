/** What an image takes over of a proven flat image that has the same layers. */
import { expect, test } from 'vitest';
import type { LayerFacts } from '../../actors/node-state.ts';
import type { EventOf } from '../../schemas/events.ts';
import { devicesFor } from '../../src/supervisor/images/proven.ts';

const device = { diffId: 'd', size: 1, spans: 'b', root: 'r', table: 't' };
const layers = [{ diffId: 'd', blob: 'b' }];
const roots = new Map([['d', { proven: 'r', refuted: [], at: 0 }]]);
const whole = new Map([['r', { complete: true } as LayerFacts]]);
const state = { roots, layers: new Map<string, LayerFacts>() };

const prepared = (change: Partial<EventOf<'image.prepared'>>): EventOf<'image.prepared'> => ({
  type: 'image.prepared',
  v: 1,
  at: 0,
  origin: 'sidecar',
  flat: 'f',
  devices: [device],
  ...change,
});

test('tables that the node has made, or that came with a voucher', () => {
  expect(devicesFor(prepared({ origin: 'node' }), layers, state)).toEqual([device]);
  expect(devicesFor(prepared({ vouched: 'key:k' }), layers, state)).toEqual([device]);
});

test('a table that came without a voucher while the layer is whole, and the mark stays', () => {
  expect(devicesFor(prepared({}), layers, state)).toBeUndefined();
  const taken = devicesFor(prepared({}), layers, { ...state, layers: whole });
  expect(taken).toEqual([{ ...device, pushed: true }]);
  const again = prepared({ origin: 'node', devices: taken ?? [] });
  expect(devicesFor(again, layers, state)).toBeUndefined();
  expect(devicesFor(again, layers, { ...state, layers: whole })).toEqual(taken);
});

test('nothing of another blob, nor of a root that is not proven', () => {
  const vouched = prepared({ vouched: 'list' });
  expect(devicesFor(vouched, [{ diffId: 'd', blob: 'other' }], state)).toBeUndefined();
  expect(devicesFor(vouched, layers, { ...state, roots: new Map() })).toBeUndefined();
});
