/**
 * One seed of a fleet with faults: some nodes in some zones want pieces of an image while members join, die and come back,
 * zones are cut off, NATS or the registry is away, members are slow, lie, lose messages or have no disk. Rules are checked
 * while it runs and at its end:
 *
 * - no reader gets a wrong byte, and no member tells homes that it has a piece before it is verified (SimNode);
 * - no member sends bytes to one whose right the registry would deny, but to a home of the piece; no such one gets them
 *   for its containers (SimNode);
 * - while nothing is wrong in a zone each of its pieces is fetched from the registry once;
 * - what a reader wants is given by the fleet or read from the registry before the asker's patience ends, whatever is wrong
 *   (SimNode), and is there within `DEMAND_MS` of the end of what keeps it away;
 * - at the end nothing waits, nothing is under way, and each queue has kept its bounds.
 */
import { HOME_LIMITS } from '../../../actors/fleet-home-protocol.ts';
import { Members } from '../../../actors/fleet-members.ts';
import type { Member } from '../../../schemas/fleet.ts';
import { Random } from '../random.ts';
import { Net } from './net.ts';
import { SimNode } from './node.ts';
import { imageOf, memberOf } from './start.ts';
import { Registry, type RegistryKind, World } from './world.ts';

export interface FaultsOutcome {
  seed: number;
  /** What the seed met. */
  met: string[];
  events: number;
  simulatedMs: number;
  origin: number;
  wrong: number;
}

/** Of a member's link, bytes per ms, and how much slower a slow one's is. */
const RATE = 125_000;
const SLOW = 60;
const ANNOUNCE_MS = 1_000;
/** After the last reader has what it wants: leases and slots of those that came to nothing end. */
const SETTLE_MS = 20_000;
const FAULTS_MS = 16_000;
const END_MS = 180_000;
/** A reader waits no longer once the faults are over: the fleet's patience, the registry's, and a retry. */
const DEMAND_MS = 30_000;

export const FAULTS = [
  'killed',
  'vanished',
  'back',
  'joined',
  'cut off',
  'cut from other zones',
  'NATS away',
  'registry away',
  'slow',
  'full disk',
  'liar',
  'lost messages',
  'clock',
] as const;
type Fault = (typeof FAULTS)[number];

export function runFaults(seed: number): FaultsOutcome {
  return new Run(seed).run();
}

class Run {
  readonly #seed: number;
  readonly #world: World;
  readonly #net: Net;
  /** Draws by itself: what is added here changes no other draw of a seed. */
  readonly #narrow: Random;
  readonly #isCrowded: boolean;
  /** Members of a cell; undefined: zones have none. */
  readonly #cell: number | undefined;
  readonly #met = new Set<string>();
  /** Zones in which something has gone wrong: there a piece may be fetched more than once. */
  readonly #troubled = new Set<string>();
  readonly #zones: string[];
  readonly #image: ReturnType<typeof imageOf>;
  readonly #lives = new Map<string, number>();
  readonly #intruders = new Set<string>();
  readonly #demand: Array<{ node: SimNode; since: number; isOver: boolean; what: string }> = [];
  #revision = 0;
  #quietAt = 0;

  constructor(seed: number) {
    this.#seed = seed;
    const world = new World(seed);
    this.#world = world;
    this.#narrow = new Random(seed + 1_000_003);
    this.#isCrowded = this.#narrow.chance(0.3);
    if (this.#isCrowded) this.#met.add('few at once');
    const cells = new Random(seed + 2_000_003);
    this.#cell = cells.chance(0.5) ? cells.int(1, 4) : undefined;
    if (this.#cell !== undefined) this.#met.add('cells');
    const { random } = world;
    const nodes = random.int(2, 14);
    this.#zones = Array.from({ length: random.int(1, 3) }, (_, at) => `zone-${at}`);
    const ids = Array.from({ length: nodes + 3 }, (_, at) => `node-${at}`);
    for (const id of ids.slice(1, nodes)) if (random.chance(0.12)) this.#intruders.add(id);
    const kind: RegistryKind = random.pick(['public', 'tokens', 'tokens', 'basic']);
    if (kind === 'public') this.#intruders.clear();
    const allowed = ids.filter((id) => !this.#intruders.has(id));
    this.#net = new Net(world, new Registry(world, kind, RATE, random.int(2, 60), allowed));
    this.#image = imageOf(random.pick([8, 16, 24]));
    this.#met.add(kind);
    if (this.#intruders.size > 0) this.#met.add('no right');
    for (const id of ids.slice(0, nodes)) this.#boot(id, random.pick(this.#zones), false);
    for (const node of this.#net.nodes.values())
      for (const other of this.#net.nodes.values()) this.#hears(other, node);
    this.#plan(ids.slice(nodes));
  }

  run(): FaultsOutcome {
    const world = this.#world;
    for (const node of this.#net.nodes.values()) this.#start(node);
    try {
      world.run(FAULTS_MS);
      this.#heal();
      world.run(END_MS, () => this.#isDone());
      world.run(Math.min(END_MS, world.now + SETTLE_MS));
      this.#checkEnd();
    } catch (error) {
      throw new Error(`seed ${this.#seed}: ${(error as Error).message} (${[...this.#met].join(', ')})`, {
        cause: error,
      });
    }
    const origin = [...this.#net.registry.origin.values()].reduce((sum, count) => sum + count, 0);
    const { events, now } = world;
    return {
      seed: this.#seed,
      met: [...this.#met],
      events,
      simulatedMs: now,
      origin,
      wrong: this.#net.wrongs,
    };
  }

  // ---- the plan

  #plan(spare: readonly string[]): void {
    const { random } = this.#world;
    // A quarter of the seeds has no faults: rules that faults excuse are strict there.
    const faults: Fault[] = random.chance(0.25)
      ? []
      : Array.from({ length: random.int(1, 4) }, () => random.pick(FAULTS));
    if (faults.length === 0) this.#met.add('calm');
    for (const fault of faults) {
      this.#met.add(fault);
      const at = random.int(0, 3_000);
      this.#world.after(at, () => this.#strike(fault, spare));
    }
  }

  #strike(fault: Fault, spare: readonly string[]): void {
    const { random } = this.#world;
    const node = random.pick([...this.#net.nodes.values()]);
    const zone = node.zone;
    const forMs = random.int(500, 12_000);
    if (fault !== 'clock') this.#troubled.add(zone);
    switch (fault) {
      case 'killed':
      case 'vanished':
      case 'back':
        node.kill();
        if (fault === 'vanished') this.#net.vanished.add(node.id);
        if (fault === 'back') this.#world.after(forMs, () => this.#boot(node.id, zone, true));
        return;
      case 'joined': {
        const id = spare.find((one) => !this.#net.nodes.has(one));
        if (id !== undefined) this.#start(this.#boot(id, zone, true));
        return;
      }
      case 'cut off':
        this.#net.cut.add(zone);
        this.#world.after(forMs, () => this.#net.cut.delete(zone));
        return;
      case 'cut from other zones':
        this.#net.cutFromOthers.add(zone);
        this.#world.after(forMs, () => this.#net.cutFromOthers.delete(zone));
        return;
      case 'NATS away':
        for (const one of this.#zones) this.#troubled.add(one);
        this.#setNats(true);
        this.#world.after(forMs, () => this.#setNats(false));
        return;
      case 'registry away':
        for (const one of this.#zones) this.#troubled.add(one);
        this.#net.registry.isAway = true;
        this.#world.after(forMs, () => (this.#net.registry.isAway = false));
        return;
      case 'slow':
        // Not slower when it strikes the same one again: a piece would take longer than readers may wait.
        for (const link of [node.up, node.down]) link.rate = RATE / SLOW;
        return;
      case 'full disk':
        node.options.room = 2;
        return;
      case 'liar':
        node.options.isLiar = true;
        return;
      case 'lost messages':
        for (const one of this.#zones) this.#troubled.add(one);
        this.#net.loss = 0.1;
        this.#world.after(forMs, () => (this.#net.loss = 0));
        return;
      case 'clock':
        node.options.skewMs = random.int(-1e9, 1e9);
    }
  }

  #setNats(isAway: boolean): void {
    this.#net.isNatsAway = isAway;
  }

  #heal(): void {
    this.#net.cut.clear();
    this.#net.cutFromOthers.clear();
    this.#net.loss = 0;
    this.#net.registry.isAway = false;
    if (this.#net.isNatsAway) this.#setNats(false);
    this.#quietAt = this.#world.now;
  }

  // ---- members

  #boot(id: string, zone: string, isAnnounced: boolean): SimNode {
    const { random } = this.#world;
    this.#net.vanished.delete(id);
    this.#lives.set(id, (this.#lives.get(id) ?? 0) + 1);
    // Its patience ends in the queue, so it reads what the zone has.
    const isNarrow = this.#isCrowded && this.#narrow.chance(0.3);
    if (isNarrow) this.#troubled.add(zone);
    const node = new SimNode(this.#net, {
      id,
      zone,
      rate: RATE,
      room: 10_000,
      isLiar: false,
      skewMs: 0,
      members: new Members(
        'sim',
        this.#cell === undefined ? {} : { cells: { undivided: this.#cell, members: this.#cell } },
      ),
      home: random.chance(0.3) ? { uploads: 1, queued: 2, waiting: 4 } : {},
      asker: isNarrow ? { atOnce: 2 } : {},
    });
    this.#net.nodes.set(id, node);
    this.#hears(node, node);
    const announce = () => {
      if (node.isDead) return;
      for (const other of this.#net.nodes.values())
        if (other !== node) this.#net.message(node, other.id, 1, () => this.#hears(node, other));
      node.tick();
      this.#checkBounds(node);
      this.#world.after(ANNOUNCE_MS, announce);
    };
    if (isAnnounced) {
      // It reads the bucket first.
      for (const other of this.#net.nodes.values()) if (!other.isDead) this.#hears(other, node);
      announce();
    } else this.#world.after(random.next() * ANNOUNCE_MS, announce);
    return node;
  }

  #hears(of: SimNode, by: SimNode): void {
    const member: Member = {
      ...memberOf(of.id, of.zone),
      life: `${of.id}-life-${this.#lives.get(of.id) ?? 1}`,
      since: Math.max(0, this.#world.now + of.options.skewMs),
      everyMs: ANNOUNCE_MS,
    };
    by.members.heard(member, ++this.#revision, this.#world.now);
    // Another fleet on the same NATS has members of the same names, at addresses of its own.
    by.members.heard({ ...member, fleet: 'other', zone: 'elsewhere' }, ++this.#revision, this.#world.now);
    if (by.members.get(of.id)?.fleet !== 'sim')
      this.#world.break('a member of another fleet was taken for one');
  }

  #start(node: SimNode): void {
    const { random } = this.#world;
    const from = random.int(0, 1_500);
    for (const [at, piece] of this.#image.entries()) {
      const isDemand = random.chance(0.5);
      this.#world.after(from + at * random.next() * 30, () => {
        if (node.isDead) return;
        const entry = {
          node,
          since: this.#world.now,
          isOver: false,
          what: `${piece.source.digest.slice(-4)}/${piece.index}`,
        };
        if (isDemand) this.#demand.push(entry);
        node.want({ ...piece, class: isDemand ? 'demand' : 'prefetch' }, () => {
          entry.isOver = true;
          const since = Math.max(entry.since, this.#quietAt);
          if (isDemand && this.#quietAt > 0 && this.#world.now - since > DEMAND_MS)
            this.#world.break(
              `a reader at ${node.id} has waited ${(this.#world.now - since).toFixed(0)} ms for ${entry.what}`,
            );
        });
      });
    }
  }

  // ---- rules

  /** Cheap enough to be asked before each event. */
  #isDone(): boolean {
    if (this.#world.events % 64 !== 0) return false;
    for (const node of this.#net.nodes.values())
      if (!node.isDead && node.waits > 0 && !this.#intruders.has(node.id)) return false;
    return true;
  }

  #checkBounds(node: SimNode): void {
    const { sending, queued, flights } = node.home.status();
    const limits = { ...HOME_LIMITS, ...node.options.home };
    // Demand has room that prefetch cannot take.
    if (sending > limits.uploads || queued > 2 * limits.queued || flights > limits.flights)
      this.#world.break(
        `${node.id} has ${sending} uploads, ${queued} that wait, ${flights} fetches: more than it may`,
      );
  }

  #checkEnd(): void {
    const world = this.#world;
    for (const { node, isOver, what } of this.#demand) {
      if (node.isDead || isOver || this.#intruders.has(node.id)) continue;
      world.break(`a reader at ${node.id} still waits for ${what}`);
    }
    for (const node of this.#net.nodes.values()) {
      if (node.isDead) continue;
      const isIntruder = this.#intruders.has(node.id);
      if (node.waits > 0 && !isIntruder) world.break(`${node.id} still waits for ${node.waits} pieces`);
      const { flights, sending, queued, waiting } = node.home.status();
      if (this.#intruders.size === 0 && flights + sending + queued + waiting > 0)
        world.break(`${node.id} still has ${JSON.stringify(node.home.status())}`);
      if (!isIntruder && node.asker.status().wanted > 0) world.break(`${node.id} still asks for pieces`);
    }
    for (const [key, count] of this.#net.registry.origin) {
      const zone = key.slice(0, key.indexOf(' '));
      if (!this.#troubled.has(zone) && this.#intruders.size === 0 && count > 1)
        world.break(`the registry was asked ${count} times for ${key}, and nothing was wrong there`);
    }
  }
}
