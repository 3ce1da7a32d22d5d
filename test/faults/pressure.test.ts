/**
 * Many reads at once while the registry misbehaves; ops/bench/faults.ts has more cases, and prints what readers see of
 * each.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FAULT_CASES, FILES, mountFresh, runFault, type Scene, setScene } from '../../ops/bench/faults.ts';
import { eventually, imageOf } from '../support/engine.ts';
import { readAtOnce } from '../support/many-reads.ts';
import { Cleanup } from '../support/temp.ts';

const DEADLINE_MS = 5_000;
const cleanup = new Cleanup();
let scene: Scene;

beforeAll(async () => {
  scene = await setScene(cleanup, { readDeadlineMs: DEADLINE_MS });
});
afterAll(() => cleanup.run());

const caseOf = (name: string) => {
  const found = FAULT_CASES.find((one) => one.name === name);
  if (found === undefined) throw new Error(`no case ${name}`);
  return found;
};

describe('2,000 reads at once', () => {
  it('of a registry that is dead: each gets EIO around its deadline, not one after the other; then all is served', async () => {
    const before = await frontEndBytes();
    const dead = caseOf('registry: connections are reset, for long');
    const { reads, degraded, rssBytes } = await runFault(scene, dead, { reads: 2_000, lastsMs: 0 });
    expect(reads.outcomes).toEqual({ EIO: 2_000 });
    // One deadline behind the other it would be ten and more.
    expect(reads.worstMs).toBeLessThan(8 * DEADLINE_MS);
    expect(degraded).toEqual([expect.stringMatching(/cannot be fetched: .* broke/)]);
    expect(rssBytes - before).toBeLessThan(100e6);
  });

  it('of a registry whose tokens expire: all are served', async () => {
    const expiring = caseOf('registry: tokens expire every 0.3 s');
    const { reads } = await runFault(scene, expiring, { reads: 2_000, lastsMs: 0, answers: 2 });
    expect(reads.outcomes).toEqual({ ok: 2_000 });
  });

  it('of wrong bytes: EIO for what cannot be proven in time, never a wrong byte; put right, all is served', async () => {
    const flip = caseOf('registry: a wrong byte in each answer');
    const { reads, degraded } = await runFault(scene, flip, {
      reads: 2_000,
      lastsMs: DEADLINE_MS + 1_000,
      answers: 12,
    });
    expect(reads.outcomes).toMatchObject({ EIO: expect.any(Number) });
    expect(Object.keys(reads.outcomes).filter((one) => !['EIO', 'ok'].includes(one))).toEqual([]);
    expect(degraded).toEqual([expect.stringContaining('not what they should be')]);
    await eventually('it is over', async () => (await scene.engine.status()).degraded.length === 0);
  });
});

describe('two registries', () => {
  it('a silent one does not hold up the reads of the other', async () => {
    const silent = await mountFresh(scene, scene.relay.host);
    const healthy = await mountFresh(scene, scene.registry.host);
    const read = ({ dir, image }: typeof silent, count: number) =>
      readAtOnce({ root: dir, truth: image.expected.root, names: FILES, count });
    scene.relay.fail({ kind: 'stall' });
    const waiting = read(silent, 200);
    try {
      // Its jobs have all slots by then.
      await eventually('a reader waits', async () => {
        const { blocks } = await imageOf(scene.engine, silent.image.ref);
        return blocks.fetching > 100;
      });
      expect((await read(healthy, 200)).outcomes).toEqual({ ok: 200 });
      expect((await waiting).outcomes).toEqual({ EIO: 200 });
    } finally {
      scene.relay.heal();
    }
    for (const { dir } of [silent, healthy]) expect((await scene.engine.cli(['unmount', dir])).code).toBe(0);
  });
});

async function frontEndBytes(): Promise<number> {
  const { processes } = await scene.engine.status();
  return processes.find(({ role }) => role === 'front-end')?.rssBytes ?? 0;
}
