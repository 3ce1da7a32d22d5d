/**
 * Draws attacks on a node and what it does meanwhile. After each step:
 *
 *     bytes     a device of the genuine root has genuine blocks alone, whatever else was fetched, packed or indexed
 *     vouched   an image under a tight policy, or one whose roots are proven, has the genuine roots and metadata
 *     proven    no root is proven but the genuine one, and that one is not refuted
 *     apart     two roots never share a device
 *     served    an image that an honest sidecar vouches for is prepared, and an honest registry's blocks of it come
 */
import { join } from 'node:path';
import { layersText } from '../../actors/device.ts';
import { type FleetWord, fleetWord, Ledger, provenHere } from '../../actors/fleet-ledger.ts';
import { standingOf } from '../../actors/node-state.ts';
import { membersOfVoucher } from '../../actors/voucher.ts';
import type { BlockPair } from '../../schemas/fetch.ts';
import type { LedgerEntry } from '../../schemas/fleet.ts';
import type { TrustPolicy } from '../../schemas/trust.ts';
import type { Descriptor } from '../../src/registry/client.ts';
import { attachSignature } from '../../src/signature/sign.ts';
import { digestOf } from '../../src/digest/digest.ts';
import { BLOCK_SIZE, type Compression } from '../../src/image/span-table.ts';
import type { ResolvedImage } from '../../src/registry/client.ts';
import { pushSidecar, SIDECAR_REVISION, type Sidecar } from '../../src/registry/sidecars.ts';
import { layerTar } from '../image/layer-blobs.ts';
import { TarBytes } from '../images/tar-bytes.ts';
import { type GenuineLayer, genuineLayer, rewritten } from '../support/attacker/layer.ts';
import { HostileRegistry } from '../support/attacker/registry.ts';
import {
  flatOfSizes,
  flatWithSwapped,
  forgedHints,
  honestSidecar,
  packOf,
  replaySignature,
  withTables,
} from '../support/attacker/sidecars.ts';
import { type Forgery, type ForgeryKind, forge } from '../support/attacker/tables.ts';
import { type Pair, pair } from '../signature/support.ts';
import { Random } from '../support/random.ts';
import { type Device, Node, type Prepared } from './node.ts';

/** What an attack came to. */
export interface Outcome {
  kinds: ForgeryKind[];
  /** Blocks that readers were served of devices of the genuine root. */
  genuine: number;
  /** Blocks of forged roots that were fetched: as their author meant them, on devices of their own. */
  forged: number;
  /** Mounts that got what the attacker forged, under the one policy that believes whoever may push. */
  believed: number;
  /** Sidecars that were taken on the word of a member of the fleet. */
  witnessed: number;
}

/** Layers for all attacks. Making one takes longer than an attack. */
export async function layersToAttack(): Promise<GenuineLayer[]> {
  const sizes: Array<[Compression, number]> = [
    ['gzip', 2_200_000],
    ['gzip', 1_100_000],
    ['gzip', 66_000],
    ['gzip', 40_000],
    ['zstd', 1_200_000],
    ['none', 1_100_000],
    // Its last block is whole.
    ['gzip', 4 * BLOCK_SIZE - 1536],
  ];
  return await Promise.all(
    sizes.map(([compression, size], seed) => {
      // Two files, so that they can change places.
      const data = layerTar(seed + 1, size - OTHER);
      const other = Buffer.alloc(OTHER - 4 * 512, 'other ');
      const tar = new TarBytes().file(`file-${seed}`, data).file(`other-${seed}`, other);
      return genuineLayer(tar.bytes(), compression);
    }),
  );
}

/** Bytes of a layer's second file, and of all headers. */
const OTHER = 8_192;

const OPERATOR = pair('operator');
const STRANGER = pair('stranger');

const POLICIES: readonly TrustPolicy[] = [
  'registry',
  'registry',
  'registry',
  'fleet',
  'signed',
  'own',
  'never',
];
/** One member of the fleet is honest, and has proven all genuine layers: so none that lies is alone. */
const TIGHT: ReadonlySet<TrustPolicy> = new Set(['fleet', 'signed', 'own', 'never']);

/** One attack, from its seed alone. Throws where a rule is broken. */
export async function attack(
  seed: number,
  directory: string,
  layers: readonly GenuineLayer[],
): Promise<Outcome> {
  const world = await World.draw(new Random(seed), join(directory, `${seed}`), layers);
  try {
    await world.run();
    return world.outcome;
  } catch (error) {
    throw new Error(`attack ${seed} (${world.outcome.kinds.join(', ')}): ${String(error)}`, { cause: error });
  } finally {
    await world.end();
  }
}

/** An image in the registry. */
interface Target {
  image: ResolvedImage;
  layers: readonly GenuineLayer[];
  /** Of the attacker's own: its layers are not what its config says. */
  isAttackers: boolean;
  prepared?: { by: Prepared; policy: TrustPolicy };
}

class World {
  readonly outcome: Outcome = { kinds: [], genuine: 0, forged: 0, believed: 0, witnessed: 0 };
  readonly #random: Random;
  readonly #registry = new HostileRegistry();
  readonly #node: Node;
  readonly #layers: readonly GenuineLayer[];
  readonly #targets: Target[] = [];
  readonly #forgeries: Array<{ layer: GenuineLayer; forgery: Forgery }> = [];
  readonly #flats = new Map<string, string>();
  /** Honest sidecars that the operator lists, by the image's manifest. */
  readonly #listed = new Map<string, string>();
  /** Images whose honest sidecar the operator has signed, by manifest. */
  readonly #signed = new Set<string>();
  /** Flat metadata of forged sidecars. */
  readonly #forgedFlats: string[] = [];
  /** Manifests of the operator's signatures, which lie in the registry for all to see. */
  readonly #signatures: Buffer[] = [];

  private constructor(random: Random, root: string, layers: readonly GenuineLayer[]) {
    this.#random = random;
    this.#layers = layers;
    this.#node = new Node(root, this.#registry, OPERATOR.trusted, async (image) => this.#wordOn(image));
  }

  static async draw(random: Random, root: string, pool: readonly GenuineLayer[]): Promise<World> {
    const first = random.pick(pool);
    const others = pool.filter((layer) => layer !== first);
    const world = new World(random, root, random.chance(0.4) ? [first, random.pick(others)] : [first]);
    await world.#pushAll();
    return world;
  }

  async run(): Promise<void> {
    for (const target of this.#targets) if (this.#random.chance(0.7)) await this.#prepare(target);
    for (let steps = this.#random.int(4, 12); steps > 0; steps--) {
      const target = this.#random.pick(this.#targets);
      await this.#step(target);
      this.#check();
      // What another one's fetch has written is found at the end.
      await this.#checkBytes(target);
    }
    for (const target of this.#targets) await this.#checkBytes(target);
  }

  async end(): Promise<void> {
    await this.#registry.close();
    await this.#node.end();
  }

  // ── What lies in the registry ──

  async #pushAll(): Promise<void> {
    const random = this.#random;
    const layers = this.#layers;
    for (const name of ['honest', 'twin'].slice(0, random.int(1, 2))) {
      const image = await this.#registry.pushImage(name, layers);
      this.#targets.push({ image, layers, isAttackers: false });
    }
    for (let count = random.int(1, 3); count > 0; count--) {
      const layer = random.pick(layers);
      this.#forgeries.push({ layer, forgery: await forge(layer, random) });
    }
    this.outcome.kinds.push(...this.#forgeries.map(({ forgery }) => forgery.kind));
    for (const target of this.#targets) {
      if (random.chance(0.7)) await this.#pushHonest(target);
      for (const one of this.#forgeries) if (random.chance(0.7)) await this.#pushForged(target, one);
    }
    for (const one of this.#forgeries) if (random.chance(0.6)) await this.#pushPoisoned(one);
    for (const { layer, forgery } of this.#forgeries) {
      const isFitting = forgery.table.blobDigest === layer.blobDigest && forgery.blob !== layer.blob;
      if (isFitting && random.chance(0.6)) this.#registry.lies.set(layer.blobDigest, forgery.blob);
    }
    await this.#node.list([...this.#listed.values()]);
  }

  async #pushHonest({ image, layers }: Target): Promise<void> {
    const pushed = await pushSidecar(this.#registry, image, honestSidecar(layers));
    if (this.#random.chance(0.6)) this.#listed.set(image.descriptor.digest, pushed.digest);
    if (this.#random.chance(0.5)) await this.#sign(image, pushed, OPERATOR);
  }

  async #sign(image: ResolvedImage, sidecar: Descriptor, by: Pair): Promise<void> {
    const { digest } = await attachSignature(this.#registry, image.reference, sidecar, by.signing, {
      now: new Date(0),
    });
    if (by !== OPERATOR) return;
    this.#signed.add(image.descriptor.digest);
    this.#signatures.push((await this.#registry.manifest(image.reference, digest)).bytes);
  }

  async #pushForged(
    { image, layers }: Target,
    { layer, forgery }: { layer: GenuineLayer; forgery: Forgery },
  ) {
    const forged = this.#forgedSidecar(layers, layers.indexOf(layer), forgery);
    await this.#feignSignature(image, await pushSidecar(this.#registry, image, forged));
  }

  /** He has keys that no operator trusts, and every signature that he has seen. */
  async #feignSignature(image: ResolvedImage, sidecar: Descriptor): Promise<void> {
    if (this.#random.chance(0.2)) await this.#sign(image, sidecar, STRANGER);
    if (this.#signatures.length === 0 || !this.#random.chance(0.4)) return;
    const signature = this.#random.pick(this.#signatures);
    await replaySignature(this.#registry, image.reference, signature, sidecar);
  }

  /** Flat metadata, hints and names that fit the forged table, as far as he can make them. */
  #forgedSidecar(layers: readonly GenuineLayer[], at: number, { table }: Forgery): Sidecar {
    const sidecar = withTables(honestSidecar(layers), new Map([[at, table]]));
    const diffIds = layers.map(({ diffId }) => diffId);
    const isSwapped = this.#random.chance(0.15);
    const flat = isSwapped
      ? flatWithSwapped(layers, at)
      : flatOfSizes(layers, new Map([[at, table.rawSize]]));
    this.#forgedFlats.push(digestOf(flat));
    return {
      ...sidecar,
      flat,
      ...(this.#random.chance(0.5) ? { hints: forgedHints(diffIds, this.#random) } : {}),
    };
  }

  /** An image of the attacker's own that gives the layer's diffID to his blob, or to the genuine one. */
  async #pushPoisoned({ layer, forgery }: { layer: GenuineLayer; forgery: Forgery }): Promise<void> {
    const isOwn = digestOf(forgery.blob) === forgery.table.blobDigest;
    const base = { ...layer, blob: isOwn ? forgery.blob : layer.blob, diffId: forgery.table.diffId };
    const named = { ...base, blobDigest: digestOf(base.blob) };
    const image = await this.#registry.pushImage(`attack-${this.#targets.length}`, [base]);
    const pushed = await pushSidecar(this.#registry, image, this.#forgedSidecar([named], 0, forgery));
    await this.#feignSignature(image, pushed);
    this.#targets.push({ image, layers: [layer], isAttackers: true });
  }

  // ── What the node does ──

  async #step(target: Target): Promise<void> {
    const random = this.#random;
    const { prepared } = target;
    if (prepared === undefined || random.chance(0.15)) return await this.#prepare(target);
    // A forged size may leave no file of a layer inside of it.
    const device = random.pick([undefined, ...prepared.by.devices].slice(-prepared.by.devices.length));
    if (device === undefined) return;
    const chance = random.next();
    if (chance < 0.55) await this.#fetch(target, device);
    else if (chance < 0.75) await this.#node.settle(device);
    else if (chance < 0.82) await this.#pack(prepared.by, device);
    else if (chance < 0.9) this.#node.evict(device, this.#runs(device));
    else if (chance < 0.95) await this.#node.scrub(device);
    else this.#lie();
  }

  async #prepare(target: Target): Promise<void> {
    const policy = this.#random.pick(POLICIES);
    const { digest } = target.image.descriptor;
    const isVouched =
      (TIGHT.has(policy) && policy !== 'never' && this.#listed.has(digest)) ||
      ((policy === 'signed' || policy === 'fleet') && this.#signed.has(digest));
    // It builds the flat image in a process of its own, which takes longer than all else.
    const asChain = this.#random.chance(0.005);
    const isTold = this.#registry.lies.size === 0;
    try {
      const by = await this.#node.prepare(target.image, policy, asChain);
      target.prepared = { by, policy };
      if (membersOfVoucher(by.vouched) !== undefined) this.outcome.witnessed += 1;
      if (by.devices.some((device) => this.#genuineOf(device) === undefined)) this.outcome.believed += 1;
      const standings = by.devices.map(({ diffId, root = '' }) =>
        standingOf(this.#node.state.roots, diffId, root),
      );
      if (standings.includes('other')) throw new Error('proven: a root that the node knows to be wrong');
    } catch (error) {
      if (String(error).includes('proven:')) throw error;
      const mayFail = target.isAttackers || (!isTold && !isVouched);
      if (!mayFail) throw new Error(`served: ${policy}: ${String(error)}`, { cause: error });
    }
  }

  async #fetch(target: Target, device: Device): Promise<void> {
    const runs = this.#runs(device);
    const { came, error } = await this.#node.fetch(target.image, device, runs);
    const genuine = this.#genuineOf(device);
    if (genuine === undefined) {
      this.outcome.forged += came.length;
      return;
    }
    // Members vouch for what blocks are, and not for the spans by which they come.
    const { policy = 'registry' } = target.prepared ?? {};
    const isHonest = TIGHT.has(policy) && policy !== 'fleet';
    if (!isHonest || target.isAttackers || this.#registry.lies.has(genuine.blobDigest)) return;
    const wanted = runs.flatMap(([first, count]) => Array.from({ length: count }, (_, at) => first + at));
    if (wanted.some((block) => !came.includes(block)))
      throw new Error(`served: ${came.length} of ${wanted.length} blocks`, { cause: error });
  }

  async #pack(prepared: Prepared, device: Device): Promise<void> {
    const layer = this.#layers.find(({ diffId }) => diffId === device.diffId);
    if (layer === undefined) return;
    const content = this.#random.chance(0.3) ? layer.tar : rewritten(layer, this.#random);
    await this.#node.bring(prepared, await packOf(digestOf(content), layer, content));
  }

  /** The registry, or a mirror of it, gives other bytes for a blob from now on, or tells the truth again. */
  #lie(): void {
    this.#node.restart();
    const { layer, forgery } = this.#random.pick(this.#forgeries);
    if (!this.#registry.lies.delete(layer.blobDigest))
      this.#registry.lies.set(layer.blobDigest, forgery.blob);
  }

  #runs({ size }: Device): BlockPair[] {
    const blocks = Math.ceil(size / BLOCK_SIZE);
    if (this.#random.chance(0.3)) return [[0, blocks]];
    const first = this.#random.int(0, blocks - 1);
    return [[first, this.#random.int(1, blocks - first)]];
  }

  /** One member has proven the genuine layers; at times others vouch for what the attacker has forged. */
  #wordOn({ layers }: ResolvedImage): FleetWord {
    const subject = { layers: digestOf(layersText(layers)), diffIds: layers.map(({ diffId }) => diffId) };
    const ledger = new Ledger({ self: 'node', witnesses: 1, disbelieved: new Set(), subject });
    const mine = provenHere(this.#node.state, subject, { revision: SIDECAR_REVISION, digestOf });
    for (const entry of mine) ledger.found(entry);
    const root = (diffId: string, value: string): LedgerEntry => ({
      v: 1,
      verdict: 'proven',
      kind: 'root',
      diffId,
      root: value,
    });
    const flat = (value: string): LedgerEntry => ({
      v: 1,
      verdict: 'proven',
      kind: 'flat',
      layers: subject.layers,
      revision: SIDECAR_REVISION,
      flat: value,
    });
    const genuine = subject.diffIds.flatMap((id) => this.#layers.find(({ diffId }) => diffId === id) ?? []);
    for (const { diffId, spans } of genuine) ledger.heard('honest', root(diffId, spans.root));
    if (genuine.length === subject.diffIds.length) ledger.heard('honest', flat(this.#flatOf(genuine)));
    if (this.#random.chance(0.4))
      for (const [at, { layer, forgery }] of this.#forgeries.entries()) {
        ledger.heard(`liar-${at}`, root(layer.diffId, forgery.table.root));
        if (this.#forgedFlats.length > 0)
          ledger.heard(`liar-${at}`, flat(this.#random.pick(this.#forgedFlats)));
      }
    return fleetWord(ledger, { nodes: 2, answered: 2 });
  }

  // ── The rules ──

  /** Digest of the metadata that the layers give. */
  #flatOf(layers: readonly GenuineLayer[]): string {
    const key = layers.map(({ diffId }) => diffId).join();
    const known = this.#flats.get(key) ?? digestOf(honestSidecar(layers).flat);
    this.#flats.set(key, known);
    return known;
  }

  #genuineOf({ root }: Device): GenuineLayer | undefined {
    return this.#layers.find(({ spans }) => spans.root === root);
  }

  #check(): void {
    const { state } = this.#node;
    for (const { diffId, spans } of this.#layers) {
      const { proven, refuted = [] } = state.roots.get(diffId) ?? {};
      if (proven !== undefined && proven !== spans.root) throw new Error('proven: a forged root');
      if (refuted.includes(spans.root)) throw new Error('proven: the genuine root is refuted');
    }
    for (const { prepared, layers } of this.#targets) {
      if (prepared !== undefined) this.#checkVouched(prepared, layers);
    }
  }

  #checkVouched(
    { by, policy }: { by: Prepared; policy: TrustPolicy },
    layers: readonly GenuineLayer[],
  ): void {
    const isForged = by.devices.some((device) => this.#genuineOf(device) === undefined);
    if (!TIGHT.has(policy)) return;
    if (isForged) throw new Error(`vouched: ${policy} took a forged root`);
    if (by.flat !== this.#flatOf(layers)) throw new Error(`vouched: ${policy} took forged metadata`);
  }

  /** What readers of the image are served. */
  async #checkBytes({ prepared }: Target): Promise<void> {
    for (const device of prepared?.by.devices ?? []) {
      const genuine = this.#genuineOf(device);
      if (genuine === undefined) continue;
      for (const [block, bytes] of await this.#node.served(device)) {
        const at = block * BLOCK_SIZE;
        if (!bytes.equals(genuine.tar.subarray(at, at + BLOCK_SIZE)))
          throw new Error(`bytes: block ${block} of ${device.diffId}`);
        this.outcome.genuine += 1;
      }
    }
  }
}
