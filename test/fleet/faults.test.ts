/** What goes wrong in a fleet: a member that lies, one that dies, NATS that is away, a registry that is. Real engines. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { type FaultImage, pushImage } from '../faults/fault-image.ts';
import { prose } from '../images/nasty.ts';
import { type Engine, eventually, mountImage, runCofa } from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { startRegistry } from '../support/registry-server.ts';
import { Cleanup, mountsBelow } from '../support/temp.ts';
import { startLiar } from './made-up-member.ts';
import { fleetOf, startFleetNats, startMember, untilMet } from './support.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

it('no read fails and no wrong byte is read: a liar is named and left out, members die, NATS and registry go away', async () => {
  const directory = await cleanup.tempDir('fleet-faults');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const images: FaultImage[] = [];
  for (const [at, name] of ['killed', 'cut', 'kept', 'again', 'lied', 'lied2', 'lied3'].entries()) {
    const image = await pushImage(join(directory, name), registry.host, name, [
      { 'app/file': prose(9_000_000, 82_000 + at) },
    ]);
    expect((await runCofa(['index', image.ref])).code).toBe(0);
    images.push(image);
  }
  const [killed, cut, kept, again, ...lied] = images as [FaultImage, FaultImage, FaultImage, FaultImage];
  const fleet = await startFleetNats(cleanup, ['one', 'two', 'liar']);
  const liar = await startLiar(cleanup, fleet, 'liar', { weight: 1_000 });
  const one = await startMember(cleanup, fleet, 'one');
  await eventually('they have met', async () => (await fleetOf(one)).members.length === 2);
  const mount = async (engine: Engine, image: FaultImage, dir: string) => {
    await mountImage(engine, image.ref, join(directory, dir));
    return async () => {
      const options = { root: join(directory, dir), expected: image.expected, readers: 2, copies: 1 };
      expect((await readInParallel(options)).failures).toEqual([]);
    };
  };

  // A lie that came too late for its reader names no one: more is read then.
  const isNamed = async () => (await one.status()).degraded.some((sentence) => sentence.includes('liar'));
  for (const [at, image] of lied.entries()) {
    await (await mount(one, image, `lied-${at}`))();
    const isLast = at === lied.length - 1;
    const named = await eventually('the liar is named', isNamed, isLast ? 60_000 : 10_000).catch((error) => {
      if (isLast) throw error;
      return false;
    });
    if (named) break;
  }
  expect(liar.liedTo).toContain('one');
  const state = (await fleetOf(one)).members.find(({ name }) => name === 'liar')?.state;
  expect(state).toBe('wrong');
  expect((await fleetOf(one)).wrong).toBeGreaterThan(0);

  // It is in the log; and a member's process that starts again still asks the liar nothing.
  const { fleet: before } = await one.pids();
  process.kill(before as number, 'SIGKILL');
  const state_ = await eventually('the member is back and hears the liar', async () => {
    const { fleet: now } = await one.pids();
    if (now === undefined || now === 0 || now === before) return undefined;
    const { members } = await fleetOf(one).catch(() => ({ members: [] }));
    return members.find(({ name }) => name === 'liar')?.state;
  });
  expect(state_).toBe('wrong');
  const lies = liar.liedTo.length;
  await (await mount(one, again, 'again-one'))();
  expect(liar.liedTo).toHaveLength(lies);
  await eventually('the log has who came and who was left out', async () => {
    const { stdout } = await one.cli(['replay', '--at', 'end', '--json']);
    const { members, leftOut } = JSON.parse(stdout) as Record<'members' | 'leftOut', Array<{ name: string }>>;
    return members.some(({ name }) => name === 'liar') && leftOut.some(({ name }) => name === 'liar');
  });
  expect((await fleetOf(one)).changes.map(({ what, name }) => `${name} ${what}`)).toContain('liar came');

  // With a third member the bytes of a liar may come by way of an honest home.
  const two = await startMember(cleanup, fleet, 'two');
  await eventually('all have met', async () => {
    const sizes = await Promise.all([one, two].map(async (each) => (await fleetOf(each)).members.length));
    return sizes.every((size) => size === 3);
  });

  // The member's process of a home is killed while the other node reads.
  const readKilled = await mount(two, killed, 'killed-two');
  const { fleet: pid } = await one.pids();
  const reading = readKilled();
  process.kill(pid as number, 'SIGKILL');
  await reading;
  await eventually('it is there again', async () => {
    const { fleet: now } = await one.pids();
    return now !== undefined && now !== 0 && now !== pid && (await fleetOf(one)).connected;
  });
  liar.leave();
  await untilMet([one, two]);

  // What the fleet has is read while the registry is away, also without NATS.
  const first = await mount(one, kept, 'kept-one');
  await first();
  const readKept = await mount(two, kept, 'kept-two');
  const readCut = await mount(two, cut, 'cut-two');
  await fleet.nats.stop();
  await readCut();
  registry.kill();
  await readKept();
  // An end without NATS takes its time, and is no matter of this test.
  for (const { pid } of [one, two]) process.kill(pid, 'SIGTERM');
  await eventually('no mount is left', () => mountsBelow(directory).length === 0);
  for (const { pid, ended } of [one, two]) {
    if (existsSync(`/proc/${pid}`)) process.kill(pid, 'SIGKILL');
    await ended;
  }
});

it('the liar behind an honest home is named by that home, and the home by no one', async () => {
  const directory = await cleanup.tempDir('fleet-liar');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const push = async (name: string, seed: number) => {
    const image = await pushImage(join(directory, name), registry.host, name, [
      { 'app/file': prose(3_000_000, seed) },
    ]);
    expect((await runCofa(['index', image.ref])).code).toBe(0);
    return image;
  };
  const [own, lied] = [await push('own', 84_000), await push('lied', 84_001)];
  const fleet = await startFleetNats(cleanup, ['home', 'asker', 'liar']);
  const read = async (engine: Engine, image: FaultImage, dir: string) => {
    await mountImage(engine, image.ref, join(directory, dir));
    const options = { root: join(directory, dir), expected: image.expected, readers: 1, copies: 1 };
    expect((await readInParallel(options)).failures).toEqual([]);
  };
  const home = await startMember(cleanup, fleet, 'home', { args: ['--fleet-cache', '900G'] });
  // A registry that a node does not use might be the accuser's own. Its member has to be there to hear of it.
  await untilMet([home]);
  await read(home, own, 'mnt-own');
  const asked = Object.values((await fleetOf(home)).asked);
  expect(asked.reduce((sum, pieces) => sum + pieces, 0)).toBeGreaterThan(0);

  const liar = await startLiar(cleanup, fleet, 'liar', { weight: 1, isQuiet: true });
  const asker = await startMember(cleanup, fleet, 'asker', { args: ['--fleet-cache', '0'] });
  await eventually('all have met', async () => {
    const sizes = await Promise.all([home, asker].map(async (one) => (await fleetOf(one)).members.length));
    return sizes.every((size) => size === 3);
  });
  await read(asker, lied, 'mnt-lied');
  expect(liar.liedTo).toContain('home');
  expect(liar.liedTo).not.toContain('asker');
  await eventually('the home names the liar', async () =>
    (await home.status()).degraded.some((sentence) => sentence.includes('member liar')),
  );
  const states = async (engine: Engine) =>
    Object.fromEntries((await fleetOf(engine)).members.map(({ name, state }) => [name, state]));
  expect((await states(home))['liar']).toBe('wrong');
  expect((await states(asker))['home']).not.toBe('wrong');
  expect((await asker.status()).degraded).toEqual([]);
});
