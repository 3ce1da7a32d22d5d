/** Engines that are members of one fleet, on a nats-server with the accounts that `cofa nats-config` makes. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FleetStatus } from '../../schemas/fleet-status.ts';
import { accountsText, newNodeUsers } from '../../src/bus/user-files.ts';
import { askLocal } from '../../src/bus/local-socket.ts';
import { type Engine, type EngineOptions, eventually, startEngine } from '../support/engine.ts';
import { type NatsServer, startNats } from '../support/services.ts';
import type { Cleanup } from '../support/temp.ts';

export interface TestFleet {
  nats: NatsServer;
  /** Options of `cofa up` and `cofa fetcher` by which the machine of this name joins. */
  join(name: string): string[];
}

/** A nats-server that knows nodes of these names. */
export async function startFleetNats(cleanup: Cleanup, names: readonly string[]): Promise<TestFleet> {
  const directory = await cleanup.tempDir('fleet');
  const users = names.map(newNodeUsers);
  const nats = await startNats({ config: `${accountsText(users)}max_payload: 8MB\n` });
  cleanup.defer(() => nats.stop());
  for (const one of users)
    await writeFile(join(directory, `${one.node}.json`), JSON.stringify(one), { mode: 0o600 });
  const joinAs = (name: string) => [
    '--nats',
    nats.url,
    '--nats-users',
    join(directory, `${name}.json`),
    '--node',
    name,
    '--fleet',
    'test',
  ];
  return { nats, join: joinAs };
}

/** Of an engine that takes little, since there are several. */
export const LIGHT: EngineOptions = { workers: 1 };

/** An engine of the fleet, with light settings. */
export async function startMember(
  cleanup: Cleanup,
  fleet: TestFleet,
  name: string,
  options: EngineOptions = {},
): Promise<Engine> {
  const args = [...fleet.join(name), ...(options.args ?? [])];
  const engine = await startEngine({ ...LIGHT, ...options, args });
  cleanup.defer(() => engine.stop());
  return engine;
}

const isStatus = (value: unknown): value is FleetStatus => FleetStatus.safeParse(value).success;

/** What the member in this root says. */
export const fleetOf = ({ root }: { root: string }): Promise<FleetStatus> =>
  askLocal(join(root, 'run/fleet.sock'), 'status', 5_000, isStatus);

/** Waits until each of these members knows all others. */
export async function untilMet(engines: ReadonlyArray<{ root: string }>): Promise<void> {
  await eventually('the members have met', async () => {
    const sizes = await Promise.all(engines.map(async (one) => (await fleetOf(one)).members.length));
    return sizes.every((size) => size === engines.length);
  });
}
