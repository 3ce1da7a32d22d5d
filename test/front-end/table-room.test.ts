/** Memory for the span tables of open layers. */
import { expect, test } from 'vitest';
import { TableRoom } from '../../src/front-end/table-room.ts';

test('a layer whose table would take too much is refused with a way out, and others go on', () => {
  const room = new TableRoom(100);
  room.take('a', 60);
  expect(() => room.take('b', 50)).toThrow(
    expect.objectContaining({ code: 'busy', hint: expect.stringContaining('unmount') }),
  );
  // The same layer again is no further table.
  room.take('a', 90);
  room.take('c', 10);
  room.give('a');
  room.take('b', 50);
});
