/** What lies between the members: NATS, connections from one to another, the registry, and what becomes of them. */
import type { AskerEffect } from '../../../actors/fleet-asker-protocol.ts';
import type { BlobSource, JobClass } from '../../../schemas/fetch.ts';
import { type SimNode, sizeOf } from './node.ts';
import type { Registry, World } from './world.ts';

/** ms. */
const MESSAGE_MS = 0.4;
const DIRECT_MS = 0.3;
/** While bytes come the asker hears so this often. */
const MOVES_MS = 500;
/** Of a member's processor for a message, and for each piece that it is about. */
const WORK_MS = 0.015;
const PIECE_MS = 0.005;
/** A request to a registry that does not answer. */
const REGISTRY_SILENT_MS = 3_000;
/** A connection to a machine that is gone. */
const CONNECT_MS = 2_000;

export class Net {
  readonly world: World;
  readonly registry: Registry;
  readonly nodes = new Map<string, SimNode>();
  /** Share of messages on NATS that get lost. */
  loss = 0;
  /** Zones that are cut off from the others, from NATS and from the registry. */
  readonly cut = new Set<string>();
  /** Zones that do not reach other zones; they reach the registry and their own NATS server. */
  readonly cutFromOthers = new Set<string>();
  isNatsAway = false;
  /** Nodes that died without a word: no one says that they are dead. */
  readonly vanished = new Set<string>();
  wrongs = 0;
  strangers = 0;
  messages = 0;
  #request = 0;

  constructor(world: World, registry: Registry) {
    this.world = world;
    this.registry = registry;
  }

  /** On NATS. `noOne`: it is known at once that no one listens. */
  message(
    from: SimNode,
    member: string,
    pieces: number,
    run: (to: SimNode) => void,
    noOne?: () => void,
  ): void {
    this.messages += 1;
    const to = this.nodes.get(member);
    const isSelf = to === from;
    const isCut = this.cut.has(from.zone) || (to !== undefined && !this.#reaches(from, to));
    if (!isSelf && isCut) return;
    if (!isSelf && this.isNatsAway) {
      // On a connection of their own.
      if (to !== undefined && !this.vanished.has(member)) this.direct(from, to, run);
      else if (to === undefined) noOne?.();
      return;
    }
    if (!isSelf && this.loss > 0 && this.world.random.chance(this.loss)) return;
    const { random } = this.world;
    this.world.after(isSelf ? 0 : MESSAGE_MS * (0.5 + random.next()), () => {
      if (to === undefined || to.isDead) {
        if (noOne !== undefined && !this.vanished.has(member)) noOne();
        return;
      }
      to.messages += 1;
      const waitMs = to.busyUntil - this.world.now;
      to.busyUntil = Math.max(to.busyUntil, this.world.now) + WORK_MS + pieces * PIECE_MS;
      if (to.options.processors !== undefined) this.#work(to, run);
      else if (waitMs <= 0) run(to);
      else
        this.world.after(waitMs, () => {
          if (!to.isDead) run(to);
        });
    });
  }

  /** On a connection between two members. */
  direct(from: SimNode, to: SimNode, run: (to: SimNode) => void): void {
    if (!this.#reaches(from, to)) return;
    this.world.after(from === to ? 0 : DIRECT_MS, () => {
      if (!to.isDead) this.#work(to, run);
    });
  }

  /** What a member does with a message. */
  #work(to: SimNode, run: (to: SimNode) => void): void {
    const { processors } = to.options;
    if (processors === undefined) return run(to);
    processors.run(processors.messageMs, () => {
      if (!to.isDead) run(to);
    });
  }

  /** What a member does with a piece that it sends or gets. Returns what cancels it; undefined: it is done. */
  #workOn({ options: { processors } }: SimNode, then: () => void): (() => void) | undefined {
    if (processors !== undefined) return processors.run(processors.pieceMs, then);
    then();
    return undefined;
  }

  /** Asks for the bytes of a piece; returns the number of the request. `flight`: for a home. */
  get(
    by: SimNode,
    member: string,
    source: BlobSource,
    index: number,
    urgency: JobClass,
    token: boolean,
    tried: readonly string[],
    cell: number | undefined,
    flight?: number,
  ): number {
    const request = ++this.#request;
    const to = this.nodes.get(member);
    const key = `${source.registry} ${source.digest} ${index}`;
    const fail = () => {
      if (by.isDead) return;
      if (flight === undefined) by.silent(member, key);
      else by.gotForHome(member, flight, key, undefined);
    };
    if (to === undefined || !this.#reaches(by, to) || this.vanished.has(member)) {
      this.world.after(CONNECT_MS, fail);
      return request;
    }
    this.world.after(by === to ? 0 : DIRECT_MS, () => {
      if (to.isDead) fail();
      else
        this.#work(to, () => to.requested(by, request, source, index, urgency, token, tried, cell, flight));
    });
    return request;
  }

  /**
   * Bytes from one member to another. Those that share a link all go on, so `moves` is called while it lasts. Returns what
   * cancels it: `done` is not called then.
   */
  transfer(
    from: SimNode,
    to: SimNode,
    bytes: number,
    moves: () => void,
    done: (ok: boolean) => void,
  ): () => void {
    const { world } = this;
    if (from === to) return world.after(0.1, () => done(true));
    const isOpen = () => !from.isDead && !to.isDead && this.#reaches(from, to);
    const tell = () => {
      if (isOpen()) moves();
      stop = world.after(MOVES_MS, tell);
    };
    let stop: () => void = () => {};
    const arrived = () => {
      stop();
      if (to.isDead || isOpen()) done(!to.isDead);
      else cancel = world.after(this.vanished.has(from.id) ? CONNECT_MS : 0, () => done(false));
    };
    let cancel: () => void = () => {};
    const send = () => {
      stop = world.after(MOVES_MS, tell);
      cancel = from.up.send(bytes, () => {
        cancel = to.down.arrive(bytes, () => {
          cancel = this.#workOn(to, arrived) ?? cancel;
        });
      });
    };
    cancel = this.#workOn(from, send) ?? cancel;
    return () => {
      stop();
      cancel();
    };
  }

  /** `as`: whose right is used; undefined: everyone's. */
  read(
    node: SimNode,
    source: BlobSource,
    index: number,
    as: string | undefined,
    done: (ok: boolean, refused: boolean) => void,
  ): void {
    const answer = (ok: boolean, refused: boolean) => {
      if (!node.isDead) done(ok, refused);
    };
    if (this.registry.isAway || this.cut.has(node.zone)) {
      this.world.after(REGISTRY_SILENT_MS, () => answer(false, false));
      return;
    }
    this.world.after(this.registry.latencyMs, () => {
      if (!this.registry.gives(as)) return answer(false, true);
      this.registry.count(node.zone, source, index);
      const bytes = sizeOf(source, index);
      this.registry.link.send(bytes, () =>
        node.down.arrive(bytes, () => void this.#workOn(node, () => answer(true, false))),
      );
    });
  }

  check(node: SimNode, as: string | undefined, done: (may: boolean | undefined) => void): void {
    this.registry.checks += 1;
    const isOut = this.registry.isAway || this.cut.has(node.zone);
    this.world.after(isOut ? REGISTRY_SILENT_MS : this.registry.latencyMs, () => {
      if (!node.isDead) done(isOut ? undefined : this.registry.gives(as));
    });
  }

  /** A home wants to see that the asker can read some bytes, which it draws now. */
  challenge(home: SimNode, asker: string, source: BlobSource): void {
    const { rights } = home.home;
    const { now } = this.world;
    if (rights.openFor(asker, source, now) !== undefined) return;
    const nonce = String(this.world.random.int(0, 2 ** 31));
    rights.challenged(asker, source, { nonce, from: 0, to: 1 }, `${nonce} ${asker} read`, now);
  }

  prove(asker: SimNode, effect: Extract<AskerEffect, { type: 'prove' }>): void {
    const { source, member } = effect;
    const nonce = this.nodes.get(member)?.home.rights.openFor(asker.id, source, this.world.now)?.nonce ?? '';
    this.check(asker, asker.id, (may) => {
      const hash = `${nonce} ${asker.id} ${may === true ? 'read' : 'guessed'}`;
      this.message(asker, member, 1, (to) => {
        to.home.rights.proved(asker.id, source, { nonce, hash }, this.world.now);
        to.asked(asker, { ...effect, token: false });
      });
    });
  }

  #reaches(a: SimNode, b: SimNode): boolean {
    if (a.zone === b.zone) return true;
    return ![a.zone, b.zone].some((zone) => this.cut.has(zone) || this.cutFromOthers.has(zone));
  }
}
