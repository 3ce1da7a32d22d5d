/**
 * A member's parts, put together: two actors that decide, and around them what asks, gives, sends and keeps.
 *
 *     door ─▶ asking ─┐            ┌─ giving ◀─ TLS server
 *                     ├─▶ actors ◀─┤
 *     getting ◀───────┘            └─▶ registry, pieces
 *                       messages (NATS, or TLS where that is away) ─── ledger
 */
import type { Logger } from 'pino';
import type { Counts } from '../../actors/counts.ts';
import { Asker } from '../../actors/fleet-asker.ts';
import { Home } from '../../actors/fleet-home.ts';
import { HOME_LIMITS, pieceOf } from '../../actors/fleet-home-protocol.ts';
import type { Peers } from '../../actors/fleet-peers.ts';
import type { BlobSource } from '../../schemas/fetch.ts';
import { type FleetWrong, PIECE_BYTES } from '../../schemas/fleet.ts';
import type { Clock } from '../process/ports.ts';
import type { RegistryClient } from '../registry/client.ts';
import { Asking } from './asking.ts';
import { Core } from './core.ts';
import { Getting } from './getting.ts';
import { Giving } from './giving.ts';
import { LedgerTalk, type LedgerTalkOptions } from './ledger.ts';
import type { Members } from './members.ts';
import { Messages, type Said } from './messages.ts';
import { PieceStore } from './piece-store.ts';
import { Post } from './post.ts';
import { Pieces } from './pieces.ts';
import { Proofs } from './proofs.ts';
import type { Pools } from './pools.ts';

export interface PartsOptions {
  fleet: string;
  self: string;
  dir: string;
  /** Pieces may take so much of the disk, bytes; 0: this member is a home of none, and gives nothing. */
  cacheBytes: number;
  /** Bytes a second that others may read from it; undefined: no limit. */
  uploadBytes: number | undefined;
  members: Pick<Members, 'cell' | 'homes' | 'standIns' | 'find' | 'stateOf'>;
  peers: Peers;
  pools: Pools;
  registry: Pick<RegistryClient, 'part' | 'isBlobGiven'>;
  /** It is proven to this node. `from`: where the member said that it had it from. */
  onLiar: (member: string, from: string | undefined, piece: { digest: string; index: number }) => void;
  /** Who may be asked what it has proven, and what this node has. */
  ledger: Pick<LedgerTalkOptions, 'nodes' | 'prove' | 'random' | 'newNonce'>;
  clock: Clock;
  counts: Counts;
  log: Logger;
}

export interface Parts {
  asking: Asking;
  giving: Giving;
  messages: Messages;
  store: PieceStore;
  proofs: Proofs;
  ledger: LedgerTalk;
  /** A process of this node reads from the registry. */
  uses: (registry: string) => void;
  /** A process of this node has found that a member sent wrong bytes. */
  wrong: (wrong: FleetWrong) => void;
  /** What this member gave is kept no more. */
  dropFrom: (member: string) => void;
  close: () => void;
}

/** A member that may send less than this a second, in bytes, for each upload has fewer at a time. */
const LEAST_RATE = 512 << 10;
/** Registries that this node's processes use. */
const MOST_USED = 256;

/** Errors: those of the file system, for what lies in `dir`. */
export async function assemble(options: PartsOptions): Promise<Parts> {
  const { self, members, peers, clock, counts, log, registry, pools } = options;
  const { now } = clock;
  const used = new Set<string>();
  const store = await PieceStore.open({
    dir: options.dir,
    limitBytes: options.cacheBytes,
    now: clock.wallMs,
    onLost: (key) => pieces.lost(key),
  });
  const pieces = new Pieces({ store, onLost: (key) => core.toHome({ type: 'lost', key }), log });
  const homes = ({ digest }: BlobSource, index: number, cell?: number) =>
    members.homes({ digest, index }, cell);
  const standIns = ({ digest }: BlobSource, index: number) => members.standIns({ digest, index });
  const home = new Home(
    {
      self,
      homes,
      standIns,
      isAsked: (member, at) => peers.isAsked(member, at) && members.stateOf(member) === 'live',
      isThere: (member, at) => !peers.isLeftOut(member, at) && members.stateOf(member) === 'live',
      uses: (one) => used.has(one),
    },
    {
      uploads: uploadsFor(options.uploadBytes),
      held: Math.ceil(options.cacheBytes / PIECE_BYTES) + HOME_LIMITS.held,
    },
  );
  const proofs = new Proofs({ self, rights: home.rights, pieces, now });
  const asker = new Asker({
    self,
    holds: (key) => home.has(key),
    cell: () => members.cell(),
    homes,
    standIns,
    peers,
    serves: options.cacheBytes > 0,
  });
  const core: Core = new Core({
    asker,
    home,
    clock,
    runAsker: (effect) => asking.run(effect),
    runHome: (effect) => giving.run(effect),
  });
  const toAsker = core.toAsker.bind(core);
  const toHome = core.toHome.bind(core);
  const heard = (from: string, said: Said): void => {
    if (said.kind === 'answer') for (const answer of said.pieces) asking.answered(from, said, answer);
    else if (said.kind === 'wrong') toHome({ ...said, type: 'wrong', from });
    else if (said.kind === 'ledger') ledger.asked(from, said);
    else if (said.kind === 'proven') ledger.answered(from, said);
    else if (said.kind === 'hold') {
      peers.heard(from, now());
      for (const [list, ok] of [[said.pieces, true] as const, [said.failed ?? [], false] as const])
        for (const index of list)
          toHome({ type: 'hold', from, source: said.source, index, ok, cell: said.cell });
    } else
      for (const index of said.pieces) {
        const { source, class: urgency, token, tried = [], cell, proof } = said;
        if (proof !== undefined) proofs.shown(from, source, proof);
        toHome({ type: 'ask', from, source, index, class: urgency, token, tried, cell });
      }
  };
  const messages = new Messages({
    fleet: options.fleet,
    self,
    pools,
    isMember: (id) => members.find(id) !== undefined,
    heard,
    now,
    log,
  });
  const post = new Post(messages.send.bind(messages));
  const send = (to: string, said: Said) => (to === self ? heard(self, said) : post.send(to, said));
  const ledger: LedgerTalk = new LedgerTalk({
    ...options.ledger,
    send: messages.send.bind(messages),
    counts,
    clock,
    log,
  });
  const getting = new Getting({ pools, peers, now });
  const giving = new Giving({
    self,
    toHome,
    answer: (to, { registry: host, digest }, answer) =>
      send(to, { kind: 'answer', v: 1, registry: host, digest, pieces: [answer] }),
    onLiar: (member, key, isSure) => {
      if (isSure) options.onLiar(member, getting.viaOf(member, key), pieceOf(key));
      else peers.doubted(member, now());
    },
    registry,
    getting,
    pieces,
    proofs,
    now,
    counts,
    log,
  });
  const asking = new Asking({
    self,
    toAsker,
    toHome,
    send,
    getting,
    give: (from, asked, signal) => giving.give(from, asked, signal),
    pieces,
    keep: (key, from) => toHome({ type: 'kept', key, from }),
    serves: options.cacheBytes > 0,
    onHedge: () => counts.add('fleet_hedges_total'),
    proofs,
    now,
    after: clock.after.bind(clock),
  });
  for (const key of store.keys()) home.keep(key, store.originOf(key) ?? 'disk');
  const dropFrom = (member: string) => {
    for (const key of [...store.keys()].filter((one) => store.originOf(one) === member)) {
      pieces.forget(key);
      toHome({ type: 'lost', key });
    }
  };
  return {
    asking,
    giving,
    messages,
    store,
    proofs,
    ledger,
    uses: (one) => {
      if (used.size < MOST_USED) used.add(one);
    },
    dropFrom,
    wrong: ({ member, source, index }) => asking.wrong(member, source, index),
    close: () => core.close(),
  };
}

const uploadsFor = (bytes: number | undefined): number =>
  bytes === undefined
    ? HOME_LIMITS.uploads
    : Math.max(1, Math.min(HOME_LIMITS.uploads, Math.floor(bytes / LEAST_RATE)));
