/** Span tables of an image's layers: whose they are, and what changes when the node has made one. */
import { expect, test } from 'vitest';
import { isPushed, withTable } from '../../actors/device.ts';

const device = { diffId: 'd', size: 1, spans: 'b', root: 'r', table: 't' };
const made = { ...device, table: 'made' };

test('a table without a voucher is its pusher’s, unless the node has built the image, or the table', () => {
  expect(isPushed({ origin: 'sidecar' }, device)).toBe(true);
  expect(isPushed({ origin: 'sidecar', vouched: 'key:k' }, device)).toBe(false);
  expect(isPushed({ origin: 'node' }, device)).toBe(false);
  expect(isPushed({ origin: 'node' }, { ...device, pushed: true })).toBe(true);
  expect(isPushed({ origin: 'sidecar' }, { ...device, pushed: false })).toBe(false);
});

test('a table that the node has made takes the place of others over the same blob', () => {
  const other = { ...device, diffId: 'other' };
  expect(withTable({ devices: [device, other] }, made)?.devices).toEqual([{ ...made, pushed: false }, other]);
  expect(withTable({ devices: [made] }, made)).toBeUndefined();
  expect(withTable({ devices: [{ ...device, spans: 'another blob' }] }, made)).toBeUndefined();
});
