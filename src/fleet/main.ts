/**
 * A member of a fleet: the process by which a node asks other nodes for what it lacks, and gives what it has fetched. Started
 * by the supervisor, or by `cofa fetcher` on a machine without an engine: `main.ts ROOT`. It holds no layers and no credentials.
 *
 *     link ─▶ settings ─▶ identity ─▶ parts (member.ts) ─▶ TLS server ─▶ doors ─▶ begin ─▶ ready ─▶ NATS, rehearsal
 *
 * NATS says who the others are; the bytes go from member to member. Without NATS, without others, without this process: the
 * node's fetchers go to the registry as they would without a fleet.
 */
import { randomBytes, X509Certificate } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { getPriority } from 'node:os';
import { PEER_LIMITS, Peers } from '../../actors/fleet-peers.ts';
import { FleetUrgency, type Urgency } from '../../actors/fleet-urgency.ts';
import { isLedgerSubject } from '../../schemas/check-fleet.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { Member } from '../../schemas/fleet.ts';
import { serveLocal } from '../bus/local-socket.ts';
import { setProcessPriority } from '../kernel/priority.ts';
import { Conditions } from '../process/conditions.ts';
import { countsFor, registryWatch } from '../process/counted.ts';
import { type FleetSettings, readFleetSettings } from '../process/fleet-settings.ts';
import { giveHeapRoom, Tidying } from '../process/heap.ts';
import { createLog } from '../process/log.ts';
import { makeIdentity } from '../process/nats-identity.ts';
import { linkToParent } from '../process/parent-link.ts';
import { type Ports, realPorts } from '../process/ports.ts';
import { IdleRehearsal } from '../process/rehearsal/idle.ts';
import type { Rehearsal } from '../process/rehearsal/rounds.ts';
import { type ChildSelf, realChildSelf } from '../process/self.ts';
import { RegistryClient } from '../registry/client.ts';
import { Layout } from '../store/layout.ts';
import { Changes } from './changes.ts';
import { openDoor } from './door.ts';
import { figuresOf } from './figures.ts';
import { Liars } from './liars.ts';
import { assemble, type PartsOptions } from './member.ts';
import { Members } from './members.ts';
import { pieceServer } from './piece-server.ts';
import { Pools } from './pools.ts';
import { listen } from './listening.ts';
import type { Identity } from './tls.ts';
import { NatsLink } from './nats-link.ts';
import { Rate } from './turns.ts';
import { version } from '../client/version.ts';

/** Weights are shares: one for each of these bytes of cache. */
const WEIGHT_BYTES = 1 << 30;
const MAX_WEIGHT = 1_000;

export interface FleetMember {
  /** Says good-bye and closes what it opened. The process stays. */
  stop(): Promise<void>;
}

export interface MemberPorts extends Ports {
  self: ChildSelf;
  /** Gives the process this priority; absent: it keeps its own. */
  setUrgency?: (urgency: Urgency) => void;
  /** Goes through a start when there is nothing to do; absent: no rehearsal. */
  rehearsal?: {
    run: (rehearsal: Rehearsal, identity: Identity) => Promise<void>;
    tidying: Pick<Tidying, 'now'>;
  };
}

/** The member of the settings in `root`; it answers processes of the node when this resolves. Errors: a port that is taken. */
export async function runMember(root: string, ports: MemberPorts): Promise<FleetMember> {
  const { clock, self: program } = ports;
  const hushed = new AbortController();
  /** There is something to do: no rehearsal is to be in its way. */
  const workCame = () => hushed.abort();
  const link = linkToParent(program.parent, { onOrphaned: () => program.exit(1), onWork: workCame });
  const settings = await readFleetSettings(root);
  const log = createLog('fleet', settings.logLevel);
  const layout = new Layout(root);
  const counts = countsFor(link);
  const conditions = new Conditions(log);
  const identity = await makeIdentity();
  const { now } = clock;
  const registry = new RegistryClient({
    ...settings.registry,
    log,
    watch: registryWatch(counts),
    // Whose right it is, each order says.
    dockerConfig: '/dev/null',
  });
  const peers = new Peers(Math.random);
  const liars = new Liars({ dir: layout.in('fleet'), peers, clock, log });
  const changes = new Changes({ tell: (news) => link.tellFleet(news), counts, wallMs: clock.wallMs });
  const listening = await listen(settings);
  const self = announcement(settings, identity.certificate, listening.address, clock.wallMs());
  const members = new Members({
    self,
    clock,
    log,
    random: Math.random,
    onJoined: (member) => {
      const { id, zone, address } = member;
      log.info({ member: id, zone, address }, 'a member of the fleet is there');
      changes.came(member);
    },
    onGone: ({ id }) => {
      log.info({ member: id }, 'a member of the fleet is gone');
      changes.gone(id);
      pools.forget(id);
      parts.messages.forget(id);
      if (!liars.has(id)) conditions.clear(`fleet:${id}`);
    },
  });
  const pools = new Pools({ identity, find: (id) => members.find(id) });
  const nameLiar = (id: string) => {
    if (!liars.has(id)) return;
    conditions.set(`fleet:${id}`, `the member ${id} of the fleet sent wrong bytes: it is left out`);
    clock.after(PEER_LIMITS.wrongMs + 1, () => liars.has(id) || conditions.clear(`fleet:${id}`)).unref();
  };
  /** `accuse` tells the peers of a wrong piece of this member; who is left out since is told on. */
  const accuse = (id: string, blob: string, piece: number, tellPeers: () => void) => {
    const wasLiar = liars.has(id);
    tellPeers();
    nameLiar(id);
    liars.save();
    if (wasLiar || !liars.has(id)) return;
    parts.dropFrom(id);
    changes.leftOut(id, Math.round(clock.wallMs() + PEER_LIMITS.wrongMs), blob, piece);
  };
  const onLiar: PartsOptions['onLiar'] = (id, from, { digest, index }) => {
    if (members.find(id) === undefined) return;
    accuse(id, digest, index, () => peers.wrong(id, from, now()));
  };
  const parts = await assemble({
    fleet: self.fleet,
    self: self.id,
    dir: layout.in('fleet'),
    cacheBytes: settings.cacheBytes,
    uploadBytes: settings.uploadBytes,
    members,
    peers,
    pools,
    registry,
    onLiar,
    ledger: {
      nodes: () =>
        members.list
          .filter(({ id, role }) => role === 'node' && members.stateOf(id) === 'live' && !liars.has(id))
          .map(({ id }) => id),
      // A fetcher has no engine that could have proven anything.
      prove: async (subject) => (settings.role === 'node' ? await link.askProven(subject, PROVEN_MS) : []),
      random: Math.random,
      newNonce: () => randomBytes(16).toString('hex'),
    },
    clock,
    counts,
    log,
  });
  const { asking, giving, messages, store } = parts;
  await liars.load();
  for (const id of liars.names) {
    nameLiar(id);
    parts.dropFrom(id);
  }
  const lookAtUrgency = settings.role === 'node' ? watchUrgency(ports, () => asking.isWaitedFor) : () => {};
  const server = pieceServer({
    identity,
    give: (from, asked, signal) => {
      workCame();
      return giving.give(from, asked, signal);
    },
    messages,
    memberOf: (fingerprint) => members.byFingerprint(fingerprint),
    rate: settings.uploadBytes === undefined ? undefined : new Rate(settings.uploadBytes, clock),
    counts,
    log,
  });
  await listening.begin(server);
  const door = await openDoor({
    socket: layout.socket('pieces'),
    self: self.id,
    asking,
    proofs: parts.proofs,
    find: (id) => members.find(id),
    onUse: (one) => {
      workCame();
      lookAtUrgency(true);
      parts.uses(one);
    },
    onWrong: ({ member, source, index }) => {
      counts.add('fleet_wrong_bytes_total');
      log.warn({ member, digest: source.digest, index }, 'a piece was not what the registry sends');
      accuse(member, source.digest, index, () => asking.wrong(member, source, index));
    },
    onRight: ({ source, pieces }) => asking.verified(source, pieces),
    counts,
    log,
  });
  let isConnected = false;
  const nats = new NatsLink({
    address: settings.nats,
    log,
    clock,
    onThere: (bus) => {
      messages.join(bus);
      members.join(bus);
    },
    onBack: () => members.returned(),
    onChange: (isThere) => {
      isConnected = isThere;
      messages.isThere = isThere;
      members.away(!isThere);
      if (isThere) conditions.clear('fleet-nats');
      else
        conditions.set(
          'fleet-nats',
          `the fleet does not reach NATS at ${settings.nats.url}: members that join are not seen`,
        );
    },
  });
  const reach = async () => {
    const list = members.list.slice(0, MOST_REACHED);
    const results = await Promise.allSettled(list.map(({ id }) => pools.reach(id)));
    return results.flatMap((result, at) =>
      result.status === 'fulfilled' ? [] : [`${list[at]?.id}: ${String((result.reason as Error).message)}`],
    );
  };
  const status = await serveLocal(layout.socket('fleet'), {
    status: () =>
      figuresOf({
        self: () => self,
        members,
        peers,
        liars: () => liars.names,
        changes: () => changes.recent,
        store,
        limitBytes: settings.cacheBytes,
        counts,
        conditions,
        isConnected: () => isConnected,
        now,
      }),
    degraded: () => conditions.list(),
    reach,
    ledger: (request) => {
      if (!isLedgerSubject(request)) throw new CofaError('invalid-argument', 'of which image?');
      return parts.ledger.ask(request, settings.witnesses ?? 1);
    },
  });
  link.degradedBy(() => conditions.list());
  link.countBy(() => [
    ...counts.samples(),
    ['fleet_members', [], [members.size]],
    ['fleet_cache_bytes', [], [store.bytes]],
  ]);

  const rehearsal =
    ports.rehearsal &&
    new IdleRehearsal({
      ...ports.rehearsal,
      clock,
      log,
      slower: 'the first pieces',
      hushed: hushed.signal,
    });
  let stopping: Promise<void> | undefined;
  const stop = () =>
    (stopping ??= (async () => {
      members.leave();
      // One that ends slowly holds up the process that reaps it (src/kernel/priority.ts).
      ports.setUrgency?.('normal');
      await Promise.all([nats.close(), rehearsal?.stop(STOP_MS)]);
      for (const one of [server, door, status]) one.close();
      server.closeAllConnections();
      door.closeAllConnections();
      parts.close();
      pools.close();
      await registry.close();
      for (const name of ['fleet', 'pieces'] as const) await rm(layout.socket(name), { force: true });
    })());
  program.onSignal(() => void stop().finally(() => program.exit(0)));
  await link.begin();
  link.ready();
  log.info({ fleet: self.fleet, zone: self.zone, address: self.address, pieces: store.pieces }, 'ready');
  nats.open();
  if (settings.rehearses !== false)
    void rehearsal?.begin({ root, name: 'fleet' }, async (one) => ports.rehearsal?.run(one, identity));
  return { stop };
}

/** The member gives way to the node's containers while no process of the node waits for it. Returns what to call when one asks. */
function watchUrgency(
  { clock, setUrgency }: MemberPorts,
  isWaitedFor: () => boolean,
): (isWaiting: boolean) => void {
  const urgency = new FleetUrgency(clock.now());
  const look = (isWaiting: boolean) => {
    const changed = urgency.look(clock.now(), isWaiting);
    if (changed !== undefined) setUrgency?.(changed);
  };
  clock.every(LOOK_MS, () => look(isWaitedFor())).unref();
  return look;
}

/** Between two looks at whether the node waits for the member, ms. */
const LOOK_MS = 500;
/** A rehearsal that is broken off has this long, ms. */
const STOP_MS = 1_000;

/** The engine says within this what it has proven, ms. */
const PROVEN_MS = 1_000;
/** `doctor` opens a connection to so many members. */
const MOST_REACHED = 64;

function announcement(
  { fleet, zone, node, role, cacheBytes }: FleetSettings,
  certificate: string,
  address: string,
  since: number,
): Omit<Member, 'everyMs' | 'leaving'> {
  const weight = Math.min(MAX_WEIGHT, Math.ceil(cacheBytes / WEIGHT_BYTES));
  const { fingerprint256: fingerprint } = new X509Certificate(certificate);
  const life = randomBytes(8).toString('hex');
  return { v: 2, fleet, id: node, zone, address, fingerprint, role, weight, version: version(), life, since };
}

if (import.meta.main) {
  const [, , root] = process.argv;
  if (root === undefined) throw new Error('usage: fleet/main.ts ROOT');
  giveHeapRoom();
  const real = realPorts();
  const base = getPriority();
  await runMember(root, {
    self: realChildSelf(),
    ...real,
    setUrgency: (urgency) => void setProcessPriority(process.pid, urgency, base),
    rehearsal: {
      tidying: new Tidying(),
      run: async (rehearsal, identity) => {
        const { rehearseMember } = await import('./rehearse.ts');
        await rehearseMember(rehearsal, { identity, clock: real.clock });
      },
    },
  });
}
