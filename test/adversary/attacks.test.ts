/**
 * The model attacker against the engine's own choice of sidecars, fetches, packs and proofs. `COFA_ATTACKS=10000` draws more,
 * `COFA_ATTACK=4711` that one.
 */
import { randomInt } from 'node:crypto';
import { afterAll, expect, it } from 'vitest';
import { Cleanup } from '../support/temp.ts';
import { attack, layersToAttack, type Outcome } from './attacks.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

const ATTACKS = Number(process.env['COFA_ATTACKS'] ?? 200);
const AT_ONCE = 8;
const ONE = process.env['COFA_ATTACK'];
const FIRST = ONE === undefined ? randomInt(1, 2 ** 31) : Number(ONE);

it(
  `no byte that the image does not commit to is served, in attacks from ${FIRST} on`,
  async () => {
    const [layers, directory] = [await layersToAttack(), await cleanup.tempDir('attacks')];
    const all: Outcome[] = [];
    let next = FIRST;
    const lane = async () => {
      while (next < FIRST + (ONE === undefined ? ATTACKS : 1))
        all.push(await attack(next++, directory, layers));
    };
    // They wait for the disk.
    await Promise.all(Array.from({ length: AT_ONCE }, lane));
    const sum = (of: (outcome: Outcome) => number) => all.reduce((total, one) => total + of(one), 0);
    const counts = {
      attacks: all.length,
      genuine: sum(({ genuine }) => genuine),
      forged: sum(({ forged }) => forged),
      believed: sum(({ believed }) => believed),
      witnessed: sum(({ witnessed }) => witnessed),
    };
    if (process.env['COFA_ATTACKS'] !== undefined || ONE !== undefined) console.log(counts);
    if (ONE !== undefined) return;
    // An attacker who never gets anywhere would prove nothing.
    expect(counts.forged).toBeGreaterThan(ATTACKS / 10);
    expect(counts.believed).toBeGreaterThan(ATTACKS / 10);
    expect(counts.witnessed).toBeGreaterThan(ATTACKS / 20);
    expect(counts.genuine).toBeGreaterThan(ATTACKS);
  },
  ATTACKS * 1_000 + 120_000,
);
