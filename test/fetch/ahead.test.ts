import { expect, it } from 'vitest';
import { Ahead } from '../../src/fetch/ahead.ts';

/** Gives pieces when it is told to, and counts those that were taken. */
function source(pieces: number, error?: Error) {
  const state = { taken: 0, returned: false };
  async function* give() {
    try {
      for (let n = 0; n < pieces; n++) {
        state.taken += 1;
        yield Uint8Array.of(n, n);
      }
      if (error !== undefined) throw error;
    } finally {
      state.returned = true;
    }
  }
  return { state, body: give() };
}

async function firstBytes(body: AsyncIterable<Uint8Array>): Promise<Array<number | undefined>> {
  const found: Array<number | undefined> = [];
  for await (const [first] of body) found.push(first);
  return found;
}

const turns = async () => {
  for (let n = 0; n < 20; n++) await new Promise((done) => setImmediate(done));
};

it('has read all before anybody asks, and gives it in order', async () => {
  const { state, body } = source(3);
  const ahead = new Ahead(body);
  await turns();
  expect(state).toEqual({ taken: 3, returned: true });
  expect(await firstBytes(ahead)).toEqual([0, 1, 2]);
});

it('reads no further than there is room, and goes on when something was taken', async () => {
  const { state, body } = source(10);
  const ahead = new Ahead(body, 4);
  await turns();
  expect(state.taken).toBe(2);
  expect(await firstBytes(ahead)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
});

it('throws the error of the source behind what came before it', async () => {
  const { body } = source(2, new Error('cut'));
  const ahead = new Ahead(body);
  await turns();
  const got: number[] = [];
  const all = async () => {
    for await (const [n] of ahead) got.push(n as number);
  };
  await expect(all()).rejects.toThrow('cut');
  expect(got).toEqual([0, 1]);
});

it('closed while it waits for room it lets its source go', async () => {
  const { state, body } = source(10);
  const ahead = new Ahead(body, 2);
  await turns();
  ahead.close();
  await turns();
  expect(state).toEqual({ taken: 1, returned: true });
});
