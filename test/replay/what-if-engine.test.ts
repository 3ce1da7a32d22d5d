/**
 * A real start over an emulated link, run again by `cofa replay what-if`: under the conditions of the recording, and under those of
 * another link, over which a second engine then starts the same. The bands are wide: other tests run beside this one.
 */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startRelay } from '../../ops/bench/relay.ts';
import { WhatIf } from '../../schemas/replay.ts';
import { type FaultImage, pushImage, readPieces, twoLayers } from '../faults/fault-image.ts';
import { type Engine, errorOf, eventually, mountImage, runCofa, startEngine } from '../support/engine.ts';
import { startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';

const NEAR = { rttMs: 20 };
const FAR = { rttMs: 120, rate: 40e6 };

const cleanup = new Cleanup();
let directory = '';
let port = 0;
let image: FaultImage;
/** Logs of the same start over both links. */
let near = '';
let far = '';

beforeAll(async () => {
  directory = await cleanup.tempDir('what-if');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  port = registry.port;
  image = await pushImage(directory, registry.host, 'app', twoLayers(7100));
  const indexed = await runCofa(['index', image.ref]);
  expect(indexed.code, indexed.stderr).toBe(0);
  near = await startOver(NEAR, 'near');
  far = await startOver(FAR, 'far');
}, 180_000);
afterAll(() => cleanup.run());

/** Mounts the image on a new engine behind such a link, reads two files of it in order, and exports the log. */
async function startOver(link: { rttMs: number; rate?: number }, name: string): Promise<string> {
  const relay = await startRelay({ to: { host: '127.0.0.1', port }, ...link });
  const root = await cleanup.tempDir(`what-if-${name}`);
  const engine = await startEngine({ root });
  try {
    const dir = join(directory, name);
    // Without prefetch no start is recorded.
    await mountImage(engine, `${relay.host}/app:1`, dir, { prefetch: true });
    for (const path of ['app/noise', 'lib/prose']) {
      const outcomes = await readPieces(join(dir, path), image.files.get(path) as Buffer);
      expect(outcomes.filter((outcome) => outcome !== 'ok')).toEqual([]);
    }
    await unmounted(engine, dir);
    const file = join(directory, `${name}.cofa-log`);
    const exported = await engine.cli(['events', 'export', file]);
    expect(exported.code, exported.stderr).toBe(0);
    return file;
  } finally {
    await engine.stop();
    await relay.stop();
  }
}

/** The account of a start is in the log when its layers are closed. */
async function unmounted(engine: Engine, dir: string): Promise<void> {
  expect((await engine.cli(['unmount', dir])).code).toBe(0);
  await eventually('the log has the account of the start', async () => {
    const { stdout } = await engine.cli(['replay', '--events', '--type', 'layer.started', '--json']);
    return stdout.trim().split('\n').filter(Boolean).length === 2;
  });
}

async function whatIf(file: string, ...args: string[]): Promise<WhatIf> {
  const { stdout, stderr, code } = await runCofa(['replay', 'what-if', file, '--json', ...args]);
  expect(code, stderr).toBe(0);
  return WhatIf.parse(JSON.parse(stdout));
}

const bytesOf = ({ bytes }: WhatIf['recorded']['model']) =>
  Object.values(bytes).reduce((sum, one) => sum + one, 0);

const expectNear = (predicted: number, measured: number, share: number) => {
  expect(predicted / measured, `${predicted} for ${measured}`).toBeGreaterThan(1 - share);
  expect(predicted / measured, `${predicted} for ${measured}`).toBeLessThan(1 + share);
};

describe('a recorded start', () => {
  it('comes out as it was under its own conditions, with about as many bytes and requests', async () => {
    for (const file of [near, far]) {
      const { recorded, notes } = await whatIf(file);
      expect(notes).toEqual([]);
      const { measured, model } = recorded;
      expectNear(model.us, measured.us, 0.5);
      expect(Math.abs(model.requests - measured.requests)).toBeLessThanOrEqual(8);
      expectNear(bytesOf(model), bytesOf(measured), 0.5);
      expect(model.reads.waited).toBeGreaterThan(0);
    }
  });

  it('tells the link over which it was recorded', async () => {
    const { recorded } = await whatIf(far);
    expectNear(recorded.conditions.rttMs, FAR.rttMs, 0.5);
    expectNear(recorded.conditions.rate ?? 0, FAR.rate, 0.7);
  });

  it('is predicted for another link, over which it is measured then, and back', async () => {
    const measured = {
      near: (await whatIf(near)).recorded.measured.us,
      far: (await whatIf(far)).recorded.measured.us,
    };
    // The one takes some times as long: to say that nothing changes is to be wrong.
    expect(measured.far).toBeGreaterThan(2 * measured.near);
    const there = await whatIf(near, '--rate', '40M', '--rtt', '120', '--recorded-rtt', '20');
    expectNear(there.predicted.outcome.us, measured.far, 0.6);
    const back = await whatIf(
      far,
      '--rate',
      'max',
      '--rtt',
      '20',
      '--recorded-rate',
      '40M',
      '--recorded-rtt',
      '120',
    );
    expectNear(back.predicted.outcome.us, measured.near, 0.7);
  });

  it('says what a pack, prefetch, fetchers and other blocks would change, and which policy is best', async () => {
    const { predicted, best = [] } = await whatIf(far, '--pack', '--best');
    const without = await whatIf(far, '--no-pack', '--no-hints');
    expect(predicted.conditions.ahead).toBe('pack');
    expect(predicted.outcome.us).toBeLessThan(without.predicted.outcome.us);
    expect(predicted.outcome.requests).toBeLessThan(without.predicted.outcome.requests);
    const times = best.map(({ outcome }) => outcome.us);
    expect(best[0]?.conditions.ahead).toBe('pack');
    expect(times[0]).toBeLessThanOrEqual(Math.min(...times) * 1.01);
    expect(times.at(-1)).toBe(Math.max(...times));
    const blocks = await whatIf(far, '--block', '32Ki', '--workers', '1', '--prefetch', '5M');
    expect(blocks.predicted.conditions).toMatchObject({ block: 32_768, fetchers: 1, prefetchLimit: 5e6 });
    const text = await runCofa(['replay', 'what-if', far, '--pack', '--best']);
    expect(text.stdout).toContain('policies over this link, the fastest first');
    expect(text.stdout.split('\n').every((line) => line.length <= 100)).toBe(true);
  });

  it('is refused where the call makes no sense', async () => {
    const refused = async (...args: string[]) =>
      errorOf(await runCofa(['replay', 'what-if', near, '--json', ...args])).code;
    expect(await refused('--rate', 'fast')).toBe('invalid-argument');
    expect(await refused('--block', '100k')).toBe('invalid-argument');
    expect(await refused('--pack', '--no-hints')).toBe('invalid-argument');
    expect(await refused('--mount', 'm0')).toBe('not-found');
  });
});
