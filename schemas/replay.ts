/**
 * What `cofa replay --json` and `cofa events export --json` print; docs/replay.md shows it. Shapes only grow: a field may
 * be added.
 */
import { z } from 'zod';
import { ORIGINS } from './events.ts';
import { START_PARTS } from './start-parts.ts';

const count = z.int().min(0);
const seq = count.describe('sequence in the log; 0: before its first event');
const position = count.describe('number of events of this log that have happened');
const time = z.iso.datetime().nullable().describe("by the writer's clock; null: not known");
const ranges = z.array(z.tuple([count, count])).describe('[first block, count], ascending');
const us = z.number().min(0).describe('microseconds');
const failure = z.object({ code: z.string(), message: z.string() });

export const ReplayImage = z.object({
  manifest: z.string(),
  ref: z.string(),
  state: z.enum(['resolved', 'prepared', 'failed']),
  origin: z.enum(['sidecar', 'node']).optional(),
  flat: z.string().optional().describe('digest of the flat metadata'),
  failure: failure.optional(),
  trust: z.enum(['proven', 'unproven', 'refuted']).optional().describe('what is known of the flat metadata'),
  verified: z.string().optional().describe('digest of flat metadata that the node has built by itself'),
  refuted: z.string().optional().describe("the registry's flat metadata are not those of the layers"),
  layers: z.array(z.string()).describe('diffIDs, the lowest first'),
});

export const ReplayLayer = z.object({
  diffId: z.string(),
  root: z
    .string()
    .optional()
    .describe('block root, which names the layer in the log; absent: the diffID does'),
  state: z.enum(['lazy', 'complete', 'handed-over']),
  size: count.describe('uncompressed bytes'),
  blockSize: count,
  blockCount: count,
  blob: z.string(),
  presentCount: count,
  present: ranges,
  images: z.array(z.string()).describe('references of the images that have it'),
});

export const ReplayMount = z.object({
  id: z.string(),
  dir: z.string(),
  ref: z.string(),
  manifest: z.string(),
  state: z.enum(['requested', 'mounted', 'detached', 'unmounted', 'failed']),
  container: z.string().optional(),
});

const runs = z
  .array(z.tuple([count, count]))
  .describe('[first span, count] of each run, where the spans are not neighbours');

/** `--at`: what the node knew at a moment. */
export const ReplayState = z.object({
  node: z.string(),
  seq,
  position,
  time,
  digest: z.string().describe('of the canonical encoding of the state: equal states have equal digests'),
  running: z.boolean(),
  crashed: z.boolean().describe('the engine before ended without saying so'),
  processes: z.array(
    z.object({
      name: z.string(),
      role: z.string(),
      pid: z.int().nullable().describe('null: it does not run'),
      starts: count,
    }),
  ),
  members: z
    .array(z.object({ name: z.string(), zone: z.string(), role: z.string(), address: z.string() }))
    .describe('the others of the fleet'),
  leftOut: z
    .array(z.object({ name: z.string(), until: z.iso.datetime() }))
    .describe('members of the fleet that sent wrong bytes'),
  disbelieved: z
    .array(z.object({ name: z.string(), until: z.iso.datetime() }))
    .describe('members of the fleet that have vouched for what is wrong'),
  snapshots: count.describe("containerd's"),
  images: z.array(ReplayImage),
  layers: z.array(ReplayLayer),
  mounts: z.array(ReplayMount),
});

const change = z.enum(['added', 'removed', 'changed']);
const fields = z
  .record(z.string(), z.object({ from: z.unknown(), to: z.unknown() }))
  .describe('what differs; null: not there');
const moment = z.object({ seq, position, time });

/** `--diff`: what became different between two moments. */
export const ReplayDiff = z.object({
  from: moment,
  to: moment,
  equal: z.boolean(),
  running: z.object({ from: z.boolean(), to: z.boolean() }).optional(),
  processes: z.array(z.object({ id: z.string().describe('name'), change, fields })),
  members: z.array(z.object({ id: z.string().describe('name'), change, fields })),
  leftOut: z.array(z.object({ id: z.string().describe('name'), change, fields })),
  disbelieved: z.array(z.object({ id: z.string().describe('name'), change, fields })),
  images: z.array(z.object({ id: z.string().describe('manifest'), change, fields })),
  layers: z.array(
    z.object({
      diffId: z.string(),
      change,
      gained: ranges.describe('blocks that became present'),
      lost: ranges.describe('blocks that are gone'),
      fields,
    }),
  ),
  mounts: z.array(z.object({ id: z.string(), change, fields })),
});

/** `--events`, one a line; `--break` prints one. */
export const ReplayEventLine = z.object({
  seq,
  position: count.describe('number of events up to and with this one'),
  time: z.iso.datetime(),
  subject: z.string(),
  type: z.string(),
  data: z.record(z.string(), z.unknown()),
  strange: z
    .enum(['unknown type', 'later version', 'unreadable', 'damaged'])
    .optional()
    .describe('this cofa cannot say what it means; it changes no state'),
});

export const STEPS = [
  'wait',
  'queue',
  'lookup',
  'first-byte',
  'transfer',
  'verify',
  'write',
  'other',
  'reply',
] as const;

const WhyStep = z.object({
  step: z.enum(STEPS),
  startUs: us.describe('from the arrival of the read; before it for a job that ran already: 0'),
  us,
});

export const WhyJob = z.object({
  job: z.int(),
  class: z.enum(['demand', 'prefetch', 'pack']),
  span: count,
  spans: count,
  runs: runs.optional(),
  worker: z.string(),
  bytes: count.describe('compressed'),
  beganUs: z.number().describe('queued, from the arrival of the read; negative: before it'),
  totalUs: us,
  error: z.string().optional(),
  steps: z.array(WhyStep),
});

/** `why --read`: what a read waited for. */
export const WhyRead = z.object({
  kind: z.literal('read'),
  id: z.string().describe('SEQUENCE.N: the trace event and the place in it'),
  layer: z.string(),
  time: z.iso.datetime(),
  block: count,
  blocks: count,
  errno: count,
  us: us.describe('waited'),
  paths: z.array(z.string()).describe('files that the blocks belong to, where that can be found'),
  jobs: z.array(WhyJob).describe('fetches that it waited for, the last to end first'),
  steps: z.array(WhyStep).describe('where the time went, from arrival to answer; they add up to `us`'),
  missing: count.describe('jobs that the log does not tell of'),
});

/** What made a start slower than it had to be. */
export const CAUSES = [
  'dns',
  'registry',
  'link',
  'processor',
  'disk',
  'log',
  'cache',
  'sidecar',
  'pack',
] as const;

/** A program calls itself as it likes; control characters are escapes. */
const command = z
  .string()
  .optional()
  .describe(
    "of the part `program`: name of the container's program, as `cofa run` tells it; absent: not known",
  );

const StartProgram = z.object({
  pid: count.describe('of the process, on the node'),
  name: z
    .string()
    .describe('what the program called itself when it was seen last; control characters are escapes'),
  startUs: us.describe('when the process began, to some ten ms'),
  seenUs: us.describe('when a sample saw it first'),
  lastUs: us.describe('when one saw it last, which may be behind the start'),
  cpuUs: us.describe('its processor time up to then, or to the end of the start'),
  childrenUs: us.describe(
    'the same of its children that had ended; of those that were seen it is in their own as well',
  ),
});

const StartWall = z.object({
  time: z.iso.datetime().describe('when the program that called began, or else the call came'),
  us: us.describe(
    "wall time of the start: from there to the end of the container's program, if that comes within a minute, or else to the last cold read",
  ),
  accountedUs: us.describe('of it: belongs to a part, and where reads waited to what they waited for'),
  parts: z
    .array(
      z.object({
        part: z.enum(START_PARTS),
        us,
        cpuUs: us.optional().describe('of the program and of runc: processor time'),
        command,
        what: z.string(),
      }),
    )
    .describe('without overlaps, in the order of a start'),
  steps: z
    .record(z.string(), us)
    .describe('the part `reads` by what the reads waited for; wait: the log does not say'),
  processes: z
    .array(
      z.object({ name: z.string(), cpuUs: us, waitUs: us.describe('could have run and had no processor') }),
    )
    .describe('of the engine, during the start; empty: not measured'),
  programs: z
    .object({
      seen: z.array(StartProgram).describe('in the order of their beginnings'),
      more: count.describe('at least so many at once that the samples left out'),
      unseenUs: us
        .optional()
        .describe(
          'processor time of runc, of programs that no sample saw, and of all behind the last sample; absent: not known',
        ),
    })
    .optional()
    .describe('processes in the container, as samples saw them; absent: none was seen, or not looked for'),
  machine: z
    .object({
      cpus: count,
      busyUs: us.describe('processor time of all programs'),
      othersUs: us.describe('of it: neither the engine nor the container'),
      stalledUs: z
        .object({ cpu: us, io: us, memory: us })
        .optional()
        .describe('time in which at least one task of the machine waited for it'),
    })
    .optional()
    .describe('absent: not measured'),
});

const Faster = z.object({
  cause: z.enum(CAUSES),
  us: us.describe('of the start, that went there'),
  savedUs: us.describe('estimate; those of several causes may be about the same time'),
  text: z.string(),
});

/** `why --mount`, `why --start`: what a start was spent on. */
export const WhyStart = z.object({
  kind: z.literal('start'),
  mount: z.string(),
  ref: z.string(),
  manifest: z.string(),
  dir: z.string(),
  time: z.iso.datetime().describe('when it began'),
  us: us.describe('its phases in all, to the answer of its last cold read; what the start took is wall.us'),
  phases: z.array(
    z.object({
      phase: z.enum(['resolve', 'prepare', 'attach', 'mount', 'reads']),
      startUs: us,
      us,
      what: z.string(),
    }),
  ),
  reads: z.object({
    count,
    failed: count,
    waitedUs: us.describe('sum over all reads'),
    blockedUs: us.describe('time in which at least one read waited'),
    p50Us: us,
    p99Us: us,
    maxUs: us,
    dropped: count.describe('reads and jobs that the traces left out'),
  }),
  bytes: count.describe('compressed, fetched by jobs that reads waited for'),
  prefetchedBytes: count,
  steps: z
    .record(z.string(), us)
    .describe(
      'the waiting of all reads by what they waited for: queue, first-byte, transfer, verify, write, …',
    ),
  slowest: z.array(
    z.object({
      id: z.string(),
      layer: z.string(),
      block: count,
      us,
      startUs: us,
      paths: z.array(z.string()),
    }),
  ),
  spans: z
    .array(
      z.object({
        layer: z.string(),
        span: count,
        spans: count,
        runs: runs.optional(),
        reads: count,
        waitedUs: us,
        bytes: count,
      }),
    )
    .describe('fetches by the waiting that they caused'),
  files: z.array(z.object({ path: z.string(), reads: count, waitedUs: us })),
  path: z
    .array(z.object({ id: z.string(), startUs: us, us, gapUs: us.describe('without a wait before it') }))
    .describe('critical path: the waits that followed one another up to the last'),
  criticalUs: us.describe('sum of the waits on it'),
  wall: StartWall,
  cause: z
    .enum(CAUSES)
    .optional()
    .describe('what held it up most, sidecar and pack left aside; absent: nothing that is worth a sentence'),
  faster: z.array(Faster).describe('what would have made it faster, the most first'),
});

const blockState = z.enum(['absent', 'fetching', 'present']);
const origin = z
  .enum(ORIGINS)
  .describe(
    'why it was fetched: a reader waited, a hint or readahead said that one would, a startup pack, the rest',
  );

/** The blocks of a layer at a moment. */
export const BlockMapDocument = z.object({
  layer: z.string(),
  diffId: z.string(),
  blockSize: count,
  blockCount: count,
  size: count.describe('uncompressed bytes'),
  position,
  began: z.iso.datetime().describe('of the first change that the log tells of'),
  counts: z.object({ absent: count, fetching: count, present: count }),
  runs: z
    .array(z.tuple([count, count, blockState, origin.nullable(), z.number()]))
    .describe('[first block, count, state, origin or null, ms since `began`], all blocks in order'),
});

/** One block of it. */
export const BlockDocument = z.object({
  layer: z.string(),
  block: count,
  offset: count.describe('bytes of the uncompressed layer'),
  state: blockState,
  origin: origin.optional(),
  time: z.iso.datetime().optional().describe('when it came'),
  paths: z.array(z.string()).describe('files that have bytes in it, where that can be found'),
  reads: z
    .array(z.object({ id: z.string(), time: z.iso.datetime(), us, errno: count }))
    .describe('that waited'),
  jobs: z.array(
    z.object({
      job: z.int(),
      class: z.enum(['demand', 'prefetch', 'pack']),
      fetcher: z.string(),
      time: z.iso.datetime(),
      us,
      bytes: count.describe('compressed, of the whole job'),
      error: z.string().optional(),
    }),
  ),
});

const barStep = z.object({ step: z.enum(STEPS), startUs: us, us });

/** `why --waterfall`: a start on a time line. Times are µs since the beginning of `wall`. */
export const Waterfall = z.object({
  kind: z.literal('waterfall'),
  mount: z.string(),
  ref: z.string(),
  time: z.iso.datetime(),
  us,
  path: z
    .array(z.object({ part: z.enum(START_PARTS), startUs: us, us, read: z.string().optional() }))
    .describe('critical path: each moment of the start belongs to one entry'),
  phases: z.array(z.object({ part: z.enum(START_PARTS), startUs: us, us, command, what: z.string() })),
  jobs: z.array(
    z.object({
      job: z.int(),
      layer: z.string(),
      class: z.enum(['demand', 'prefetch', 'pack']),
      fetcher: z.string(),
      startUs: z.number(),
      us,
      bytes: count,
      waited: count.describe('reads that waited for it'),
      error: z.string().optional(),
      steps: z.array(barStep),
    }),
  ),
  reads: z.array(
    z.object({
      id: z.string(),
      layer: z.string(),
      block: count,
      blocks: count,
      startUs: us,
      us,
      errno: count,
      isCritical: z.boolean(),
      paths: z.array(z.string()),
    }),
  ),
  files: z.array(z.object({ path: z.string(), reads: count, waitedUs: us, startUs: us, us })),
  programs: z.array(StartProgram).describe('in the container, as samples saw them'),
  processes: StartWall.shape.processes,
  left: z
    .object({ jobs: count, reads: count, files: count, programs: count })
    .describe('shorter ones that the lists leave out; programs that the samples did'),
});

const sideBySide = { aUs: us, bUs: us };

/** `why --with`: two starts beside each other. */
export const StartComparison = z.object({
  kind: z.literal('comparison'),
  a: z.object({ mount: z.string(), ref: z.string(), time: z.iso.datetime(), us }),
  b: z.object({ mount: z.string(), ref: z.string(), time: z.iso.datetime(), us }),
  parts: z.array(z.object({ part: z.enum(START_PARTS), ...sideBySide })),
  steps: z.array(z.object({ step: z.string(), ...sideBySide })).describe('of the part `reads`'),
  files: z
    .array(z.object({ path: z.string(), ...sideBySide }))
    .describe('waiting, the largest difference first'),
  reads: z.object({ a: count, b: count }),
  bytes: z.object({ a: count, b: count }).describe('compressed, that reads waited for'),
  text: z.array(z.string()).describe('sentences'),
});

const outcome = z.object({
  us: us.describe('from the call to the answer of the last block that the start read for the first time'),
  endUs: us.optional().describe("to the container's end; absent: it went on"),
  phases: z.array(z.object({ phase: z.enum(['resolve', 'prepare', 'attach', 'reads']), us })),
  reads: z.object({
    count: count.describe('reads that are run again'),
    waited: count,
    failed: count.describe('of them: got EIO'),
    waitedUs: us.describe('sum over all reads'),
    blockedUs: us.describe('time in which at least one read waited'),
    p50Us: us,
    maxUs: us,
  }),
  bytes: z
    .object({ sidecar: count, pack: count, demand: count, ahead: count, rest: count })
    .describe('compressed, that came until then; measured ones count the rest as `ahead`'),
  requests: count.describe('for blocks and the pack'),
});

const conditions = z.object({
  rate: z.number().nullable().describe('bits a second; null: the link limits nothing'),
  rttMs: z.number().min(0),
  ahead: z.enum(['pack', 'files', 'hints', 'nothing']).describe('what says before what the start will read'),
  prefetch: z.boolean(),
  prefetchLimit: count.optional().describe('bytes a second'),
  fetchers: count,
  slots: count.describe('jobs side by side in one fetcher'),
  cores: count,
  block: count.optional().describe('bytes of a block; absent: as it is'),
});

/** `what-if`: a recorded start under other conditions. */
export const WhatIf = z.object({
  kind: z.literal('what-if'),
  mount: z.string(),
  ref: z.string(),
  manifest: z.string(),
  dir: z.string(),
  time: z.iso.datetime().describe('when the recorded start began'),
  recorded: z.object({
    conditions,
    measured: outcome.describe('as it went'),
    model: outcome.describe('what the model makes of the same conditions: how far it is off'),
  }),
  predicted: z.object({ conditions, outcome }),
  best: z
    .array(z.object({ conditions, outcome }))
    .optional()
    .describe('with --best: policies under the same link, the fastest first'),
  notes: z.array(z.string()).describe('what is guessed'),
});

/** `replay export --perfetto` */
export const PerfettoExport = z.strictObject({
  file: z.string(),
  format: z
    .literal('perfetto')
    .describe("Chrome's Trace Event Format, which Perfetto, chrome://tracing and speedscope open"),
  entries: z.int().min(0).describe('of `traceEvents`'),
  bytes: z.int().min(0).describe('of the file'),
  fromTime: z.iso.datetime(),
  toTime: z.iso.datetime(),
  mount: z.string().optional().describe('id of the mount whose start it is'),
});

/** `replay export --otlp` */
export const OtlpExport = z.strictObject({
  format: z.literal('otlp').describe("OpenTelemetry's protocol"),
  file: z.string().optional().describe('the file: a request a line, in JSON'),
  to: z.string().optional().describe('the collector'),
  traces: z.int().min(0),
  spans: z.int().min(0),
  mount: z.string().optional().describe('id of the mount whose start it is'),
});

/** `replay export` */
export const TraceExport = z.discriminatedUnion('format', [PerfettoExport, OtlpExport]);

/** `events export` */
export const ExportResult = z.object({
  file: z.string(),
  node: z.string(),
  events: count,
  firstSeq: count.optional(),
  lastSeq: count.optional(),
  firstTime: z.iso.datetime().optional(),
  lastTime: z.iso.datetime().optional(),
  bytes: count.describe('of the file'),
  beginning: seq.describe('the state in front of the first event is that after this one'),
});

export const REPLAY_SCHEMAS = {
  'replay.state': ReplayState,
  'replay.diff': ReplayDiff,
  'replay.event': ReplayEventLine,
  'replay.why-read': WhyRead,
  'replay.why-start': WhyStart,
  'replay.waterfall': Waterfall,
  'replay.comparison': StartComparison,
  'replay.block-map': BlockMapDocument,
  'replay.block': BlockDocument,
  'replay.what-if': WhatIf,
  'events.export': ExportResult,
  'replay.export': TraceExport,
} as const;

export type ReplayImage = z.output<typeof ReplayImage>;
export type ReplayLayer = z.output<typeof ReplayLayer>;
export type ReplayMount = z.output<typeof ReplayMount>;
export type ReplayState = z.output<typeof ReplayState>;
export type ReplayDiff = z.output<typeof ReplayDiff>;
export type ReplayEventLine = z.output<typeof ReplayEventLine>;
export type WhyRead = z.output<typeof WhyRead>;
export type WhyStart = z.output<typeof WhyStart>;
export type Waterfall = z.output<typeof Waterfall>;
export type StartComparison = z.output<typeof StartComparison>;
export type BlockMapDocument = z.output<typeof BlockMapDocument>;
export type BlockDocument = z.output<typeof BlockDocument>;
export type StartPart = (typeof START_PARTS)[number];
export type StartWall = z.output<typeof StartWall>;
export type Faster = z.output<typeof Faster>;
export type WhatIf = z.output<typeof WhatIf>;
export type WhyStep = z.output<typeof WhyStep>;
export type WhyJob = z.output<typeof WhyJob>;
