/** A home with a registry that the test holds: one request for all who ask, and whose bytes are kept. */
import { randomBytes } from 'node:crypto';
import { afterAll, expect, it } from 'vitest';
import { Counts } from '../../actors/counts.ts';
import { PIECE_BYTES } from '../../schemas/fleet.ts';
import { Home } from '../../src/fleet/home.ts';
import type { PieceOrder } from '../../src/fleet/piece-request.ts';
import { PieceStore } from '../../src/fleet/piece-store.ts';
import { Rights } from '../../src/fleet/rights.ts';
import { createLog } from '../../src/process/log.ts';
import type { RegistryClient } from '../../src/registry/client.ts';
import { eventually } from '../support/engine.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

const source = {
  registry: 'registry.example',
  repository: 'app',
  digest: `sha256:${'e'.repeat(64)}`,
  size: 4 * PIECE_BYTES,
};
const order = (index: number): PieceOrder => ({
  source,
  index,
  from: 0,
  to: PIECE_BYTES,
  class: 'demand',
  token: undefined,
});

type Registry = Pick<RegistryClient, 'part' | 'isBlobGiven'>;

async function homeWith(registry: Registry, first?: { id: string; bytes: () => Buffer }) {
  let now = 0;
  const store = await PieceStore.open({
    dir: await cleanup.tempDir('home'),
    limitBytes: 1e9,
    now: () => Date.now(),
  });
  const home = new Home({
    registry,
    rights: new Rights({ registry, now: () => now }),
    store,
    firstHome: () => first?.id,
    ask: async () => first?.bytes() ?? Buffer.alloc(0),
    now: () => now,
    counts: new Counts(),
    log: createLog('home', 'silent'),
  });
  return { home, store, turn: (ms: number) => (now += ms) };
}

it('asks the registry once for a piece, however many ask it, at whatever moment', async () => {
  let asked = 0;
  let questions = 0;
  const bytes = randomBytes(PIECE_BYTES);
  const { home, store } = await homeWith({
    part: async () => {
      asked += 1;
      return bytes;
    },
    isBlobGiven: async () => {
      questions += 1;
      return true;
    },
  });
  // Askers come at every step of the first one: before, while it is fetched, while it is written, behind that.
  const askers: Array<Promise<{ bytes: Buffer }>> = [];
  for (let steps = 0; steps < 200; steps++) {
    askers.push(home.piece(order(0), `member-${steps % 7}`, false));
    await (steps % 2 === 0 ? Promise.resolve() : new Promise(setImmediate));
  }
  for (const piece of await Promise.all(askers)) expect(piece.bytes.equals(bytes)).toBe(true);
  expect([asked, questions]).toEqual([1, 1]);
  await eventually('it is kept', () => store.pieces === 1);
});

it('asks the first home before the registry, but not one whose bytes an asker called wrong', async () => {
  let asked = 0;
  const [right, wrong] = [randomBytes(PIECE_BYTES), randomBytes(PIECE_BYTES)];
  const registry: Registry = {
    part: async () => {
      asked += 1;
      return right;
    },
    isBlobGiven: async () => true,
  };
  const { home, store, turn } = await homeWith(registry, { id: 'first', bytes: () => wrong });
  expect((await home.piece(order(0), 'asker', false)).via).toBe('first');
  expect(asked).toBe(0);
  await eventually('it is kept', () => store.pieces === 1);
  await new Promise(setImmediate);
  await home.doubt({ digest: source.digest, index: 0 });
  expect(await home.piece(order(0), 'asker', false)).toEqual({ bytes: right, via: undefined });
  expect((await home.piece(order(1), 'asker', false)).via).toBeUndefined();
  turn(600_001);
  expect((await home.piece(order(2), 'asker', false)).via).toBe('first');
  // One that asks as a home is sent no further.
  expect((await home.piece(order(3), 'other', true)).via).toBeUndefined();
});

it('gives nothing to a member that has shown no right, whatever lies on its disk, nor while the registry is silent', async () => {
  const answers = new Map<string, boolean | Error>([['everyone', false]]);
  const { home, turn } = await homeWith({
    part: async () => randomBytes(PIECE_BYTES),
    isBlobGiven: async (_source, _digest, right) => {
      const answer = answers.get(right === 'everyone' ? right : right.token) ?? false;
      if (answer instanceof Error) throw answer;
      return answer;
    },
  });
  answers.set('good', true);
  const ask = (member: string, token?: string) =>
    home.piece({ ...order(0), token }, member, false).then(
      () => 'bytes',
      (error: { state?: string }) => error.state,
    );
  expect(await ask('one', 'good')).toBe('bytes');
  expect(await ask('two')).toBe('bring');
  expect(await ask('two', 'bad')).toBe('none');
  // What one has shown serves no other, and ends.
  answers.set('good', false);
  expect(await ask('one', 'good')).toBe('bytes');
  expect(await ask('two', 'good')).toBe('none');
  turn(60_001);
  expect(await ask('one', 'good')).toBe('none');
  answers.set('good', new Error('away'));
  expect(await ask('one', 'good')).toBe('none');
});
