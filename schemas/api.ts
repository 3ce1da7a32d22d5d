/**
 * The engine's API: NATS request/reply. Subject `cofa.v1.<node>.api.<operation>`, payload JSON, or msgpack with
 * the header `Content-Type: application/msgpack`; the reply comes in the same encoding as
 * `{"ok":true,"result":…}` or `{"ok":false,"error":{"code","message","hint"}}`. docs/api.md shows it with `nats req`.
 */
import { z } from 'zod';
import { DIGEST } from './digest.ts';
import { traceFields } from './trace-fields.ts';
import { ERROR_KINDS, type ErrorCode } from './errors.ts';
import { Ran } from './ran.ts';
import { TRUST_WORDS } from './trust.ts';

/** An image as docker writes it: `debian`, `debian:12`, `localhost:5000/a/b@sha256:…`. */
const imageReference = z.string().min(1).max(512).describe('image reference as docker writes it');
const absolutePath = z
  .string()
  .max(4096)
  .regex(/^\/[^\0]*$/, 'must be an absolute path')
  .describe('absolute path on the node');

export const MountRequest = z.strictObject({
  ref: imageReference,
  dir: absolutePath,
  /** `os/arch[/variant]`; the node's own by default. */
  platform: z.string().max(64).optional(),
  /** Fetch the rest of the image in the background. */
  prefetch: z.boolean().default(true),
  prefetchLimit: z
    .int()
    .min(1)
    .optional()
    .describe('no more bytes per second than this in the background, compressed; no limit by default'),
  layers: z
    .int()
    .min(1)
    .max(1000)
    .optional()
    .describe('only so many of its layers, from the lowest; the reference must have a digest'),
  /** Which of the image's commands will run: startup packs are kept for each. Lower-case letters and digits. */
  start: z
    .string()
    .regex(/^[a-z0-9]{1,64}$/)
    .default('default')
    .describe('key of the command that will run, for its startup pack'),
  program: z
    .string()
    .min(1)
    .max(4096)
    .optional()
    .describe("first word of that command, where it is not the image's own: for the sidecar's hints"),
  trust: z
    .enum(TRUST_WORDS)
    .optional()
    .describe("which sidecars may be used before the node has proven them; the engine's policy by default"),
  suid: z
    .boolean()
    .default(false)
    .describe(
      'setuid and setgid bits and file capabilities of the image count for programs started from the mount',
    ),
  dev: z.boolean().default(false).describe('device files of the image open devices of the node'),
  noSymlinks: z
    .boolean()
    .default(false)
    .describe("refuse a directory whose path has a symbolic link; root's own links are followed by default"),
  began: z.number().min(0).optional().describe('when the calling program began, ms since the epoch'),
  /** Container id when `cofa run` owns the mount; such mounts are dropped when it ends. */
  container: z.string().max(128).optional(),
  overlay: z
    .enum(['temporary', 'kept'])
    .optional()
    .describe(
      "also mount the container's writable root; whether what is written there is thrown away in the end",
    ),
  ...traceFields,
});

const TrustState = z
  .enum(['proven', 'unproven', 'refuted'])
  .describe(
    'proven: the node has built the flat metadata from the layers by itself, or compared them with those that it built; refuted: they differ',
  );

export const Mount = z.strictObject({
  id: z.string().describe('mount id'),
  dir: z.string(),
  ref: z.string(),
  manifest: z.string().describe('digest of the image manifest, sha256:…'),
  config: z.string().describe('digest of the image config; the file lies in the cofa root'),
  configPath: z.string().describe('path of the image config JSON on the node'),
  origin: z
    .enum(['sidecar', 'node'])
    .describe('who built the flat image: found beside the image in the registry, or built on this node'),
  trust: TrustState,
  container: z.string().optional(),
  overlay: z.literal(true).optional().describe("the container's writable root was mounted as well"),
  state: z.enum(['mounting', 'mounted', 'unmounting', 'detached', 'failed']),
});

export const ExpectRequest = z.strictObject({
  ref: imageReference,
  platform: z.string().max(64).optional(),
  trust: z.enum(TRUST_WORDS).optional(),
});
export const ExpectReply = z.strictObject({});

export const UnmountRequest = z.strictObject({
  dir: absolutePath,
  overlay: z.literal(true).optional().describe("first take the container's writable root away"),
  ran: Ran.optional().describe('what ran in it'),
  discard: z
    .literal(true)
    .optional()
    .describe(
      'with overlay: the container has ended, and its folder goes as well; answered when its name is free',
    ),
});
export const UnmountReply = z.strictObject({
  id: z.string(),
  dir: z.string(),
  discarded: z.literal(true).optional().describe("the container's folder is put away, and on its way out"),
});

const blockCounts = {
  blocks: z.strictObject({
    absent: z.int().min(0),
    fetching: z.int().min(0),
    present: z.int().min(0),
  }),
  bytes: z.strictObject({
    total: z.int().min(0).describe('uncompressed bytes'),
    present: z.int().min(0),
    fetched: z.int().min(0).describe('compressed bytes that came from the registry since the engine started'),
  }),
};

const root = z
  .string()
  .optional()
  .describe(
    'block root: a layer has a device of its own for each root that a span table says; absent: prepared without one',
  );

export const LayerStatus = z.strictObject({
  diffId: z.string(),
  root,
  state: z.enum(['lazy', 'complete', 'handed-over', 'corrupt']),
  ...blockCounts,
});

export const CacheStatus = z.strictObject({
  usedBytes: z.int().min(0).describe('on the disk: layer devices, what is on its way to them, and metadata'),
  metadataBytes: z.int().min(0).describe('flat images, span tables, tables of contents'),
  limitBytes: z.number().nullable().describe('null: what the disk has, but for the reserve'),
  freeBytes: z.number().describe('of the disk of the root'),
  reserveBytes: z.number().describe('of the disk that are to stay free'),
  evictedBytes: z.int().min(0).describe('since the front end started'),
  prefetch: z.boolean().describe('whether there is room for what nobody waits for'),
});

export const ImageStatus = z.strictObject({
  ref: z.string(),
  manifest: z.string(),
  state: z
    .enum(['unprepared', 'indexing', 'ready', 'failed'])
    .describe('unprepared: a client has named it, nothing has been mounted, and nothing of it is here'),
  origin: z.enum(['sidecar', 'node']).optional(),
  trust: TrustState.optional(),
  /** Sidecars in the registry that were not used. */
  passed: z.array(z.strictObject({ sidecar: z.string(), reason: z.string() })).optional(),
  ...blockCounts,
  reads: z.strictObject({
    hits: z.int().min(0).describe('reads answered from blocks that were present'),
    misses: z.int().min(0).describe('reads that waited for a fetch'),
    errors: z.int().min(0),
  }),
  layers: z.array(LayerStatus),
});

export const ProcessStatus = z.strictObject({
  role: z.enum(['supervisor', 'front-end', 'fetcher', 'nats-server', 'snapshotter', 'fleet']),
  name: z.string(),
  pid: z.int(),
  state: z
    .enum(['starting', 'running', 'restarting', 'failed', 'stopped'])
    .describe('failed: it ended too often in a row, and is tried now and then only'),
  since: z.iso.datetime().optional().describe('when the state began'),
  restarts: z.int().min(0),
  lastEnd: z
    .strictObject({ at: z.iso.datetime(), reason: z.string() })
    .optional()
    .describe('how the process before this one ended'),
  rssBytes: z.int().min(0).optional(),
});

export const PodmanImage = z.strictObject({
  ref: z.string(),
  id: z.string().describe("podman's id of the image: the hex digits of its configuration's digest"),
  manifest: z.string(),
  names: z.array(z.string()).describe('every name that podman finds it by'),
  layers: z.int().min(1),
  shown: z.boolean().describe('podman sees it; false: `reason` says why not'),
  reason: z.string().optional(),
  whole: z.boolean().describe('all its layers are here: podman can save and push them'),
});

export const StatusRequest = z.strictObject({});
export const Status = z.strictObject({
  node: z.string(),
  version: z.string().describe('of cofa'),
  protocol: z.int().min(1).describe('of this API: docs/api.md, Versions'),
  root: z.string(),
  nats: z.string(),
  transport: z.enum(['kernel', 'fuse-native']),
  startedAt: z.iso.datetime(),
  ready: z.boolean().describe('a front end serves: reads of what has not arrived need not wait for one'),
  degraded: z.array(z.string()).describe('sentences; empty when all is well'),
  log: z
    .strictObject({
      events: z.int().min(0).describe('of this node, since its log began'),
      bytes: z.int().min(0).describe('that the log holds of it'),
      limit: z.int().min(0).describe('bytes; beyond it the oldest events are removed'),
      snapshot: z.int().min(0).describe('sequence of the last snapshot; 0: none'),
    })
    .optional(),
  snapshotter: z.string().optional().describe('socket that containerd can use'),
  mounts: z.array(Mount),
  images: z.array(ImageStatus),
  cache: CacheStatus,
  podman: z
    .strictObject({ store: z.string().describe('folder of the store'), images: z.array(PodmanImage) })
    .optional()
    .describe("what podman's additional image store has; absent: nothing"),
  processes: z.array(ProcessStatus),
});

/** Bytes a second that a scrub reads where nobody says otherwise. */
export const DEFAULT_SCRUB_RATE = 128e6;

const digest = z.string().regex(DIGEST, 'must be sha256: and 64 hex digits');

/** Can a chain of layers be mounted without unpacking it? For snapshotters. */
export const ChainRequest = z.strictObject({
  chain: digest.describe('ChainID of the layers (OCI image-spec)'),
  ref: imageReference
    .optional()
    .describe('an image that has the chain; without it only known images are looked at'),
  manifest: digest.optional().describe('its manifest'),
});
export const ChainReply = z.strictObject({
  flat: z
    .strictObject({
      ref: z.string(),
      manifest: z.string(),
      layers: z.int().min(1).describe('the chain is so many layers of this image, from the lowest'),
      diffId: z.string().describe('of the uppermost of them'),
      whole: z
        .strictObject({
          chain: z.string(),
          layers: z.int().min(1),
          diffId: z.string().describe('of its uppermost layer'),
        })
        .optional()
        .describe('all layers of that image, where it is the one that was named: they can be mounted, too'),
    })
    .optional()
    .describe('absent: it must be unpacked'),
});

/** May an image that a client has pulled use what this node has of its layers? For image services. */
export const AdmitRequest = z.strictObject({
  ref: imageReference,
  manifest: digest,
  layers: z
    .array(z.strictObject({ diffId: digest, blob: digest, blobSize: z.int().min(0).describe('bytes') }))
    .max(1_024)
    .describe('as its manifest and configuration name them'),
});
export const AdmitReply = z.strictObject({
  admitted: z
    .boolean()
    .describe('false: its repository has not shown that it holds a layer that is here from another one'),
});

/** Put an image into podman's additional image store, ROOT/podman. */
export const PodmanAddRequest = z.strictObject({
  ref: imageReference,
  platform: z.string().max(64).optional(),
  prefetch: z.boolean().default(true).describe('fetch the rest of the image in the background'),
  prefetchLimit: z.int().min(1).optional().describe('no more bytes per second than this in the background'),
  trust: z.enum(TRUST_WORDS).optional(),
});
/** `ref`: a name of it, or the first digits of its id or its manifest's digest. */
export const PodmanRemoveRequest = z.strictObject({ ref: imageReference });
export const PodmanRemoveReply = z.strictObject({
  ref: z.string(),
  manifest: z.string(),
  left: z.array(z.string()).describe('names that podman still finds it by; none: it is not there any more'),
});

export const UpgradeRequest = z.strictObject({});
export const UpgradeReply = z.strictObject({
  frontEnd: z.strictObject({
    from: z.int().describe('process id of the front end that served'),
    to: z.int().describe('of the one that serves now'),
    pauseMs: z.int().min(0).describe('how long readers were not served; none has failed'),
  }),
  fetchers: z.int().min(0).describe('fetchers that were started again'),
});

export const PruneRequest = z.strictObject({
  /** Also of mounted images all but what their starts read. */
  all: z.boolean().default(false),
  /** Only say what would go. */
  dryRun: z.boolean().default(false),
  /** Stop when the cache is no larger than this, bytes. 0: take all that can go. */
  keepBytes: z.int().min(0).default(0),
});
export const PruneReply = z.strictObject({
  images: z.array(z.strictObject({ ref: z.string(), manifest: z.string() })),
  layers: z.int().min(0).describe('layers that were removed as a whole'),
  freedBytes: z.number(),
  usedBytes: z.number().describe('of the cache afterwards'),
});
/** `ref`: as docker writes it, or the first digits of the manifest's digest. */
export const RemoveRequest = z.strictObject({ ref: imageReference });

export const ScrubRequest = z.strictObject({
  ref: imageReference
    .optional()
    .describe("only this image's layers; as docker writes it, or digits of its digest"),
  layer: z
    .string()
    .regex(/^(sha256:)?[0-9a-f]{6,64}$/, 'must be a diffID or its first digits')
    .optional()
    .describe('only this layer'),
  repair: z.boolean().default(false).describe('fetch bad blocks again at once'),
  bytesPerSecond: z.number().min(0).default(DEFAULT_SCRUB_RATE).describe('0: as fast as the disk is'),
});
export const ScrubReply = z.strictObject({
  layers: z.array(
    z.strictObject({
      diffId: z.string(),
      root,
      refs: z.array(z.string()).describe('images that have the layer'),
      blocks: z.int().min(0).describe('present blocks that were compared with their digests'),
      bytes: z.number(),
      bad: z.int().min(0).describe('the disk has other bytes than were verified'),
      repaired: z.int().min(0).describe('of the bad ones: fetched again, and right on the disk'),
      kept: z.int().min(0).describe('of the bad ones: could not be taken out, and are still served'),
      whole: z
        .boolean()
        .describe('every block of the layer is here and right: the device is what the diffID says'),
      failure: z.string().optional().describe('why it was not compared to its end, or not repaired'),
    }),
  ),
  blocks: z.int().min(0),
  bytes: z.number(),
  bad: z.int().min(0),
  repaired: z.int().min(0),
  kept: z.int().min(0),
  stopped: z.boolean().describe('somebody stopped it before its end'),
  ms: z.int().min(0),
});
export const StopScrubRequest = z.strictObject({});
export const StopScrubReply = z.strictObject({ stopped: z.boolean().describe('false: none was running') });

export const DownRequest = z.strictObject({
  /** Also stop while something still uses a mount that is not complete; its reads get EIO from then on. */
  force: z.boolean().default(false),
});
export const DownReply = z.strictObject({ stopping: z.literal(true) });

export const ApiError = z.strictObject({
  code: z.enum(Object.keys(ERROR_KINDS) as [ErrorCode, ...ErrorCode[]]),
  message: z.string(),
  hint: z.string().optional(),
});

/** Every operation: the last token of its subject, with its request and its result. */
export const OPERATIONS = {
  status: { request: StatusRequest, result: Status },
  mount: { request: MountRequest, result: Mount },
  expect: { request: ExpectRequest, result: ExpectReply },
  unmount: { request: UnmountRequest, result: UnmountReply },
  chain: { request: ChainRequest, result: ChainReply },
  admit: { request: AdmitRequest, result: AdmitReply },
  'podman-add': { request: PodmanAddRequest, result: PodmanImage },
  'podman-remove': { request: PodmanRemoveRequest, result: PodmanRemoveReply },
  upgrade: { request: UpgradeRequest, result: UpgradeReply },
  prune: { request: PruneRequest, result: PruneReply },
  remove: { request: RemoveRequest, result: PruneReply },
  scrub: { request: ScrubRequest, result: ScrubReply },
  'scrub-stop': { request: StopScrubRequest, result: StopScrubReply },
  down: { request: DownRequest, result: DownReply },
} as const;

export type PodmanImage = z.output<typeof PodmanImage>;
export type Operation = keyof typeof OPERATIONS;
export type RequestOf<O extends Operation> = z.input<(typeof OPERATIONS)[O]['request']>;
/** A request as the engine carries it out: checked, with its defaults. */
export type AcceptedOf<O extends Operation> = z.output<(typeof OPERATIONS)[O]['request']>;
export type ResultOf<O extends Operation> = z.output<(typeof OPERATIONS)[O]['result']>;
export type Mount = z.output<typeof Mount>;
export type Status = z.output<typeof Status>;
export type ImageStatus = z.output<typeof ImageStatus>;
export type ScrubReply = z.output<typeof ScrubReply>;
export type PruneReply = z.output<typeof PruneReply>;
export type CacheStatus = z.output<typeof CacheStatus>;
export type LayerStatus = z.output<typeof LayerStatus>;
export type ProcessStatus = z.output<typeof ProcessStatus>;

/**
 * Long work reports on `cofa.v1.<node>.progress.<token>` when the request has the header `Cofa-Progress: <token>`.
 * `done` and `total` count bytes.
 */
export interface Progress {
  phase: 'resolve' | 'sidecar' | 'index' | 'flatten' | 'mount' | 'scrub';
  /** What the phase works on, such as a layer's digest. */
  item?: string;
  done?: number;
  total?: number;
  /** A sentence for the user, such as why a sidecar is not used. */
  remark?: string;
  /**
   * The root of a container of `cofa run` is mounted, and the log is being told of it. Its files may be read; the call's answer
   * says that the mount is there to stay. Path of the image's configuration on the node.
   */
  config?: string;
}
