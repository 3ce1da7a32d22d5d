/** What a member says of the fleet and of itself: `cofa fleet`, and the sentences that `status` shows. */
import type { FleetStatus } from '../../schemas/fleet-status.ts';
import type { Counts } from '../../actors/counts.ts';
import type { Peers } from '../../actors/fleet-peers.ts';
import type { Member } from '../../schemas/fleet.ts';
import type { Members } from './members.ts';
import type { PieceStore } from './piece-store.ts';

export interface FiguresSources {
  self: () => Omit<Member, 'everyMs' | 'leaving'>;
  members: Pick<Members, 'list' | 'size' | 'stateOf'>;
  peers: Pick<Peers, 'isAsked'>;
  /** Members that are left out since they sent wrong bytes. */
  liars: () => string[];
  changes: () => FleetStatus['changes'];
  store: Pick<PieceStore, 'bytes' | 'pieces'>;
  limitBytes: number;
  counts: Counts;
  conditions: { list(): string[] };
  isConnected: () => boolean;
  now: () => number;
}

export function figuresOf(sources: FiguresSources): FleetStatus {
  const { members, peers, store, limitBytes, counts, conditions } = sources;
  const sums = new Map(
    counts.samples().map(([name, labels, [value = 0]]) => [[name, ...labels].join(' '), value]),
  );
  const sum = (...key: string[]) => sums.get(key.join(' ')) ?? 0;
  const now = sources.now();
  const rowOf = ({
    id,
    zone,
    role,
    address,
    weight,
    version,
    since,
  }: Omit<Member, 'everyMs' | 'leaving'>) => ({
    name: id,
    zone,
    role,
    address,
    weight,
    version,
    since: new Date(since).toISOString(),
  });
  const wrong = new Set(sources.liars());
  const self = sources.self();
  const others = members.list.map((member) => ({
    ...rowOf(member),
    state: wrong.has(member.id)
      ? ('wrong' as const)
      : peers.isAsked(member.id, now) && members.stateOf(member.id) === 'live'
        ? ('there' as const)
        : ('silent' as const),
  }));
  return {
    fleet: self.fleet,
    self: self.id,
    connected: sources.isConnected(),
    degraded: conditions.list(),
    members: [{ ...rowOf(self), state: 'there' as const }, ...others].toSorted((a, b) =>
      a.name < b.name ? -1 : 1,
    ),
    asked: {
      node: sum('fleet_pieces_total', 'node'),
      fetcher: sum('fleet_pieces_total', 'fetcher'),
      own: sum('fleet_pieces_total', 'own'),
      missed: sum('fleet_pieces_total', 'missed'),
    },
    bytes: {
      received:
        sum('fleet_received_bytes_total', 'node') +
        sum('fleet_received_bytes_total', 'fetcher') +
        sum('fleet_received_bytes_total', 'own'),
      sent: sum('fleet_sent_bytes_total'),
      origin: sum('fleet_origin_bytes_total'),
    },
    cache: { pieces: store.pieces, usedBytes: store.bytes, limitBytes },
    hedges: sum('fleet_hedges_total'),
    strangers: sum('fleet_refused_strangers_total'),
    changes: sources.changes(),
    wrong: sum('fleet_wrong_bytes_total'),
  };
}
