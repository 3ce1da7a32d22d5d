/**
 * Looks for the sidecar that an image is mounted with, and takes it into the store. Which one: actors/sidecar-choice.ts. Each
 * is parsed strictly, and one that cannot be used is passed over with a reason.
 */
import { readFile, rename, rm } from 'node:fs/promises';
import { digestOf } from '../../digest/digest.ts';
import { isDigest } from '../../../schemas/digest.ts';
import type { ImageDevice } from '../../../actors/device.ts';
import {
  asksForSigner,
  type ChoiceFacts,
  comeFirst,
  endsChoice,
  isHopeless,
  isRootVouched,
  isUsable,
  isVouched,
  passedBefore,
  passedFor,
  type SidecarContents,
  silentFleet,
  voucherOf,
} from '../../../actors/sidecar-choice.ts';
import type { FleetWord } from '../../../actors/fleet-ledger.ts';
import { standingOf } from '../../../actors/node-state.ts';
import { CofaError, toErrorRecord } from '../../../schemas/errors.ts';
import type { NewEvent } from '../../../schemas/events.ts';
import type { TrustPolicy } from '../../../schemas/trust.ts';
import { checkFlatAside } from '../../index/check-flat.ts';
import type { RegistryClient, ResolvedImage } from '../../registry/client.ts';
import { namedSidecar } from '../../registry/named-sidecar.ts';
import { type Prefer, SIDECAR_REVISION, type SidecarHandle, sidecarsOf } from '../../registry/sidecars.ts';
import type { LaterSync } from '../../store/later-sync.ts';
import type { Layout } from '../../store/layout.ts';
import { keepHints, readHints } from './hints.ts';
import { isLarge, takeLarge } from './large-part.ts';
import { type StoredTable, takeTable } from './tables.ts';

export type PreparedEvent = NewEvent & { type: 'image.prepared' };

export interface SidecarChoice {
  /** Undefined: none can be used, the node has to index the image. */
  prepared: PreparedEvent | undefined;
  /** Whether the flat metadata are those that this node has proven for the same layers. */
  proven: boolean;
  passed: Array<{ sidecar: string; reason: string }>;
  /** The first that was passed over and not refuted: its hints may be used all the same (hints.ts). */
  plan: SidecarHandle | undefined;
}

export interface ChoiceOptions {
  layout: Layout;
  /** Takes what is written. */
  files: LaterSync;
  registry: RegistryClient;
  manifest: string;
  image: ResolvedImage;
  policy: TrustPolicy;
  /** Digest of the flat metadata that this node has proven for the same layers. */
  known: string | undefined;
  /** What is known of block roots, by diffID; live. */
  roots: ChoiceFacts['roots'];
  /** Undefined: the operator trusts no key or identity that may sign for the image's repository. */
  signers: Signers | undefined;
  /** Asks what members of the fleet have proven for the image's layers; undefined: the node is of no fleet. Throws nothing. */
  fleet?: (() => Promise<FleetWord>) | undefined;
  /** What was refuted before. */
  refuted: { flat: string | undefined; sidecars: ReadonlySet<string> };
  /** The bytes of a sidecar that is about to be taken are here; what comes now takes nothing from them. */
  onFetched?: (() => void) | undefined;
  /** Told of each sidecar that is passed over. */
  onPassed: (sentence: string) => void;
  /**
   * Told of each layer whose table is in the store, of a sidecar that someone vouches for: it can be attached while the flat
   * metadata are still looked at. It may be passed over for these all the same, and they may have no use for the layer.
   */
  onTable?: ((device: ImageDevice) => void) | undefined;
}

/** The operator's keys and identities. */
export interface Signers {
  /** Which one has signed the sidecar, as `image.prepared` names it; undefined: none has. Errors: those of the registry. */
  signerOf(image: ResolvedImage, sidecar: SidecarHandle['descriptor']): Promise<string | undefined>;
  /** The same of several, as far as it is known (src/signature/among.ts); false: none has. Throws nothing. */
  signersAmong(
    image: ResolvedImage,
    digests: readonly string[],
  ): Promise<ReadonlyMap<string, string | false>>;
}

/** Refuses a sidecar for what it holds, error `integrity`, or resolves with who vouches, as `image.prepared` says it. */
export type Check = (contents: Pick<SidecarContents, 'flat' | 'roots'>) => Promise<string | undefined>;

const MAX_REASON = 500;
/** Bytes of the list of trusted sidecars. */
const MAX_LIST = 1 << 20;

/**
 * Finds, fetches and stores; flat metadata and span tables lie in the store when it resolves with a `prepared`, and are synced
 * when `files` are. `take` makes of a sidecar what is mounted: by default what it says itself.
 */
export async function chooseSidecar(
  options: ChoiceOptions,
  take: (sidecar: SidecarHandle, check: Check, onTable: OnTable) => Promise<PreparedEvent> = (...sidecar) =>
    takeWhole(options, ...sidecar),
): Promise<SidecarChoice> {
  const { registry, image } = options;
  const facts = await factsOf(options);
  const passed: SidecarChoice['passed'] = [];
  const pass = (sidecar: string, reason: string) => {
    passed.push({ sidecar, reason: reason.slice(0, MAX_REASON) });
    options.onPassed(`sidecar ${sidecar} of ${image.reference.text} is not used: ${reason}`);
  };
  let plan: SidecarHandle | undefined;
  const vouched = new Vouched(options, facts);
  const none = () => {
    const unasked = vouched.unasked(new Set(passed.map(({ sidecar }) => sidecar)));
    if (unasked !== undefined) pass(unasked.sidecar, unasked.reason);
    return { prepared: undefined, proven: false, passed, plan };
  };
  if (isHopeless(facts)) return none();
  const skip: OnSkipped = ({ descriptor, reason }) => pass(descriptor.digest, reason);
  try {
    for await (const sidecar of sidecarsOf(registry, image, undefined, skip, vouched.prefer)) {
      const { digest } = sidecar.descriptor;
      try {
        refuseFor(passedBefore(facts, digest, vouched.signers.get(digest)));
        const onTable = tellSound(options, facts, vouched.isFor(sidecar.descriptor));
        const taken = await take(sidecar, checkOf(facts, sidecar, vouched), onTable);
        const prepared = passed.length === 0 ? taken : { ...taken, passed };
        return { prepared, proven: prepared.flat === facts.known, passed, plan };
      } catch (error) {
        const { code, message } = toErrorRecord(error);
        if (endsChoice(code)) throw error;
        pass(digest, message);
        if (!facts.refuted.sidecars.has(digest)) plan ??= sidecar;
      }
    }
  } catch (error) {
    const { code, message } = toErrorRecord(error);
    if (endsChoice(code)) throw error;
    options.onPassed(`the sidecars of ${image.reference.text} cannot be listed: ${message}`);
  }
  return none();
}

/** Who has signed the sidecars of an image that has several: asked before any of them is fetched. */
class Vouched {
  /** By digest, of those that were asked for; false: no key has. */
  signers: ReadonlyMap<string, string | false> = new Map();
  readonly #options: ChoiceOptions;
  readonly #facts: ChoiceFacts;
  /** Those that it mattered for. */
  #digests: readonly string[] = [];

  constructor(options: ChoiceOptions, facts: ChoiceFacts) {
    this.#options = options;
    this.#facts = facts;
  }

  readonly prefer: Prefer = async (candidates) => {
    const { image, signers } = this.#options;
    const digests = candidates.map(({ digest }) => digest);
    if (signers !== undefined && asksForSigner(this.#facts)) {
      this.#digests = digests;
      this.signers = await signers.signersAmong(image, digests);
    }
    return comeFirst(this.#facts, digests, this.signers);
  };

  /** Whether someone vouches for it, by what is known without a further request. */
  isFor({ digest }: SidecarHandle['descriptor']): boolean {
    return isVouched(this.#facts, digest, this.signers.get(digest) || undefined);
  }

  /**
   * None is taken: why one is passed over that a key may have signed; undefined: all were asked for. `passed`: those that have their
   * reasons.
   */
  unasked(passed: ReadonlySet<string>): { sidecar: string; reason: string } | undefined {
    const left = this.#digests.filter((digest) => !this.signers.has(digest) && !passed.has(digest));
    const [sidecar] = left;
    if (sidecar === undefined) return undefined;
    const count = this.#digests.length;
    return {
      sidecar,
      reason: `who has signed it was not asked: the image has ${count} sidecars, and ${left.length} were left out. Delete what others have pushed, or let the image name its own (cofa index --as)`,
    };
  }

  /** Of one of them. Errors: those of the registry. */
  async signerOf(sidecar: SidecarHandle['descriptor']): Promise<string | undefined> {
    const { image, signers } = this.#options;
    if (!asksForSigner(this.#facts)) return undefined;
    const known = this.signers.get(sidecar.digest);
    return known === undefined ? await signers?.signerOf(image, sidecar) : known || undefined;
  }
}

type OnTable = ChoiceOptions['onTable'];

/** Not of a layer of which this node knows another block root, nor of one that no one vouches for. */
const tellSound =
  ({ onTable }: ChoiceOptions, facts: ChoiceFacts, isFor: boolean): OnTable =>
  (device) => {
    const { diffId, root } = device;
    if (root === undefined || standingOf(facts.roots, diffId, root) === 'other') return;
    if (isFor || isRootVouched(facts, diffId, root)) onTable?.(device);
  };

type OnSkipped = NonNullable<Parameters<typeof sidecarsOf>[3]>;

/** Looks for who has signed the sidecar while its bytes come. */
function checkOf(facts: ChoiceFacts, sidecar: SidecarHandle, vouched: Vouched): Check {
  const { descriptor, revision } = sidecar;
  const asked = vouched.signerOf(descriptor);
  // Its error is the check's.
  asked.catch(() => {});
  return async ({ flat, roots }) => {
    const contents = { digest: descriptor.digest, flat, revision, roots };
    // What the operator lists, or the image names, needs no signature; a signature holds for stricter mounts than a member's word.
    const isFine =
      passedFor({ ...facts, fleet: undefined }, { ...contents, signer: undefined }) === undefined;
    const whole = { ...contents, signer: isFine ? undefined : await asked };
    refuseFor(passedFor(facts, whole));
    return voucherOf(facts, whole) || undefined;
  };
}

/** Whether the policy takes a sidecar that the registry has; its contents are not looked at. */
export async function hasUsableSidecar(options: ChoiceOptions): Promise<boolean> {
  const facts = await factsOf(options);
  if (isHopeless(facts)) return false;
  const { registry, image } = options;
  const vouched = new Vouched(options, facts);
  for await (const { descriptor } of sidecarsOf(registry, image, undefined, undefined, vouched.prefer)) {
    if (isUsable(facts, descriptor.digest, undefined)) return true;
    const signer = await vouched.signerOf(descriptor);
    if (signer !== undefined && isUsable(facts, descriptor.digest, signer)) return true;
  }
  return false;
}

async function factsOf(options: ChoiceOptions): Promise<ChoiceFacts> {
  const { policy, layout, known, roots, refuted, signers } = options;
  const [listed, fleet] = await Promise.all([listedFor(policy, layout), fleetOf(options)]);
  const hasKeys = signers !== undefined;
  const named = namedSidecar(options.image.manifest);
  return { policy, listed, named, hasKeys, known, roots, refuted, fleet, revision: SIDECAR_REVISION };
}

const fleetOf = async ({ policy, fleet }: ChoiceOptions): Promise<FleetWord | undefined> => {
  if (policy !== 'fleet') return undefined;
  return fleet === undefined ? silentFleet('this node is of no fleet') : await fleet();
};

/** The sidecars that a policy takes because the operator lists them. */
export const listedFor = async (policy: TrustPolicy, layout: Layout): Promise<ReadonlySet<string>> =>
  policy === 'registry' || policy === 'never' ? new Set() : await trustedSidecars(layout);

function refuseFor(reason: string | undefined): void {
  if (reason !== undefined) throw new CofaError('integrity', reason);
}

/**
 * Takes flat metadata and span tables into the store; both are checked before anything uses them. One table after the other
 * as far as they are large: what a process holds of them has a budget (src/registry/sidecar-budgets.ts).
 */
async function takeWhole(
  options: ChoiceOptions,
  sidecar: SidecarHandle,
  check: Check,
  onTable: OnTable,
): Promise<PreparedEvent> {
  const tables = takeTables(options, sidecar, onTable);
  // They are waited for below.
  tables.catch(() => {});
  return await soundFlat(options, sidecar, (sound) => takeFlat(options, sidecar, { sound, tables }, check));
}

/** In the order of the image's layers. Error `integrity` for a table that is another layer's. */
async function takeTables(
  { layout, files, image, onFetched }: ChoiceOptions,
  sidecar: SidecarHandle,
  onTable: OnTable,
): Promise<StoredTable[]> {
  let coming = image.layers.length;
  if (coming === 0) onFetched?.();
  const came = () => {
    coming -= 1;
    if (coming === 0) onFetched?.();
  };
  return await Promise.all(
    image.layers.map(async ({ diffId, blob }, at) => {
      const table = await takeTable({ layout, files, image, sidecar }, at, came);
      onTable?.({ diffId, spans: blob.digest, ...table });
      return table;
    }),
  );
}

/** Flat metadata that are sound. */
interface SoundFlat {
  digest: string;
  devices: ReadonlyArray<{ diffId: string; size: number }>;
  /** Puts them in their place in the store. */
  store: () => Promise<void>;
}

/** What is large does not come into this process. */
async function soundFlat<T>(
  { layout, files, manifest }: ChoiceOptions,
  sidecar: SidecarHandle,
  work: (flat: Promise<SoundFlat>) => Promise<T>,
): Promise<T> {
  const path = layout.flat(manifest);
  if (!isLarge(sidecar, { kind: 'flat' }))
    return await sidecar.use({ kind: 'flat' }, (metadata) => {
      const sound = async (): Promise<SoundFlat> => ({
        devices: (await checkFlatAside(metadata)).devices,
        digest: digestOf(metadata),
        store: () => files.write(path, metadata),
      });
      return work(sound());
    });
  const target = `${path}.${sidecar.descriptor.digest.slice('sha256:'.length)}.draft`;
  const large = async (): Promise<SoundFlat> => {
    const order = { kind: 'flat', target } as const;
    const { digest, devices = [] } = await takeLarge(layout, sidecar, { kind: 'flat' }, order);
    return { digest, devices, store: () => rename(target, path) };
  };
  const sound = large();
  try {
    return await work(sound);
  } finally {
    // Its process may still be about to write it.
    await sound.catch(() => {});
    await rm(target, { force: true });
  }
}

async function takeFlat(
  { layout, files, manifest, image, onPassed }: ChoiceOptions,
  sidecar: SidecarHandle,
  { sound, tables }: { sound: Promise<SoundFlat>; tables: Promise<StoredTable[]> },
  check: Check,
): Promise<PreparedEvent> {
  const hints = readHints(sidecar, onPassed);
  const [{ digest: flat, devices: used, store }, stored] = await Promise.all([sound, tables]);
  const devices = used.map((device) => usedLayer(image, device, stored));
  const vouched = await check({ flat, roots: devices });
  await Promise.all([store(), hints.then((found) => keepHints({ layout, files }, manifest, found))]);
  return {
    type: 'image.prepared',
    origin: 'sidecar',
    sidecar: sidecar.descriptor.digest,
    ...(sidecar.revision === undefined ? {} : { revision: sidecar.revision }),
    flat,
    devices,
    ...(vouched === undefined ? {} : { vouched }),
  };
}

/** A layer that the flat image has file data in. Error `integrity`. */
function usedLayer(
  { reference, layers }: ResolvedImage,
  device: { diffId: string; size: number },
  tables: readonly StoredTable[],
): ImageDevice & StoredTable {
  const at = layers.findIndex((layer) => layer.diffId === device.diffId);
  const layer = layers[at];
  const table = tables[at];
  if (layer === undefined || table === undefined) {
    throw new CofaError(
      'integrity',
      `the sidecar's flat image uses ${device.diffId}, no layer of ${reference.text}`,
    );
  }
  const { diffId, blob } = layer;
  if (device.size < table.size || device.size - table.size >= 512)
    throw new CofaError('integrity', `the sidecar gives layer ${diffId} two different sizes`);
  return { diffId, spans: blob.digest, ...table };
}

/**
 * The digests in ROOT/trusted-sidecars, one a line, of sidecars' manifests as `cofa index` prints them; `#` begins a
 * remark. Without the file there are none. Error `invalid-argument` for a line that is no digest.
 */
export async function trustedSidecars(layout: Layout): Promise<Set<string>> {
  const path = layout.trustedSidecars();
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return new Set();
    throw error;
  }
  if (text.length > MAX_LIST)
    throw new CofaError('invalid-argument', `${path} has more than ${MAX_LIST} bytes`);
  const digests = new Set<string>();
  for (const [index, line] of text.split('\n').entries()) {
    const word = line.replace(/#.*/, '').trim();
    if (word === '') continue;
    if (!isDigest(word))
      throw new CofaError('invalid-argument', `${path}, line ${index + 1}: no sha256 digest`);
    digests.add(word);
  }
  return digests;
}
