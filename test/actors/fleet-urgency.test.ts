/** When a member gives way to its node's containers. */
import { expect, it } from 'vitest';
import { FleetUrgency } from '../../actors/fleet-urgency.ts';

it('a member is urgent while its own node waits, and gives way a second after', () => {
  const urgency = new FleetUrgency(0);
  expect(urgency.look(500, false)).toBeUndefined();
  expect(urgency.look(1_000, false)).toBe('low');
  expect(urgency.look(60_000, false)).toBeUndefined();
  expect(urgency.look(60_001, true)).toBe('normal');
  expect(urgency.look(60_900, true)).toBeUndefined();
  expect(urgency.look(61_800, false)).toBeUndefined();
  expect(urgency.look(61_900, false)).toBe('low');
});
