/** Many nodes start one image at the same moment: how long the last one takes, and what the registry sends for it. */
import { Members } from '../../../actors/fleet-members.ts';
import { CELL_LIMITS, type CellLimits } from '../../../actors/fleet-placement.ts';
import type { BlobSource } from '../../../schemas/fetch.ts';
import { type Member, PIECE_BYTES } from '../../../schemas/fleet.ts';
import { Net } from './net.ts';
import { SimNode } from './node.ts';
import { type ProcessorOptions, Processors, Registry, type RegistryKind, World } from './world.ts';

export interface StartOptions {
  seed: number;
  nodes: number;
  zones: number;
  /** Homes of a piece in a zone; 0: no fleet. */
  replicas: number;
  /** Askers that a home sends to one holder at once; 0: homes alone send pieces. */
  perHolder: number;
  /** Of these, from the start on: machines that are gone and that others still take for members; those that send other bytes. */
  deadShare: number;
  lyingShare: number;
  /** Of an earlier version, which knows of no cells. */
  oldShare: number;
  cells: CellLimits;
  /** This share of the zones is cut off from the others, once a tenth of all pieces have come. */
  cutZones: number;
  kind: RegistryKind;
  /** Pieces of the image, and those of them that a start reads. */
  pieces: number;
  startPieces: number;
  /** Each link, bytes per ms: 125,000 are 1 Gbit/s. */
  nodeRate: number;
  registryRate: number;
  /** A start asks for so many pieces at once. */
  window: number;
  /** This share of the nodes wants all pieces as prefetch, at the start; the others, the readers, come so much later, ms. */
  aheadShare: number;
  readersAfterMs: number;
  /** Slow ones; undefined: each node has its own, which are fast. */
  processors: (ProcessorOptions & { isShared: boolean }) | undefined;
}

export const START: StartOptions = {
  seed: 1,
  nodes: 1,
  zones: 1,
  replicas: 2,
  perHolder: 2,
  deadShare: 0,
  lyingShare: 0,
  oldShare: 0,
  cells: CELL_LIMITS,
  cutZones: 0,
  kind: 'tokens',
  pieces: 32,
  startPieces: 32,
  nodeRate: 125_000,
  registryRate: 125_000,
  window: 32,
  aheadShare: 0,
  readersAfterMs: 0,
  processors: undefined,
};

export interface StartResult {
  nodes: number;
  /** Nodes that live and have started, and when the first, the one in the middle and the last had: of readers, where others want all ahead. */
  started: number;
  living: number;
  /** ms */
  firstMs: number;
  medianMs: number;
  lastMs: number;
  /** What the registry sent, in images. */
  egress: number;
  checksPerNode: number;
  messagesPerNode: number;
  /** Messages that came to the member to which most came. */
  busiest: number;
  wrong: number;
  events: number;
}

const UNTIL_MS = 3_600_000;
/** A process reads so many pieces at once (src/registry/fleet-door.ts). */
const TOGETHER = 4;

export function memberOf(id: string, zone: string, weight = 1): Member {
  return {
    v: 2,
    fleet: 'sim',
    id,
    zone,
    address: `${id}:7443`,
    fingerprint: Array.from({ length: 32 }, () => '00').join(':'),
    role: 'node',
    weight,
    version: '0',
    life: `${id}-life-1`,
    since: 0,
    everyMs: 600_000,
  };
}

/** Blobs of eight pieces each, the last one shorter. */
export function imageOf(pieces: number): Array<{ source: BlobSource; index: number }> {
  return Array.from({ length: pieces }, (_, at) => {
    const blob = Math.floor(at / 8);
    const count = Math.min(8, pieces - blob * 8);
    const digest = `sha256:${blob.toString(16).padStart(64, 'c')}`;
    return {
      source: { registry: 'registry', repository: 'app', digest, size: count * PIECE_BYTES - 1_000 },
      index: at % 8,
    };
  });
}

export function runStart(options: Partial<StartOptions> = {}): StartResult {
  const all = { ...START, ...options };
  const world = new World(all.seed);
  const ids = Array.from({ length: all.nodes }, (_, at) => `node-${at}`);
  const registry = new Registry(world, all.kind, all.registryRate, 20, ids);
  const net = new Net(world, registry);
  const { processors: slow } = all;
  const shared = slow?.isShared === true ? new Processors(world, slow) : undefined;
  const members = new Members('sim', { replicas: Math.max(1, all.replicas), cells: all.cells });
  const nodes = ids.map((id, at) => {
    const zone = `zone-${at % all.zones}`;
    members.heard(memberOf(id, zone, all.replicas === 0 ? 0 : 1), 1, 0);
    return new SimNode(net, {
      id,
      zone,
      rate: all.nodeRate,
      room: 100_000,
      isLiar: world.random.chance(all.lyingShare),
      skewMs: 0,
      isOld: at < all.oldShare * all.nodes,
      members,
      processors: shared ?? (slow && new Processors(world, slow)),
      home: { perHolder: all.perHolder },
    });
  });
  for (const node of nodes) net.nodes.set(node.id, node);
  for (const node of nodes)
    if (nodes.length > 1 && world.random.chance(all.deadShare)) {
      node.kill();
      net.vanished.add(node.id);
    }
  const image = imageOf(all.pieces);
  const times: number[] = [];
  const living = nodes.filter(({ isDead }) => !isDead);
  let left = living.length;
  let came = 0;
  for (const [at, node] of living.entries()) {
    const isAhead = at < all.aheadShare * living.length;
    let next = 0;
    let done = 0;
    const one = () => {
      const piece = image[next++];
      if (piece === undefined) return;
      const isRead = next <= all.startPieces && !isAhead;
      node.want({ ...piece, class: isRead ? 'demand' : 'prefetch' }, () => {
        done += 1;
        came += 1;
        if (done === all.startPieces && !isAhead) times.push(world.now);
        if (done === image.length) left -= 1;
        if (all.cutZones > 0 && net.cut.size === 0 && came > (living.length * image.length) / 10)
          for (let zone = 0; zone < Math.ceil(all.zones * all.cutZones); zone++)
            net.cutFromOthers.add(`zone-${zone}`);
        one();
      });
    };
    for (let started = 0; started < all.window; started += TOGETHER)
      world.after(world.random.next() + (isAhead ? 0 : all.readersAfterMs), () => {
        for (let at = started; at < Math.min(all.window, started + TOGETHER); at++) one();
      });
  }
  world.run(UNTIL_MS, () => left === 0);
  times.sort((a, b) => a - b);
  const size = image.reduce((sum, { source }) => sum + source.size, 0) / 8;
  return {
    nodes: all.nodes,
    living: living.length,
    started: times.length,
    firstMs: times[0] ?? Number.NaN,
    medianMs: times[Math.floor(times.length / 2)] ?? Number.NaN,
    lastMs: times.at(-1) ?? Number.NaN,
    egress: registry.link.bytes / size,
    checksPerNode: registry.checks / all.nodes,
    messagesPerNode: net.messages / all.nodes,
    busiest: Math.max(...nodes.map(({ messages }) => messages)),
    wrong: net.wrongs,
    events: world.events,
  };
}
