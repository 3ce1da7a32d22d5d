/**
 * What the supervisor orders from the indexer's processes, and what they answer: a dialogue for each (src/process/forked.ts). Both
 * ends are checked against these types and look whether what comes has their shape; neither program imports the other.
 */
import type { ImageDevice } from '../../actors/device.ts';
import type { Progress } from '../../schemas/api.ts';
import { isProgress } from '../../schemas/check-progress.ts';
import { isDigest } from '../../schemas/digest.ts';
import {
  count,
  fields,
  flag,
  list,
  maybe,
  name,
  oneOf,
  only,
  sentence,
  type Shape,
  text,
} from '../../schemas/shapes.ts';
import type { ResolvedImage, Source } from '../registry/client.ts';
import type { Layout } from '../store/layout.ts';
import type { RebuildLayer, RebuildOrder } from './rebuild-flat.ts';

/** Layers of an image. */
const MAX_LAYERS = 4_096;
/** Layers that the images of a node have. */
const MAX_KNOWN = 2 ** 18;
const PATH = text(4_096);

const bytes = count(0);
const device = fields({
  diffId: isDigest,
  size: bytes,
  spans: isDigest,
  root: maybe(isDigest),
  table: maybe(isDigest),
  pushed: maybe(flag),
});

/** Where blobs are. */
const SOURCE = fields({ registry: name, repository: name });
const FILE = fields({ path: PATH, mode: bytes, uid: bytes, gid: bytes, mtime: Number.isSafeInteger });
const LAYER = fields({ diffId: isDigest, blob: isDigest, blobSize: bytes, file: maybe(FILE) });

/** src/indexer/main.ts indexes one image. */
export interface ToIndexer {
  root: string;
  manifest: string;
  image: ResolvedImage;
}

export interface NodeIndex {
  /** Digest of the flat metadata. */
  flat: string;
  devices: ImageDevice[];
}

const blob = fields({ digest: isDigest, size: bytes });
const index = { flat: isDigest, devices: list(device, MAX_LAYERS) };

/** The notes are progress. */
export const INDEXING = {
  isOrder: fields({
    root: PATH,
    manifest: isDigest,
    image: fields({
      reference: fields({ registry: name, repository: name }),
      layers: list(fields({ diffId: isDigest, blob, file: maybe(FILE) }), MAX_LAYERS),
    }),
  }) as Shape<ToIndexer>,
  isNote: isProgress satisfies Shape<Progress>,
  isResult: fields(index) as Shape<NodeIndex>,
};

/** src/indexer/flattener.ts builds one flat image from tables of contents. */
export interface ToFlattener {
  /** File that takes the flat metadata. */
  target: string;
  /** The lowest first; `toc`: file with the encoded table of contents, `size`: raw bytes. */
  layers: Array<{ diffId: string; size: number; toc: string }>;
}

export interface Flattened {
  /** Digest of the metadata. */
  flat: string;
  /** Indexes of the layers that it needs. */
  devices: number[];
}

/** There are no notes: it takes seconds. */
export const FLATTENING = {
  isOrder: fields({
    target: PATH,
    layers: list(fields({ diffId: isDigest, size: bytes, toc: PATH }), MAX_LAYERS),
  }) as Shape<ToFlattener>,
  isNote: (_value: unknown): _value is never => false,
  isResult: fields({
    flat: isDigest,
    devices: list(count(0, MAX_LAYERS), MAX_LAYERS),
  }) as Shape<Flattened>,
};

/** src/indexer/table-maker.ts makes the span table of one layer, and leaves it in the store. */
export interface TableOrder {
  root: string;
  source: Source;
  layer: RebuildLayer;
}

/** The notes are bytes of the blob that have come. */
export const MAKING_TABLE = {
  isOrder: fields({ root: PATH, source: SOURCE, layer: LAYER }) as Shape<TableOrder>,
  isNote: bytes as Shape<number>,
  isResult: device as Shape<ImageDevice>,
};

/** src/indexer/tar-splitter.ts writes what podman needs of a layer beside the data of its files (src/image/tar-split.ts). */
export interface ToSplitter {
  /** A file that begins with the layer's tar. */
  device: string;
  /** Bytes of the tar. */
  size: number;
  diffId: string;
  /** File that takes the entries, compressed; it is whole when it is there. */
  target: string;
}

/** The notes are bytes of the tar that were read. Error `integrity` where the device is not the layer. */
export const SPLITTING = {
  isOrder: fields({ device: PATH, size: bytes, diffId: isDigest, target: PATH }) as Shape<ToSplitter>,
  isNote: bytes as Shape<number>,
  isResult: bytes as Shape<number>,
};

/** src/indexer/unpacker.ts unpacks one part of a sidecar, and writes it into the store when it is sound. */
export interface ToUnpacker {
  /** File that has the part as it lies in the registry. */
  packed: string;
  /** Bytes that it unpacks to. */
  size: number;
  /** For messages. */
  blob: { digest: string; mediaType: string };
  part: /** `target`: file that takes it. */
    | { kind: 'flat' | 'toc'; target: string }
    /** `store`: root of the store that takes it, by its own digest. */
    | { kind: 'spans'; store: string; layer: { diffId: string; blob: { digest: string; size: number } } };
}

export interface Unpacked {
  digest: string;
  /** Of flat metadata: the layers that it has file data in, and the bytes of their devices. */
  devices?: Array<{ diffId: string; size: number }>;
  /** Of a span table. */
  table?: { rawSize: number; root: string };
}

const WRITTEN = fields({ kind: oneOf(['flat', 'toc']), target: PATH });
const STORED = fields({
  kind: only('spans'),
  store: PATH,
  layer: fields({ diffId: isDigest, blob }),
});

/** There are no notes: it takes seconds. */
export const UNPACKING = {
  isOrder: fields({
    packed: PATH,
    size: bytes,
    blob: fields({ digest: isDigest, mediaType: sentence }),
    part: (value: unknown) => WRITTEN(value) || STORED(value),
  }) as Shape<ToUnpacker>,
  isNote: (_value: unknown): _value is never => false,
  isResult: fields({
    digest: isDigest,
    devices: maybe(list(fields({ diffId: isDigest, size: bytes }), MAX_LAYERS)),
    table: maybe(fields({ rawSize: bytes, root: isDigest })),
  }) as Shape<Unpacked>,
};

/** src/indexer/rebuilder.ts rebuilds one flat image from its layers. */
export interface RebuilderOrder extends RebuildOrder {
  root: string;
  manifest: string;
  expected: string | undefined;
}

/** Of the flat metadata that the layers give. */
export interface Rebuilt extends NodeIndex {
  /** How those that were expected differ from them; undefined: byte for byte the same. */
  difference: string | undefined;
  /** File of the rebuilt metadata where they are others, synced: `rebuiltPath`. */
  path: string;
}

/** The notes are bytes of layers that were read. */
export const REBUILDING = {
  isOrder: fields({
    root: PATH,
    manifest: isDigest,
    expected: maybe(isDigest),
    source: SOURCE,
    layers: list(LAYER, MAX_LAYERS),
    local: list(fields({ diffId: isDigest, layer: isDigest, size: bytes }), MAX_KNOWN),
    known: list(device, MAX_KNOWN),
    cached: flag,
  }) as Shape<RebuilderOrder>,
  isNote: bytes as Shape<number>,
  isResult: fields({ ...index, difference: maybe(sentence), path: PATH }) as Shape<Rebuilt>,
};

/**
 * Where a rebuild leaves metadata that differ from those in use. The supervisor uses or removes the file, also after a
 * failure. It is a draft: the next start removes what a crash leaves.
 */
export const rebuiltPath = (layout: Layout, manifest: string, background: boolean): string =>
  `${layout.flat(manifest)}.${background ? 'rebuilt' : 'own'}.draft`;
