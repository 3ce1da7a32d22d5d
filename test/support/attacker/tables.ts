/**
 * Span tables of an attacker. He owns the table, and where he can what the registry gives for the blob, and computes
 * every field that depends on another. He has no SHA-256 preimages: the last block of a layer, and a block behind a
 * state that he left alone, do not come out as the table says.
 */
import { BlockStates } from '../../../src/image/block-states.ts';
import { indexLayer } from '../../../src/image/index-layer.ts';
import {
  BLOCK_SIZE,
  type SpanRecord,
  SpanTable,
  type SpanTableParts,
} from '../../../src/image/span-table.ts';
import { unpackWindow } from '../../../src/image/window.ts';
import type { Random } from '../random.ts';
import { decodeUnchecked } from './decode.ts';
import { compress, type GenuineLayer, rewritten, whole } from './layer.ts';

/** What one attack puts in front of a node. */
export interface Forgery {
  kind: ForgeryKind;
  /** As a sidecar of his brings it. */
  table: SpanTable;
  /** What the registry, or a mirror of it, gives under the digest of the layer's blob. */
  blob: Buffer;
  /** What he wants readers to see; of a denial the layer's own bytes. */
  content: Buffer;
}

export type ForgeryKind = keyof typeof FORGERIES;

/** Each way to forge the table of a layer; those that do not fit the layer give undefined. */
export const FORGERIES = {
  /** Other compressed bytes under the genuine digest, and states over what they decode to. */
  'other bytes': async (layer: GenuineLayer, random: Random) =>
    await overOtherBytes(layer, rewritten(layer, random)),
  /** The blob stays as it is; one checkpoint's window is another one. */
  window: (layer: GenuineLayer, random: Random) => throughWindow(layer, random),
  /** One block of his; the states behind it are genuine again, so that only one more block fails. */
  'one block': async (layer: GenuineLayer, random: Random) => await oneBlock(layer, random),
  /** Genuine states, and spans that do not lead to them: a denial. */
  spans: (layer: GenuineLayer, random: Random) => brokenSpans(layer, random),
  /** Genuine spans and states of a layer of another size. */
  size: (layer: GenuineLayer, random: Random) => otherSize(layer, random),
  /** Genuine spans, states that lead nowhere. */
  states: (layer: GenuineLayer, random: Random) => otherStates(layer, random),
  /** A well-formed layer of his own under the genuine diffID. */
  'own layer': async (layer: GenuineLayer, random: Random) => await ownLayer(layer, rewritten(layer, random)),
  /** The same with genuine states: a denial for those who share the device. */
  'own blob': async (layer: GenuineLayer, random: Random) =>
    await ownLayer(layer, rewritten(layer, random), statesOf(layer.tar)),
  /** The genuine table under another diffID. */
  diffID: (layer: GenuineLayer, random: Random) =>
    forgery('diffID', layer, { diffId: digestOfChance(random) }),
  /** The genuine table under another blob's digest, or with another size of the blob. */
  blob: (layer: GenuineLayer, random: Random) =>
    forgery(
      'blob',
      layer,
      random.chance(0.5)
        ? { blobDigest: digestOfChance(random) }
        : { blobSize: layer.blobSize + random.int(1, 1_000_000) },
    ),
} as const;

export const FORGERY_KINDS = Object.keys(FORGERIES) as readonly ForgeryKind[];

/** Draws one that fits the layer. Some fit every layer. */
export async function forge(layer: GenuineLayer, random: Random): Promise<Forgery> {
  for (;;) {
    const made = await FORGERIES[random.pick(FORGERY_KINDS)](layer, random);
    if (made !== undefined) return made;
  }
}

/** States over the bytes of another tar of the same length. Undefined where its blob is longer than the layer's. */
export async function overOtherBytes(layer: GenuineLayer, content: Buffer): Promise<Forgery | undefined> {
  const own = await ownBytes(layer, content);
  if (own === undefined) return undefined;
  const { spans, blob } = own;
  return { ...forged('other bytes', layer, { spans, states: statesOf(content) }), blob, content };
}

/**
 * Changes a byte of a checkpoint's window and computes the states anew over what the genuine blob then decodes to.
 * Undefined where no window has a byte that a file's data are copied from.
 */
export function throughWindow(layer: GenuineLayer, random: Random): Forgery | undefined {
  const parts = partsOf(layer.spans);
  const withWindow = parts.flatMap(({ window }, index) => (window === undefined ? [] : [index]));
  if (withWindow.length === 0) return undefined;
  const index = random.pick(withWindow);
  const part = parts[index] as SpanRecord;
  const window = unpackWindow(part.window as Buffer);
  for (let times = random.int(1, 200); times > 0; times--)
    window[random.int(0, window.length - 1)] = random.int(0x20, 0x7e);
  parts[index] = { ...part, window: packed(window) };
  const content = decodeUnchecked(layer.spans.withSpans(parts), layer.blob);
  if (content.equals(layer.tar)) return undefined;
  return { ...forged('window', layer, { spans: parts, states: statesOf(content) }), content };
}

async function oneBlock(layer: GenuineLayer, random: Random): Promise<Forgery | undefined> {
  const { tar, spans: table } = layer;
  if (table.blockCount < 2) return undefined;
  const block = random.int(0, table.blockCount - 2);
  const other = rewritten(layer, random);
  const content = Buffer.from(tar);
  other.copy(content, block * BLOCK_SIZE, block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE);
  if (content.equals(tar)) return undefined;
  const states = Buffer.from(statesOf(tar));
  statesOf(content).copy(states, block * 32, block * 32, (block + 1) * 32);
  const own = await ownBytes(layer, content);
  if (own === undefined) return undefined;
  const { spans, blob } = own;
  return { ...forged('one block', layer, { spans, states }), blob, content };
}

/**
 * A blob of the attacker's own, whose table gives it the layer's diffID. `states`: over its bytes; the genuine ones make it a
 * denial, for the device that honest readers share.
 */
export async function ownLayer(
  layer: GenuineLayer,
  content: Buffer,
  states: Buffer = statesOf(content),
): Promise<Forgery | undefined> {
  // A blob that is not compressed cannot be another layer's.
  if (layer.compression === 'none') return undefined;
  const blob = compress(content, layer.compression);
  const own = await indexLayer(whole(blob));
  const { blobDigest, blobSize } = own;
  const parts = { blobDigest, blobSize, spans: partsOf(own.spans), states };
  return { ...forged('own layer', layer, parts), blob, content };
}

/** Genuine states over the genuine blob, and no window that a span needs: the blob decodes to other bytes than they say. */
export function spansAstray(layer: GenuineLayer, random: Random): Forgery | undefined {
  const made = throughWindow(layer, random);
  if (made === undefined) return undefined;
  const parts = { spans: partsOf(made.table), states: statesOf(layer.tar) };
  return { ...forged('spans', layer, parts), content: layer.tar };
}

function brokenSpans(layer: GenuineLayer, random: Random): Forgery | undefined {
  const parts = partsOf(layer.spans);
  const index = random.int(0, parts.length - 1);
  const part = parts[index] as SpanRecord;
  const other = parts[random.int(0, parts.length - 1)] as SpanRecord;
  const changes: Array<Partial<SpanRecord>> = [
    { inStart: part.inStart + random.int(-300, 300) },
    { inEnd: part.inEnd + random.int(-3000, 3000) },
    { out: part.out + random.int(-BLOCK_SIZE, BLOCK_SIZE) },
    { bits: random.int(0, 7) },
    { window: other.window as Buffer },
    { header: other.header as NonNullable<SpanRecord['header']> },
    { firstBlock: part.firstBlock + random.int(-2, 2) },
  ];
  const states = statesOf(layer.tar);
  parts[index] = withoutNothing({ ...part, ...random.pick(changes) });
  if (random.chance(0.1)) parts.splice(1);
  const made = tryForged('spans', layer, { spans: parts, states });
  return made?.table.encode().equals(layer.spans.encode()) === true ? undefined : made;
}

function otherSize(layer: GenuineLayer, random: Random): Forgery | undefined {
  const rawSize = random.pick([
    layer.rawSize + random.int(-512, 512),
    layer.rawSize + random.int(1, 1 << 20),
    random.int(1, layer.rawSize),
    random.int(1, 1 << 30),
  ]);
  return rawSize === layer.rawSize || rawSize < 1 ? undefined : resized(layer, rawSize, random);
}

/** The genuine table, as long as a layer of `rawSize` bytes has it. */
export function resized(layer: GenuineLayer, rawSize: number, random: Random): Forgery | undefined {
  const blocks = Math.ceil(rawSize / BLOCK_SIZE);
  const states = Buffer.alloc((blocks - 1) * 32, noise(32, random));
  statesOf(layer.tar).copy(states);
  const spans = partsOf(layer.spans).filter(({ firstBlock }) => firstBlock < blocks);
  const last = spans.at(-1);
  const isPlain = layer.compression === 'none';
  if (last !== undefined && isPlain) last.inEnd = rawSize;
  return tryForged('size', layer, {
    rawSize,
    spans,
    states,
    ...(isPlain ? { blobSize: rawSize } : {}),
  });
}

function otherStates(layer: GenuineLayer, random: Random): Forgery | undefined {
  const states = Buffer.from(statesOf(layer.tar));
  if (states.length === 0) return undefined;
  const from = random.int(0, states.length / 32 - 1);
  const until = random.chance(0.5) ? from + 1 : states.length / 32;
  noise((until - from) * 32, random).copy(states, from * 32);
  return forgery('states', layer, { states });
}

function forgery(kind: ForgeryKind, layer: GenuineLayer, changes: Partial<SpanTableParts>): Forgery {
  // What is not compressed has one digest and one size.
  const { diffId, blobDigest } = changes;
  const other = diffId ?? blobDigest;
  const isPlain = layer.compression === 'none' && other !== undefined;
  if (layer.compression === 'none' && changes.blobSize !== undefined)
    return forgery(kind, layer, {
      diffId: layer.diffId.replace(/.$/, (digit) => (digit === '0' ? '1' : '0')),
    });
  return forged(kind, layer, isPlain ? { ...changes, diffId: other, blobDigest: other } : changes);
}

/** The layer's table with other fields, which its strict decoder accepts; the blob and what readers are to see stay. */
function forged(kind: ForgeryKind, layer: GenuineLayer, changes: Partial<SpanTableParts>): Forgery {
  const { diffId, blobDigest, blobSize, rawSize, compression, spans: table, tar, blob } = layer;
  const fields = { diffId, blobDigest, blobSize, rawSize, compression };
  const own = { spans: partsOf(table), states: statesOf(tar) };
  return { kind, table: SpanTable.build({ ...fields, ...own, ...changes }), blob, content: tar };
}

/** Undefined where the strict decoder would not have it. */
function tryForged(
  kind: ForgeryKind,
  layer: GenuineLayer,
  changes: Partial<SpanTableParts>,
): Forgery | undefined {
  try {
    return forged(kind, layer, changes);
  } catch {
    return undefined;
  }
}

/** Other compressed bytes that are to pass for the layer's blob: as long as it, so that no size gives them away. */
async function ownBytes(
  layer: GenuineLayer,
  content: Buffer,
): Promise<{ spans: SpanRecord[]; blob: Buffer } | undefined> {
  const made = compress(content, layer.compression);
  if (made.length > layer.blobSize) return undefined;
  const { spans } = await indexLayer(whole(made));
  return { spans: partsOf(spans), blob: Buffer.concat([made], layer.blobSize) };
}

export const partsOf = (table: SpanTable): SpanRecord[] =>
  Array.from({ length: table.spanCount }, (_, index) => table.part(index));

/** The states of a table over this content: of all blocks but the last. */
export function statesOf(content: Buffer): Buffer {
  const states = new BlockStates();
  states.update(content);
  const all = states.finish().states;
  // Of a last block that is whole the digest speaks.
  return all.subarray(0, (Math.ceil(content.length / BLOCK_SIZE) - 1) * 32);
}

/** A window of which every byte counts (src/image/window.ts has the form). */
function packed(window: Buffer): Buffer {
  const varint = (value: number): number[] =>
    value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...varint(value >>> 7)];
  return Buffer.concat([Buffer.from([...varint(window.length), ...varint(window.length)]), window]);
}

const withoutNothing = (part: SpanRecord): SpanRecord =>
  Object.fromEntries(
    Object.entries(part).filter(([, value]) => value !== undefined),
  ) as unknown as SpanRecord;

function noise(length: number, random: Random): Buffer {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; at += 4) bytes.writeUInt32LE(random.int(0, 2 ** 32 - 1), at);
  return bytes;
}

const digestOfChance = (random: Random): string => `sha256:${noise(32, random).toString('hex')}`;
