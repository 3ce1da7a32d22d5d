/**
 * The event log's records. An event is a fact: it says what has happened, in the past tense, and state is a fold
 * over these and nothing else (actors/node-state.ts).
 *
 * On the wire: msgpack map `{v, type, at, …fields}`, one message a record, subject by aggregate (schemas/subjects.ts).
 * `v` is the version of this page: 1. A field may be added when absent has a meaning; anything else needs `v: 2` and
 * a decoder for `v: 1` that stays. test/fixtures/events holds stored records of every version.
 *
 * Rules of order: a `mount.*` or `image.*` event is appended before its effect is acknowledged. A `layer.blocks` event
 * is appended after the bytes are synced: it may lag the data (then blocks are fetched again), never lead them. Likewise
 * `layer.evicted` is appended before the bytes go, `layer.removed` and `image.removed` before the files do.
 */
import { z } from 'zod';
import { DIGEST } from './digest.ts';
import { ProgramName, Ran } from './ran.ts';
import { traceFields } from './trace-fields.ts';
import { TRUST_WORDS } from './trust.ts';

/**
 * Bounds of what one record may hold. They are far above what any writer has to say; a record beyond them is damaged, or comes
 * from elsewhere, and would cost the reader's memory.
 */
const MAX_TEXT = 1 << 20;
const MAX_ENTRIES = 1 << 20;
/** Processes of a sample. */
const MAX_PROGRAMS = 64;
/** Blocks of a layer: 4 TiB of 64 KiB each. */
const MAX_BLOCKS = 2 ** 26;

const text = z.string().max(MAX_TEXT);
const digest = z.string().regex(DIGEST);
const count = z.int().min(0);
const list = <Entry extends z.ZodType>(entry: Entry) => z.array(entry).max(MAX_ENTRIES);
/** [first, count] of each. */
const runs = list(z.tuple([count, count]));
/** ms since the epoch */
const instant = z.number();
/** By the node's clock; containerd's clients compare these with their own. */
const moment = z.strictObject({ sec: z.int(), nsec: z.int().min(0).max(999_999_999) });
const labels = z.record(text, text);
const asked = instant.optional().describe('when the call came, ms since the epoch; absent: not known');

/** What a layer is that is no tar. */
const LayerFileSchema = z.strictObject({
  path: text.describe('in the image, relative to its root'),
  mode: count.max(0o7777),
  uid: count,
  gid: count,
  mtime: z.int().describe('s since the epoch'),
});
export type LayerFile = z.infer<typeof LayerFileSchema>;

export const LayerSource = z.strictObject({
  diffId: digest,
  blob: digest.describe('digest of the layer as it lies in the registry'),
  blobSize: count.describe('bytes'),
  mediaType: text,
  file: LayerFileSchema.optional().describe('the layer is this file, byte for byte; absent: a tar'),
});

/** Why a block was fetched: a reader waited, a hint or readahead said that one would, a startup pack brought it, the rest was due. */
export const ORIGINS = ['demand', 'hint', 'pack', 'rest'] as const;
export type Origin = (typeof ORIGINS)[number];

const processRole = z.enum(['front-end', 'fetcher', 'nats-server', 'snapshotter', 'fleet']);

const shapes = {
  'engine.started': {
    pid: count,
    version: text,
    transport: text,
    root: text.optional().describe('id of the folder that holds the layer devices; absent: not known'),
    host: text.optional(),
  },
  'engine.stopped': {},
  'engine.trimmed': {
    through: count.describe('events up to this sequence are being removed: a snapshot covers them'),
    snapshot: count.describe('sequence of that snapshot'),
    bytes: count.optional().describe("what the node's events up to `through` took; absent: not known"),
  },

  /** What the machine and the engine's processes did during starts. Says nothing of the state: the fold passes over it. */
  'engine.measured': {
    samples: list(
      z.strictObject({
        at: instant.describe('ms since the epoch'),
        cpus: count.describe('processors of the machine'),
        busyUs: count.describe('what all of them have worked since the machine started, for any program'),
        stalledUs: z
          .strictObject({ cpu: count, io: count, memory: count })
          .optional()
          .describe(
            'time in which at least one task of the machine waited for it, since the machine started (/proc/pressure); absent: the kernel does not say',
          ),
        processes: list(
          z.strictObject({
            name: text,
            cpuUs: count.describe('user and system time of all threads since the process started'),
            waitUs: count.describe('time in which its main thread could have run and had no processor'),
          }),
        ),
        programs: z
          .array(
            z.strictObject({
              mount: text.describe('id of the mount that the container has'),
              seen: z
                .array(
                  z.strictObject({
                    pid: count,
                    name: ProgramName.describe(
                      'what the program calls itself; control characters are escapes',
                    ),
                    since: instant.describe('when the process began, to some ten ms'),
                    cpuUs: count.describe('user and system time of all threads since then'),
                    childrenUs: count.describe('the same of its children that have ended, with theirs'),
                  }),
                )
                .max(MAX_PROGRAMS),
              more: count.optional().describe('at least so many processes more; absent: none'),
            }),
          )
          .max(MAX_PROGRAMS)
          .optional()
          .describe(
            'processes in containers of `cofa run` that start; absent: none was seen, or not looked for',
          ),
      }),
    ),
  },

  'process.started': { role: processRole, name: text, pid: count },
  'process.ended': {
    role: processRole,
    name: text,
    pid: count,
    code: z.int().optional().describe('exit code'),
    signal: text.optional().describe('the signal that ended it'),
    reason: text.optional().describe('why the supervisor ended it'),
  },

  /** Of the fleet that the node is a member of (docs/fleet.md): who is there by now. */
  'fleet.changed': {
    whole: z
      .literal(true)
      .optional()
      .describe('there is no other member than those that came; absent: those of before are there too'),
    came: list(
      z.strictObject({
        name: text,
        zone: text,
        role: z.enum(['node', 'fetcher']),
        address: text.describe('HOST:PORT of its TLS server'),
      }),
    ).describe('members that are there since, or are there at another address'),
    gone: list(text).describe('names of those that left, or were silent'),
  },
  'fleet.left-out': {
    name: text.describe('a member that sent wrong bytes: this node asks it no more'),
    until: instant.describe('ms since the epoch'),
    blob: digest.describe('what the wrong piece is of'),
    piece: count.describe('its index in the blob'),
  },
  'fleet.disbelieved': {
    name: text.describe(
      'a member that has vouched for what this node has found to be otherwise: its word does not count',
    ),
    until: instant.describe('ms since the epoch'),
    about: z.enum(['root', 'flat']).describe('a block root, or flat metadata'),
    subject: digest.describe(
      'diffID of the layer; of flat metadata: digest over the layers, or of the metadata',
    ),
    said: digest.describe('the root, or the digest of the flat metadata, that it has spoken of'),
  },
  'fleet.disputed': {
    ref: text.describe('an image of which members say different things: none is believed'),
    layers: digest.describe('over its layers'),
    about: list(text).describe('for people: flat metadata, block roots of layers; the first ones'),
  },

  'image.resolved': {
    ref: text,
    registry: text.describe('host[:port]'),
    repository: text,
    manifest: digest,
    config: digest,
    layers: list(LayerSource),
    chain: digest
      .optional()
      .describe(
        'the image is made of the lowest layers of the manifest alone; this is their ChainID, and its id',
      ),
  },
  'image.prepared': {
    origin: z.enum(['sidecar', 'node']),
    sidecar: digest.optional(),
    revision: count.optional().describe("the builder's, as the sidecar says it; absent: 1"),
    flat: digest.describe('digest of the flat metadata'),
    devices: list(
      z.strictObject({
        diffId: digest,
        size: count,
        spans: digest.describe('blob digest'),
        root: digest
          .optional()
          .describe(
            "block root of the layer's span table, and name of its device; absent: the diffID names it",
          ),
        table: digest
          .optional()
          .describe('digest of the span table, and its name in the store; absent: the blob digest names it'),
        pushed: z
          .boolean()
          .optional()
          .describe(
            'whether the span table is that of a client that may push, and no one vouched for it: its spans may lead nowhere; absent: as origin and `vouched` say',
          ),
      }),
    ),
    vouched: text
      .optional()
      .describe(
        'who vouched for the sidecar: `key:<fingerprint>`, `identity:<digest of its rule and CA>`, `list`, `image`, `fleet:<member>,<member>`; absent: the node, or the client that pushed it',
      ),
    passed: list(z.strictObject({ sidecar: digest, reason: text }))
      .optional()
      .describe('sidecars in the registry that were not used, and why'),
  },
  'image.verified': {
    flat: digest.describe('what the node has built from the layers by itself, byte for byte'),
    sidecar: digest.optional().describe("the registry's sidecar that holds it too"),
  },
  'image.refuted': {
    flat: digest.describe('metadata that are not those of the layers'),
    sidecar: digest.optional(),
    message: text,
  },
  'image.failed': { code: text, message: text },
  'image.removed': {},

  'layer.opened': {
    size: count.describe('raw bytes'),
    blockSize: count,
    blockCount: count.max(MAX_BLOCKS),
    blob: digest,
    diffId: digest.optional().describe('what its bytes must hash to when it is whole; absent: its id'),
    table: digest.optional().describe('digest of its span table; absent: the blob digest names it'),
  },
  'layer.blocks': {
    ranges: runs.describe('[first block, count] that are present'),
  },
  'layer.dropped': {
    reason: z.enum(['corrupt', 'device-lost']),
    message: text.describe('all blocks are absent again'),
  },
  'layer.completed': { digest },
  'layer.handed-over': {},
  'layer.scrubbed': {
    blocks: count.describe('present blocks that were compared with their digests'),
    bad: count.describe('of them: the disk has other bytes than were verified'),
    repaired: count.describe('of the bad ones: fetched again, and right on the disk'),
    kept: count
      .optional()
      .describe('of the bad ones: could not be taken out, and are still served; absent: none'),
    scope: z
      .enum(['newest', 'part'])
      .optional()
      .describe(
        'newest: those near the end of the log, after an unclean stop; part: the scrub was stopped; absent: all that are present',
      ),
  },
  /** What cold reads waited for. Says nothing of the state: the fold passes over it. */
  'layer.trace': {
    reads: list(
      z.strictObject({
        at: instant.describe('arrival, ms since the epoch'),
        us: count.describe('µs until the answer'),
        block: count.describe('first block of the read'),
        blocks: count,
        errno: count.describe('0: answered with data'),
        jobs: list(count).describe('fetches that it waited for, by their `job`'),
      }),
    ),
    jobs: list(
      z.strictObject({
        job: count.describe('number within the layer; begins again with each front end'),
        class: z.enum(['demand', 'prefetch', 'pack']),
        span: count.describe('first span'),
        spans: count.describe('how many'),
        runs: runs.optional().describe('[first span, count] of each run, where they are not neighbours'),
        blocks: runs
          .optional()
          .describe('[first block, count] that it was to bring, 200 at most; absent: not known'),
        worker: text.describe('fetcher that ended it; empty when none had it'),
        queuedAt: instant.describe('ms since the epoch'),
        sentUs: count.describe('from the queue to the fetcher, µs'),
        lookupUs: count
          .optional()
          .describe(
            'of the wait for the first byte: the name of the registry was looked up; absent: it was not',
          ),
        firstByteUs: count.describe('from the start of the fetch to its first byte, µs'),
        fetchUs: count.describe('waiting for bytes of the registry, the first one included, µs'),
        decodeUs: count.describe('decoding and verifying, µs'),
        writeUs: count.describe('writing into the layer device, µs'),
        totalUs: count.describe('from the queue to the end, µs'),
        bytes: count.describe('compressed bytes'),
        error: text.optional().describe('code and message; absent: every block is there'),
      }),
    ),
    came: list(z.tuple([count, count, z.enum(ORIGINS)]))
      .optional()
      .describe('[first block, count, why it was fetched] of what has come; absent: not known'),
    dropped: count.describe('entries that found no room in the batch'),
  },
  /**
   * A start of an image with this layer is over: what it read of the layer. One for each layer that was read; `place` counts the
   * first reads of all layers of the image. Says nothing of the state: the fold passes over it.
   */
  'layer.started': {
    manifest: digest,
    start: text.describe("which of the image's commands: program and first argument, or default"),
    ahead: z
      .enum(['pack', 'files', 'hints', 'nothing'])
      .describe('what said before what it would read: a startup pack, the start of an earlier build, hints'),
    cores: count.describe('processors of the node'),
    reads: list(z.tuple([count, count, count])).describe('[first block, count, place] in reading order'),
    clock: list(z.tuple([count, instant])).describe(
      '[place, ms since the epoch]: by then so many blocks of the image had been read',
    ),
    foretold: list(z.tuple([count, count, count]))
      .optional()
      .describe('[first block, count, place in the order of all layers] that `ahead` named; absent: none'),
    pack: z
      .strictObject({
        bytes: count.describe('as it is stored'),
        at: instant.describe('when it was asked for, ms since the epoch'),
        us: count.optional().describe('until all of it had come; absent: it had not'),
        error: text.optional().describe('code and message, where it was given up; absent: it was not'),
      })
      .optional()
      .describe('absent: no pack was brought'),
  },
  'layer.evicted': {
    ranges: runs.describe('[first block, count] that are absent again'),
    reason: z.enum(['limit', 'prune', 'scrub', 'lost']).describe('lost: found as holes of the file'),
  },
  'layer.taken-back': {},
  'layer.removed': {},

  /** Of a diffID, whichever devices the node has of it. Outlives image and layer. */
  'root.proven': {
    root: digest.describe('the layer was whole here with these block states, and hashed to its diffID'),
  },
  'root.refuted': {
    root: digest.describe('the layer was whole here with these block states, and hashed to something else'),
  },

  'mount.requested': {
    id: text,
    dir: text,
    ref: text,
    manifest: digest,
    prefetch: z.boolean(),
    prefetchLimit: count
      .optional()
      .describe('bytes per second that are fetched in the background; absent: no limit'),
    container: text.optional(),
    asked,
    began: instant
      .optional()
      .describe('when the program began that called, as it says, ms since the epoch; absent: it does not'),
    trust: z.enum(TRUST_WORDS).optional().describe("absent: the engine's policy"),
    nosuid: z
      .literal(true)
      .optional()
      .describe('setuid programs of the mount are ordinary ones; absent: they are not'),
    nodev: z.literal(true).optional().describe('device files of the mount open nothing; absent: they do'),
    nosymlinks: z
      .literal(true)
      .optional()
      .describe('no part of the path may be a symbolic link; absent: root may have made some'),
    made: z.literal(true).optional().describe('the folder was made for the mount, and goes with it'),
    ...traceFields,
  },
  'mount.mounted': {
    steps: z
      .strictObject({
        resolved: instant.describe('the registry, or the node, had said what the name means'),
        logged: instant.describe('the log had taken the request'),
        prepared: instant.describe('flat metadata and span tables were in the store'),
        attached: instant.describe('the devices were there'),
        standing: instant.describe('the file system was mounted'),
        logUs: count
          .optional()
          .describe(
            'until the file system was mounted, the supervisor waited for the log; absent: not known',
          ),
        lookupUs: count.optional().describe('the supervisor looked names of hosts up; absent: it did not'),
      })
      .optional()
      .describe('when it had come how far, ms since the epoch; absent: it was brought back, or not known'),
  },
  'mount.detached': { reason: z.enum(['engine-stopped', 'lost']) },
  'mount.unmounted': {
    ran: Ran.optional().describe('the container that had it, as its client says; absent: not known'),
  },
  'mount.failed': { code: text, message: text },

  'snapshot.prepared': {
    kind: z.enum(['active', 'view']),
    key: text,
    parent: text.describe('name of the committed snapshot below; empty: none'),
    labels,
    time: moment,
    asked,
    ...traceFields,
  },
  'snapshot.committed': {
    name: text,
    parent: text,
    labels,
    time: moment,
    size: count.describe('bytes on disk'),
    inodes: count,
    flat: z
      .strictObject({
        chain: digest.describe('digest of the chain of layers (OCI ChainID)'),
        ref: text,
        manifest: digest.describe('an image that begins with the chain'),
        layers: count.describe('how many of its layers the chain has'),
        diffId: digest.describe('of the uppermost layer'),
      })
      .optional()
      .describe('it was never unpacked: a flat image shows it and all below it'),
    asked,
    ...traceFields,
  },
  'snapshot.updated': { labels, time: moment },
  'snapshot.removed': {},

  /** Of an image, by its manifest: what podman's additional image store has of it from now on. */
  'podman.added': {
    ref: text.describe('as it was asked for'),
    names: list(text).describe('every name that podman finds it by, written in full'),
    index: digest.optional().describe('the index that the name points at; absent: it points at the manifest'),
    sizes: list(count).describe("bytes of each layer's tar, the lowest first"),
  },
  'podman.removed': {},
} as const;

export type EventType = keyof typeof shapes;
export const EVENT_VERSION = 1;
export const EVENT_TYPES = Object.keys(shapes) as EventType[];

// zod's type of an object without fields forbids all others, `type` too.
type Fields = {
  [T in EventType]: keyof (typeof shapes)[T] extends never
    ? unknown
    : z.output<z.ZodObject<(typeof shapes)[T]>>;
};

/** By type. `at` is milliseconds since the epoch by the writer's clock: information, never an order. */
export type EventMap = { [T in EventType]: { v: 1; type: T; at: number } & Fields[T] };
/** One fact. */
export type CofaEvent = EventMap[EventType];
export type EventOf<T extends EventType> = EventMap[T];
export type LayerEventType = Extract<EventType, `layer.${string}`>;
export type TracedRead = EventOf<'layer.trace'>['reads'][number];
export type TracedJob = EventOf<'layer.trace'>['jobs'][number];
/** What a writer gives: the log adds `v` and `at`. */
export type NewEvent<T extends EventType = EventType> = { [K in T]: { type: K } & Fields[K] }[T];

/** The schema of a record of each type. */
export const EVENT_SCHEMAS = Object.fromEntries(
  EVENT_TYPES.map((type) => [
    type,
    z.strictObject({ v: z.literal(1), type: z.literal(type), at: z.number(), ...shapes[type] }),
  ]),
) as unknown as Record<EventType, z.ZodObject>;

/** The schema of one record, for readers that take records from elsewhere, and for the JSON schemas. */
export const EventRecord = z.discriminatedUnion('type', Object.values(EVENT_SCHEMAS) as never);
