/**
 * Looks for the sidecar that an image is mounted with, and takes it into the store. Which one: actors/sidecar-choice.ts. Each
 * is parsed strictly, and one that cannot be used is passed over with a reason.
 */
import { readFile } from 'node:fs/promises';
import { digestOf } from '../../digest/digest.ts';
import { isDigest } from '../../../schemas/digest.ts';
import {
  type ChoiceFacts,
  endsChoice,
  isHopeless,
  isUsable,
  passedBefore,
  passedFor,
} from '../../../actors/sidecar-choice.ts';
import { CofaError, toErrorRecord } from '../../../schemas/errors.ts';
import type { NewEvent } from '../../../schemas/events.ts';
import type { TrustPolicy } from '../../../schemas/trust.ts';
import { SpanTable } from '../../image/span-table.ts';
import { checkFlatAside } from '../../index/check-flat.ts';
import type { RegistryClient, ResolvedImage } from '../../registry/client.ts';
import { SIDECAR_REVISION, type SidecarHandle, sidecarsOf } from '../../registry/sidecars.ts';
import { type Layout, writeWhole } from '../../store/layout.ts';
import { keepHints, readHints } from './hints.ts';

export type PreparedEvent = NewEvent & { type: 'image.prepared' };

export interface SidecarChoice {
  /** Undefined: none can be used, the node has to index the image. */
  prepared: PreparedEvent | undefined;
  /** Whether the flat metadata are those that this node has proven for the same layers. */
  proven: boolean;
  passed: Array<{ sidecar: string; reason: string }>;
}

export interface ChoiceOptions {
  layout: Layout;
  registry: RegistryClient;
  manifest: string;
  image: ResolvedImage;
  policy: TrustPolicy;
  /** Digest of the flat metadata that this node has proven for the same layers. */
  known: string | undefined;
  /** What was refuted before. */
  refuted: { flat: string | undefined; sidecars: ReadonlySet<string> };
  /** The bytes of a sidecar that is about to be taken are here; what comes now takes nothing from them. */
  onFetched?: (() => void) | undefined;
  /** Told of each sidecar that is passed over. */
  onPassed: (sentence: string) => void;
}

const MAX_REASON = 500;
/** Bytes of the list of trusted sidecars. */
const MAX_LIST = 1 << 20;

/**
 * Finds, fetches and stores; flat metadata and span tables lie in the store when it resolves with a `prepared`. `take`
 * makes of a sidecar what is mounted: by default what it says itself.
 */
export async function chooseSidecar(
  options: ChoiceOptions,
  take: (sidecar: SidecarHandle, check: (flat: string) => void) => Promise<PreparedEvent> = (...sidecar) =>
    takeWhole(options, ...sidecar),
): Promise<SidecarChoice> {
  const { registry, image } = options;
  const facts = await factsOf(options);
  const passed: SidecarChoice['passed'] = [];
  const pass = (sidecar: string, reason: string) => {
    passed.push({ sidecar, reason: reason.slice(0, MAX_REASON) });
    options.onPassed(`sidecar ${sidecar} of ${image.reference.text} is not used: ${reason}`);
  };
  const none = { prepared: undefined, proven: false, passed };
  if (isHopeless(facts)) return none;
  try {
    for await (const sidecar of sidecarsOf(registry, image, undefined, ({ descriptor, reason }) =>
      pass(descriptor.digest, reason),
    )) {
      const { digest } = sidecar.descriptor;
      const check = (flat: string) =>
        refuseFor(passedFor(facts, { digest, flat, revision: sidecar.revision }));
      try {
        refuseFor(passedBefore(facts, digest));
        const prepared = await take(sidecar, check);
        check(prepared.flat);
        return {
          prepared: passed.length === 0 ? prepared : { ...prepared, passed },
          proven: prepared.flat === facts.known,
          passed,
        };
      } catch (error) {
        const { code, message } = toErrorRecord(error);
        if (endsChoice(code)) throw error;
        pass(digest, message);
      }
    }
  } catch (error) {
    const { code, message } = toErrorRecord(error);
    if (endsChoice(code)) throw error;
    options.onPassed(`the sidecars of ${image.reference.text} cannot be listed: ${message}`);
  }
  return none;
}

/** Whether the policy takes a sidecar that the registry has; its contents are not looked at. */
export async function hasUsableSidecar(options: ChoiceOptions): Promise<boolean> {
  // What this node has proven may be in any of them: without their contents that says nothing.
  const facts = { ...(await factsOf(options)), known: undefined };
  if (isHopeless(facts)) return false;
  for await (const { descriptor } of sidecarsOf(options.registry, options.image))
    if (isUsable(facts, descriptor.digest)) return true;
  return false;
}

async function factsOf({ policy, layout, known, refuted }: ChoiceOptions): Promise<ChoiceFacts> {
  const listed = await listedFor(policy, layout);
  return { policy, listed, known, refuted, revision: SIDECAR_REVISION };
}

/** The sidecars that a policy takes because the user lists them. */
export const listedFor = async (policy: TrustPolicy, layout: Layout): Promise<ReadonlySet<string>> =>
  policy === 'own' ? await trustedSidecars(layout) : new Set();

function refuseFor(reason: string | undefined): void {
  if (reason !== undefined) throw new CofaError('integrity', reason);
}

/** Takes flat metadata and span tables into the store; both are checked before anything uses them. */
async function takeWhole(
  options: ChoiceOptions,
  sidecar: SidecarHandle,
  check: (flat: string) => void,
): Promise<PreparedEvent> {
  const { layout, manifest, image, onFetched } = options;
  const parts = Promise.all(image.layers.map((_, layer) => sidecar.spans(layer)));
  // It is waited for below, unless the flat metadata will not do.
  parts.catch(() => {});
  const flat = await sidecar.flat();
  check(digestOf(flat));
  const hints = readHints(sidecar, options.onPassed);
  const [{ devices }, tables] = await Promise.all([
    checkFlatAside(flat),
    parts.then((all) => {
      onFetched?.();
      return all.map((bytes) => ({ bytes, table: SpanTable.decode(bytes) }));
    }),
  ]);
  const used = devices.map((device) => {
    const at = image.layers.findIndex((layer) => layer.diffId === device.diffId);
    const layer = image.layers[at];
    const found = tables[at];
    if (layer === undefined || found === undefined) {
      throw new CofaError(
        'integrity',
        `the sidecar's flat image uses ${device.diffId}, no layer of ${image.reference.text}`,
      );
    }
    const { table, bytes } = found;
    if (table.diffId !== layer.diffId || table.blobDigest !== layer.blob.digest) {
      throw new CofaError(
        'integrity',
        `the sidecar's span table of layer ${layer.diffId} is another layer's`,
      );
    }
    if (device.size < table.rawSize || device.size - table.rawSize >= 512) {
      throw new CofaError('integrity', `the sidecar gives layer ${layer.diffId} two different sizes`);
    }
    return { diffId: layer.diffId, size: table.rawSize, spans: layer.blob.digest, bytes };
  });
  await Promise.all([
    writeWhole(layout.flat(manifest), flat),
    hints.then((found) => keepHints(layout, manifest, found)),
    ...used.map(({ spans, bytes }) => writeWhole(layout.spans(spans), bytes)),
  ]);
  return {
    type: 'image.prepared',
    origin: 'sidecar',
    sidecar: sidecar.descriptor.digest,
    ...(sidecar.revision === undefined ? {} : { revision: sidecar.revision }),
    flat: digestOf(flat),
    devices: used.map(({ diffId, size, spans }) => ({ diffId, size, spans })),
  };
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
