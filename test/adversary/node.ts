/**
 * A node as far as trust goes: its store, the fold of its log, the choice of sidecars, fetches, packs, proofs. All of that is the
 * engine's own code; what is left out are processes, the kernel and time.
 */
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { layerIdOf, jobLayerOf, tableNameOf } from '../../actors/device.ts';
import type { FleetWord } from '../../actors/fleet-ledger.ts';
import { emptyNode, foldEvent, type NodeState } from '../../actors/node-state.ts';
import { hexOf } from '../../schemas/digest.ts';
import type { CofaEvent, EventOf, NewEvent } from '../../schemas/events.ts';
import type { BlockPair, FetchJob, JobLayer, ScrubJob } from '../../schemas/fetch.ts';
import type { TrustPolicy } from '../../schemas/trust.ts';
import { chainIds } from '../../src/digest/chain-id.ts';
import { digestOf } from '../../src/digest/digest.ts';
import { noTimes, runFetch, SpanTables } from '../../src/fetch/fetch-job.ts';
import { Gate } from '../../src/fetch/gate.ts';
import { runPack } from '../../src/fetch/pack-job.ts';
import { checkBlocks } from '../../src/fetch/scrub-job.ts';
import { buildFlat } from '../../src/image/erofs.ts';
import { indexLayer } from '../../src/image/index-layer.ts';
import { BLOCK_SIZE } from '../../src/image/span-table.ts';
import type { ResolvedImage } from '../../src/registry/client.ts';
import { signaturesAmong } from '../../src/signature/among.ts';
import { signaturesOf } from '../../src/signature/find.ts';
import type { TrustedKey } from '../../src/signature/keys.ts';
import { hashDevice, openDevice } from '../../src/store/device.ts';
import { LaterSync } from '../../src/store/later-sync.ts';
import { Layout, writeWhole } from '../../src/store/layout.ts';
import { resolvedBy } from '../../src/supervisor/images/resolver.ts';
import { prepareChain } from '../../src/supervisor/images/chain-image.ts';
import {
  type ChoiceOptions,
  chooseSidecar,
  type Signers,
} from '../../src/supervisor/images/sidecar-choice.ts';
import { whole } from '../support/attacker/layer.ts';
import type { HostileRegistry } from '../support/attacker/registry.ts';

export type Prepared = EventOf<'image.prepared'>;
export type Device = Prepared['devices'][number];

export class Node {
  readonly layout: Layout;
  readonly registry: HostileRegistry;
  state: NodeState = emptyNode();
  /** What members of its fleet say of an image. */
  fleet: (image: ResolvedImage) => Promise<FleetWord>;
  /** Whose device files are: path → root. */
  readonly #roots = new Map<string, string>();
  #tables: SpanTables;
  #at = 0;

  readonly #key: TrustedKey;

  /** `key`: the operator's, whose signatures vouch for sidecars. */
  constructor(root: string, registry: HostileRegistry, key: TrustedKey, fleet: Node['fleet']) {
    this.#key = key;
    this.fleet = fleet;
    this.layout = new Layout(root);
    this.registry = registry;
    this.#tables = new SpanTables(this.layout);
  }

  /** Lists sidecars that the operator vouches for. */
  async list(digests: readonly string[]): Promise<void> {
    await mkdir(this.layout.root, { recursive: true });
    await writeFile(this.layout.trustedSidecars(), digests.join('\n'));
  }

  /** What a mount of this policy uses: a sidecar that it takes, else what the node makes of the layers. Error: the registry lies. */
  async prepare(image: ResolvedImage, policy: TrustPolicy, asChain = false): Promise<Prepared> {
    // A snapshotter asks for the chain of the image's layers.
    const chain = asChain ? chainIds(image.layers.map(({ diffId }) => diffId)).at(-1) : undefined;
    const digest = chain ?? image.descriptor.digest;
    if (!this.state.images.has(digest)) this.#say(digest, resolvedBy(image));
    const prepared = (await this.#choose(image, policy, chain)) ?? (await this.#index(image));
    this.#say(digest, prepared);
    for (const device of prepared.devices) await this.#open(device);
    if (prepared.origin === 'node')
      for (const device of prepared.devices) {
        const blocks = Math.ceil(device.size / BLOCK_SIZE);
        this.#say(layerIdOf(device), { type: 'layer.blocks', ranges: [[0, blocks]] });
        this.#say(device.diffId, { type: 'root.proven', root: device.root ?? '' });
      }
    return this.state.images.get(digest)?.prepared as Prepared;
  }

  /** Fetches blocks of a device. Returns those that came, and the error that it ended with. */
  async fetch(image: ResolvedImage, device: Device, runs: readonly BlockPair[]): Promise<Fetched> {
    const { registry, repository } = image.reference;
    const layer = image.layers.find(({ diffId }) => diffId === device.diffId);
    const source = { registry, repository, digest: device.spans, size: layer?.blob.size ?? 0 };
    const id = layerIdOf(device);
    const table = device.table === undefined ? {} : { table: device.table };
    const head = { v: 1, kind: 'fetch', class: 'demand', front: 'f', job: 1 } as const;
    const job: FetchJob = { ...head, layer: id, runs, source, ...table };
    const came: number[] = [];
    const onBlocks = (first: number, count: number) => {
      this.#say(id, { type: 'layer.blocks', ranges: [[first, count]] });
      for (let block = first; block < first + count; block++) came.push(block);
    };
    try {
      await runFetch(job, {
        layout: this.layout,
        registry: this.registry,
        tables: this.#tables,
        signal: new AbortController().signal,
        gate: new Gate(),
        times: noTimes(),
        onBlocks,
      });
      return { came, error: undefined };
    } catch (error) {
      return { came, error };
    }
  }

  /** Brings a startup pack to the image's devices. */
  async bring(prepared: Prepared, pack: Buffer): Promise<void> {
    const layers = new Map(
      await Promise.all(
        prepared.devices.map(async (device) => {
          const layer: JobLayer = jobLayerOf(device);
          const id = layerIdOf(device);
          return [layer.diffId, { id, table: await this.#tables.of(tableNameOf(device), id) }] as const;
        }),
      ),
    );
    const onBlocks = (layer: string, first: number, count: number) =>
      this.#say(layer, { type: 'layer.blocks', ranges: [[first, count]] });
    const signal = new AbortController().signal;
    await runPack(whole(pack), { layout: this.layout, layers, signal, onHeader: () => {}, onBlocks }).catch(
      () => {},
    );
  }

  /** Where the device is whole it is hashed: its root is proven or refuted. */
  async settle(device: Device): Promise<void> {
    const id = layerIdOf(device);
    const layer = this.state.layers.get(id);
    if (layer === undefined || layer.presentCount < layer.blockCount || device.root === undefined) return;
    const found = await hashDevice(this.layout.device(id), device.size);
    if (found === device.diffId) {
      this.#say(id, { type: 'layer.completed', digest: found });
      this.#say(device.diffId, { type: 'root.proven', root: device.root });
      return;
    }
    this.#say(id, { type: 'layer.dropped', reason: 'corrupt', message: 'not the layer' });
    this.#say(device.diffId, { type: 'root.refuted', root: device.root });
  }

  /** Compares blocks of a device with its table; those that are not its are evicted. */
  async scrub(device: Device): Promise<void> {
    const layer = layerIdOf(device);
    const order = {
      layer,
      blob: device.spans,
      table: device.table,
      ranges: this.#present(device).map((b) => [b, 1]),
    };
    const signal = new AbortController().signal;
    const bad = await checkBlocks(order as unknown as ScrubJob, {
      layout: this.layout,
      tables: this.#tables,
      signal,
    });
    const ranges = bad.map(([first, count]): [number, number] => [first, count]);
    if (ranges.length > 0) this.#say(layer, { type: 'layer.evicted', ranges, reason: 'scrub' });
  }

  evict(device: Device, runs: readonly BlockPair[]): void {
    const ranges = runs.map(([first, count]): [number, number] => [first, count]);
    this.#say(layerIdOf(device), { type: 'layer.evicted', ranges, reason: 'prune' });
  }

  /** Fetchers forget what they have read of the store. */
  restart(): void {
    this.#tables = new SpanTables(this.layout);
  }

  /** The blocks of the device that readers are served, as they get them. */
  async served(device: Device): Promise<Array<[block: number, bytes: Buffer]>> {
    const bytes = await readFile(this.layout.device(layerIdOf(device)));
    return this.#present(device).map((block) => {
      const at = block * BLOCK_SIZE;
      return [block, bytes.subarray(at, Math.min(at + BLOCK_SIZE, device.size))];
    });
  }

  async end(): Promise<void> {
    await rm(this.layout.root, { recursive: true, force: true });
  }

  async #choose(
    image: ResolvedImage,
    policy: TrustPolicy,
    chain: string | undefined,
  ): Promise<NewEvent<'image.prepared'> | undefined> {
    const { layout, registry, state } = this;
    const files = new LaterSync();
    const options: ChoiceOptions = {
      layout,
      files,
      registry,
      manifest: chain ?? image.descriptor.digest,
      image,
      policy,
      known: this.#known(image),
      roots: state.roots,
      signers: this.#signers,
      fleet: () => this.fleet(image),
      refuted: { flat: undefined, sidecars: new Set() },
      onPassed: () => {},
    };
    if (chain === undefined) return (await chooseSidecar(options)).prepared;
    const order = { layout, files, chain, image, layers: image.layers.length, known: [], onFailed: () => {} };
    return (await chooseSidecar(options, (sidecar, check) => prepareChain({ ...order, sidecar }, check)))
      .prepared;
  }

  /** As src/supervisor/images/keys.ts does, of the one key that the operator trusts. */
  readonly #signers: Signers = {
    signersAmong: async (image, digests) => {
      const found = await signaturesAmong(this.registry, image.reference, digests, [this.#key]);
      return new Map([...found].map(([digest, { signers }]) => [digest, signers[0]?.voucher ?? false]));
    },
    signerOf: async (image, { digest }) =>
      (await signaturesOf(this.registry, image.reference, digest, [this.#key])).signers[0]?.voucher,
  };

  /** Flat metadata that the node has made of the same layers. */
  #known(image: ResolvedImage): string | undefined {
    const chain = image.layers.map(({ diffId }) => diffId).join();
    for (const { resolved, verified } of this.state.images.values())
      if (resolved.layers.map(({ diffId }) => diffId).join() === chain && verified !== undefined)
        return verified;
    return undefined;
  }

  /** The node makes the flat image and the tables from the layers, which it compares with what config and manifest say. */
  async #index(image: ResolvedImage): Promise<NewEvent<'image.prepared'>> {
    const { digest: manifest } = image.descriptor;
    const indexed = await Promise.all(
      image.layers.map(async ({ blob, diffId }) => {
        const bytes = this.registry.bytesOf(blob.digest);
        const expect = { digest: blob.digest, size: blob.size, diffId };
        const raw: Buffer[] = [];
        const onRaw = (_: number, piece: Buffer) => void raw.push(Buffer.from(piece));
        return { ...(await indexLayer(whole(bytes), { expect, onRaw })), raw };
      }),
    );
    const devices: Device[] = [];
    for (const { diffId, rawSize, blobDigest, spans, raw } of indexed) {
      const table = digestOf(spans.encode());
      const device = { diffId, size: rawSize, spans: blobDigest, root: spans.root, table };
      await writeWhole(this.layout.spans(table), spans.encode());
      await mkdir(dirname(this.layout.device(layerIdOf(device))), { recursive: true });
      await writeFile(this.layout.device(layerIdOf(device)), padded(Buffer.concat(raw)));
      devices.push(device);
    }
    const { metadata } = buildFlat(
      indexed.map(({ toc }) => toc),
      indexed.map(({ diffId, rawSize }) => ({ diffId, size: rawSize })),
    );
    await writeWhole(this.layout.flat(manifest), metadata);
    const flat = digestOf(metadata);
    this.#say(manifest, { type: 'image.verified', flat });
    return { type: 'image.prepared', origin: 'node', flat, devices };
  }

  #present(device: Device): number[] {
    const present = this.state.layers.get(layerIdOf(device))?.present ?? [];
    return [...present].flatMap((is, block) => (is === 1 ? [block] : []));
  }

  async #open(device: Device): Promise<void> {
    const id = layerIdOf(device);
    const path = this.layout.device(id);
    if ((this.#roots.get(path) ?? device.root) !== device.root)
      throw new Error('apart: two roots, one device');
    this.#roots.set(path, device.root ?? '');
    const table = await readFile(this.layout.spans(tableNameOf(device)));
    if (digestOf(table) !== device.table) throw new Error(`the store has another table as ${device.table}`);
    const { file } = await openDevice(path, device.size);
    await file.close();
    const { diffId, size, spans: blob } = device;
    const named = device.table === undefined ? {} : { table: device.table };
    const blocks = { blockSize: BLOCK_SIZE, blockCount: Math.ceil(size / BLOCK_SIZE) };
    this.#say(id, { type: 'layer.opened', size, ...blocks, blob, diffId, ...named });
  }

  /** Appends to the log. */
  #say(id: string, event: NewEvent): void {
    foldEvent(this.state, hexOf(id), { ...event, v: 1, at: ++this.#at } as CofaEvent);
  }
}

export interface Fetched {
  /** Blocks that are verified and written. */
  came: number[];
  error: unknown;
}

const padded = (tar: Buffer): Buffer => Buffer.concat([tar], Math.ceil(tar.length / 512) * 512);
