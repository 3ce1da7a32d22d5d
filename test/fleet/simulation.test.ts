/** Many members in virtual time, with the actors of the real one. `ops/fleet-sim` runs more of this. */
import { describe, expect, test } from 'vitest';
import { FAULTS, runFaults } from '../support/fleet/faults.ts';
import { runStart } from '../support/fleet/start.ts';

describe('a simulated fleet', () => {
  test('forty seeds of faults break no rule, and meet each fault', () => {
    const met = new Set<string>();
    for (let seed = 1; seed <= 40; seed++) for (const what of runFaults(seed).met) met.add(what);
    for (const fault of [...FAULTS, 'calm', 'no right', 'basic', 'public', 'cells'])
      expect([...met]).toContain(fault);
  });

  test('seeds in which the registry was asked twice, since the only member that had the piece was busy or had been silent', () => {
    for (const seed of [100_248, 101_489, 101_914]) runFaults(seed);
  });

  test('a member that is slowed down twice, and one that sends to others meanwhile', () => {
    runFaults(102_000);
  });

  test('the same seed takes the same course', () => {
    expect(runFaults(7)).toEqual(runFaults(7));
  });

  test('ten and a hundred nodes that start one image cost the registry one image, and the time grows as the logarithm', () => {
    const [one, ten, hundred] = [1, 10, 100].map((nodes) => runStart({ nodes }));
    expect([one, ten, hundred].map((result) => result?.egress)).toEqual([1, 1, 1]);
    expect(hundred?.started).toBe(100);
    const [a, b, c] = [one, ten, hundred].map((result) => result?.lastMs ?? Number.NaN) as [
      number,
      number,
      number,
    ];
    // Without the fleet it is a hundred times the bytes of one.
    expect(c).toBeLessThan(4 * a);
    expect(c - b).toBeLessThan(b - a);
  });

  test.each(['public', 'tokens', 'basic'] as const)(
    'a zone with cells, %s: one fetch of each piece, and the busiest member hears a part of what it would hear without',
    (kind) => {
      const many = { nodes: 200, kind, pieces: 16, startPieces: 16 };
      const whole = runStart({ ...many, cells: { undivided: 1_000, members: 500 } });
      const divided = runStart({ ...many, cells: { undivided: 50, members: 25 } });
      expect([divided.egress, divided.started]).toEqual([1, 200]);
      expect(divided.busiest).toBeLessThan(whole.busiest / 2);
      expect(divided.lastMs).toBeLessThan(whole.lastMs * 1.5);
    },
  );

  test('half of the members know of no cells: one fetch of each piece', () => {
    const { egress, started } = runStart({
      nodes: 200,
      cells: { undivided: 50, members: 25 },
      oldShare: 0.5,
    });
    expect([egress, started]).toEqual([1, 200]);
  });

  test('a zone with cells where a twentieth is dead, and a twentieth lies: all living ones start, for a few images', () => {
    const cells = { undivided: 50, members: 25 };
    const dead = runStart({ nodes: 200, cells, deadShare: 0.05 });
    expect([dead.started, dead.egress]).toEqual([dead.living, 1]);
    const lying = runStart({ nodes: 200, cells, lyingShare: 0.05 });
    expect(lying.started).toBe(200);
    expect(lying.egress).toBeLessThan(2);
  });

  test.each(['public', 'tokens', 'basic'] as const)(
    'a registry of the kind %s: one fetch of each piece',
    (kind) => {
      const { egress, started } = runStart({ nodes: 20, kind, pieces: 16, startPieces: 16 });
      expect([egress, started]).toEqual([1, 20]);
    },
  );

  test.each(['public', 'tokens', 'basic'] as const)(
    'readers that join what half of the nodes prefetch, %s: one fetch of each piece, and none of them is late',
    (kind) => {
      const { egress, started, lastMs } = runStart({
        nodes: 60,
        kind,
        window: 8,
        aheadShare: 0.5,
        readersAfterMs: 20,
      });
      expect([egress, started]).toEqual([1, 30]);
      expect(lastMs).toBeLessThan(1_500);
    },
  );

  test('a fifth of the members gone without a word, and with them both homes of some pieces: the registry sends one image', () => {
    for (const seed of [1, 5, 17, 20]) {
      const { egress, started, living } = runStart({ nodes: 100, deadShare: 0.2, seed });
      expect([egress, started]).toEqual([1, living]);
    }
  });

  test('thirty nodes on two processors, which answer late: the registry sends about one image, also where two members are gone', () => {
    const busy = { nodes: 30, pieces: 24, startPieces: 24, window: 8, kind: 'public' } as const;
    for (const pieceMs of [20, 25]) {
      const processors = { isShared: true, count: 2, messageMs: 1, pieceMs };
      const { egress, started } = runStart({ ...busy, processors });
      expect(started).toBe(30);
      expect(egress).toBeLessThan(1.3);
      const dead = runStart({ ...busy, processors, deadShare: 0.07 });
      expect([dead.started, dead.egress < 1.5]).toEqual([dead.living, true]);
    }
  });

  test('a twentieth of the members dead and a twentieth lying: all living ones start, for a few images', () => {
    const result = runStart({ nodes: 60, deadShare: 0.05, lyingShare: 0.05, seed: 3 });
    expect(result.started).toBe(result.living);
    expect(result.wrong).toBeGreaterThan(0);
    expect(result.egress).toBeLessThan(6);
  });
});
