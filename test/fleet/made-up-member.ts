/** A member of the test's own making: it announces itself, hears others and says what the test wants. */
import { randomBytes, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { Counts } from '../../actors/counts.ts';
import { connectBus } from '../../src/bus/connection.ts';
import type { Giving } from '../../src/fleet/giving.ts';
import { Members } from '../../src/fleet/members.ts';
import { Messages, type Said } from '../../src/fleet/messages.ts';
import { lengthOf } from '../../src/fleet/piece-request.ts';
import { pieceServer } from '../../src/fleet/piece-server.ts';
import { Pools } from '../../src/fleet/pools.ts';
import type { Identity } from '../../src/fleet/tls.ts';
import { createLog } from '../../src/process/log.ts';
import { makeIdentity } from '../../src/process/nats-identity.ts';
import { realPorts } from '../../src/process/ports.ts';
import type { Cleanup } from '../support/temp.ts';
import type { TestFleet } from './support.ts';

export interface MadeUpMember {
  identity: Identity;
  members: Members;
  messages: Messages;
  pools: Pools;
  leave: () => void;
}

export interface MadeUpOptions {
  weight: number;
  give: Giving['give'];
  heard: (from: string, said: Said, messages: Messages) => void;
}

export async function startMadeUp(
  cleanup: Cleanup,
  fleet: TestFleet,
  name: string,
  { weight, give, heard }: MadeUpOptions,
): Promise<MadeUpMember> {
  const file = JSON.parse(await readFile(fleet.join(name)[3] as string, 'utf8')) as {
    fleet: { user: string; password: string };
  };
  const bus = await connectBus(
    { url: fleet.nats.url, user: file.fleet.user, pass: file.fleet.password },
    { name, reconnect: false },
  );
  cleanup.defer(() => bus.close());
  const identity = await makeIdentity();
  const log = createLog(name, 'silent');
  const { clock } = realPorts();
  const pools = new Pools({ identity, find: (id) => members.find(id) });
  const messages: Messages = new Messages({
    fleet: 'test',
    self: name,
    pools,
    isMember: () => true,
    heard: (from, said) => heard(from, said, messages),
    now: clock.now,
    log,
  });
  const server = pieceServer({
    identity,
    give,
    messages,
    memberOf: (fingerprint) => members.byFingerprint(fingerprint),
    rate: undefined,
    counts: new Counts(),
    log,
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanup.defer(async () => {
    pools.close();
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
  const members = new Members({
    self: {
      v: 2,
      fleet: 'test',
      id: name,
      zone: 'default',
      address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
      fingerprint: new X509Certificate(identity.certificate).fingerprint256,
      role: 'node',
      weight,
      version: '0',
      life: `${name}-${name}-life`,
      since: 0,
    },
    clock,
    log,
    random: () => 0,
    onJoined: () => {},
    onGone: () => {},
  });
  cleanup.defer(() => members.leave());
  messages.isThere = true;
  messages.join(bus);
  members.join(bus);
  return { identity, members, messages, pools, leave: () => members.leave() };
}

/** A member that has every piece, with bytes of its own making. `isQuiet`: it answers no questions, and lies to homes alone. */
export async function startLiar(
  cleanup: Cleanup,
  fleet: TestFleet,
  name: string,
  { weight, isQuiet = false }: { weight: number; isQuiet?: boolean },
): Promise<MadeUpMember & { liedTo: string[] }> {
  const liedTo: string[] = [];
  const liar = await startMadeUp(cleanup, fleet, name, {
    weight,
    give: async (from, asked) => {
      liedTo.push(from);
      return { piece: { bytes: randomBytes(lengthOf(asked)), from: 'registry' }, done: () => {} };
    },
    heard: (from, said, messages) => {
      if (isQuiet || said.kind !== 'ask') return;
      const { registry, digest } = said.source;
      const pieces = said.pieces.map((index) => ({ index, state: 'have' as const }));
      messages.send(from, { kind: 'answer', v: 1, registry, digest, pieces });
    },
  });
  return { ...liar, liedTo };
}
