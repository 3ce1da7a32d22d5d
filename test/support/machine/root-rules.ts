/**
 * What must hold of block roots, whatever an attacker pushes:
 *
 * - the log calls no root proven but that of the layer, and never calls that one refuted;
 * - a mount that trusts no one, or the operator alone, has no device of a forged root, nor has one that was asked for when
 *   the node had proven the layer's own.
 */
import { idOf } from '../../../actors/node-state.ts';
import { hexOf } from '../../../schemas/digest.ts';
import type { CofaEvent } from '../../../schemas/events.ts';
import type { TrustPolicy } from '../../../schemas/trust.ts';
import type { Loop, SimMount } from './kernel.ts';
import type { World } from './world.ts';

/** What a mount was decided on may be so old, ms. */
const DECIDED_MS = 5_000;

export class RootRules {
  readonly #world: World;
  /** Manifests of the attacker's images, hex. */
  readonly #own: readonly string[];
  /** When the log called the layer's root proven, by diffID. */
  readonly #proven = new Map<string, number>();
  /** Mounts by id, with the diffIDs whose roots were proven when they were asked for. */
  readonly #asked = new Map<string, { dir: string; proven: ReadonlySet<string> }>();

  constructor(world: World) {
    this.#world = world;
    const own = world.images.filter(({ isAttackers }) => isAttackers === true);
    this.#own = own.map(({ manifest }) => hexOf(manifest));
  }

  /** Of a layer device. */
  layerOf({ backing }: Loop): string {
    if (backing.kind !== 'disk') return `sha256:${backing.name}`;
    return `sha256:${/layers\/([0-9a-f]{64})\//.exec(backing.path)?.[1] ?? ''}`;
  }

  isForged(loop: Loop): boolean {
    return this.#world.forgeries.some(({ root }) => root === this.layerOf(loop));
  }

  /** Whether the image is the attacker's own. */
  isAttackers({ metadata }: SimMount): boolean {
    const backing = metadata?.backing;
    return backing?.kind === 'disk' && this.#own.some((manifest) => backing.path.includes(manifest));
  }

  /** Whether the attacker may let a read fail, for a moment at least: what he denied is remembered that long. */
  isDenied(mount: SimMount, loop: Loop): boolean {
    if (this.isForged(loop) || this.isAttackers(mount)) return true;
    return (this.#world.machine.met['blobs that lead to no state of theirs'] ?? 0) > 0;
  }

  /** The power was cut: the log may have lost what it said last. */
  forget(): void {
    this.#proven.clear();
  }

  onAppend(subject: string, event: CofaEvent): void {
    const { machine } = this.#world;
    const id = idOf(subject);
    if (event.type === 'root.proven' || event.type === 'root.refuted') {
      const layer = this.#world.layers.find(({ diffId }) => hexOf(diffId) === id);
      const isRight = layer?.root === event.root;
      machine.check(
        isRight === (event.type === 'root.proven'),
        () => `a ${isRight ? 'right' : 'wrong'} root of ${id} in ${event.type}`,
      );
      if (isRight) this.#proven.set(`sha256:${id}`, machine.now);
    }
    if (event.type === 'mount.requested') {
      const before = machine.now - DECIDED_MS;
      const proven = [...this.#proven].filter(([, at]) => at < before).map(([diffId]) => diffId);
      this.#asked.set(id, { dir: event.dir, proven: new Set(proven) });
    }
    if (event.type === 'mount.mounted') this.#checkMounted(id);
  }

  /** Of a mount that a user was told of. */
  checkTrusting(mount: SimMount | undefined, trust: TrustPolicy | undefined): void {
    const forged = mount?.devices.find((loop) => this.isForged(loop));
    this.#world.machine.check(
      forged === undefined || trust === undefined || trust === 'registry',
      () => `${mount?.point} trusts ${trust} and has a device of a forged root`,
    );
  }

  #checkMounted(id: string): void {
    const { kernel, machine } = this.#world;
    const { dir, proven } = this.#asked.get(id) ?? { dir: '', proven: new Set<string>() };
    const layers = (kernel.find(dir)?.devices ?? []).map((loop) => this.#world.layer(this.layerOf(loop)));
    if (layers.some(({ isForged }) => isForged === true)) machine.meet('mounts that believe an attacker');
    const wrong = layers.find(({ diffId, isForged }) => isForged === true && proven.has(diffId));
    machine.check(
      this.#world.plan.two || wrong === undefined,
      () => `${dir} has a forged root of ${wrong?.diffId}, whose own was proven before`,
    );
  }
}
