/** The supervisor's connections to NATS. */
import type { NatsConnection } from '@nats-io/nats-core';
import { busOnDemand, connectBus } from '../../bus/connection.ts';
import { awaySentence, watchBus } from '../../bus/health.ts';
import type { BusUsers } from '../../bus/roles.ts';
import type { Conditions } from '../../process/conditions.ts';
import type { Clock } from '../../process/ports.ts';
import { type End, within } from '../end.ts';

/** What is still under way to NATS at the end has this long, ms. A NATS that is stuck is not waited for. */
const DRAIN_MS = 2_000;

export interface SupervisorBus {
  bus: NatsConnection;
  /** Where startup packs lie: another account. */
  packs: () => Promise<NatsConnection>;
}

/** Error `unavailable` when NATS does not answer. */
export async function openBus(given: {
  users: BusUsers;
  end: End;
  ports: { clock: Clock };
}): Promise<SupervisorBus> {
  const { users, end, ports } = given;
  const bus = await connectBus(users.supervisor, { name: 'cofa-supervisor' });
  end.at('connections', {
    clean: () => within(ports.clock, DRAIN_MS, bus.drain()),
    // Nothing more is written.
    replaced: () => bus.close(),
    failed: () => bus.close(),
  });
  const packs = busOnDemand(users.packs, 'cofa-supervisor-packs');
  end.at('connections', () => within(ports.clock, DRAIN_MS, packs.close()));
  return { bus, packs };
}

/**
 * Has `status` say when NATS is away. `onBack`: what the front end said meanwhile is lost, and it says it again when it is
 * asked to serve its layers.
 */
export function followBus(given: {
  bus: NatsConnection;
  users: BusUsers;
  conditions: Conditions;
  onBack: () => void;
}): void {
  const { bus, users, conditions, onBack } = given;
  watchBus(bus, {
    onAway: () => conditions.set('nats', awaySentence(users.supervisor.url)),
    onBack: () => {
      conditions.clear('nats');
      // A private one that had ended too often in a row has started after all.
      conditions.clear('nats-server');
      onBack();
    },
  });
}
