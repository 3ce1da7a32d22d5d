/**
 * The metrics that `cofa up --metrics` offers, by name without the prefix `cofa_`: type, labels, buckets, and a sentence for
 * people. docs/metrics.md has the same table; a test compares the two. Names and units follow Prometheus' conventions
 * (base units, `_total` for counters). A name, its type and its labels are an interface: boards and alarms rely on them.
 */
import { amount, list, name as word, type Shape } from './shapes.ts';

export interface Family {
  type: 'counter' | 'gauge' | 'histogram';
  help: string;
  labels?: readonly string[];
  /** Values of its one label that are told from the first scrape on, 0 or not: an alarm on an increase needs the 0 before it. */
  known?: readonly string[];
  /** Upper bounds of a histogram's buckets, ascending; the last one, infinity, is not named. */
  buckets?: readonly number[];
}

/** Seconds that a start's phase takes. */
const START = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
/** Seconds that a read waits: up to its deadline. */
const WAIT = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
/** Seconds until a registry begins to answer, or NATS has stored an event. */
const ANSWER = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

const families = {
  build_info: {
    type: 'gauge',
    help: 'Always 1: the version of the engine, its node and its transport.',
    labels: ['version', 'node', 'transport'],
  },
  engine_start_time_seconds: { type: 'gauge', help: 'When the engine started, in seconds since the epoch.' },
  engine_ready: {
    type: 'gauge',
    help: '1 while a front end serves: reads of what has not arrived need not wait for one.',
  },
  engine_degraded_conditions: {
    type: 'gauge',
    help: 'What is wrong at the moment: the degraded lines of cofa status.',
  },
  scrape_missing_processes: {
    type: 'gauge',
    help: 'Processes whose figures are those of an earlier scrape, since they did not answer this one.',
  },

  processes: {
    type: 'gauge',
    help: 'Processes of the engine by role and state.',
    labels: ['role', 'state'],
  },
  process_restarts_total: {
    type: 'counter',
    help: 'How often the supervisor started a process again.',
    labels: ['process'],
  },
  process_resident_memory_bytes: {
    type: 'gauge',
    help: 'Resident memory of each process.',
    labels: ['process'],
  },
  process_cpu_seconds_total: {
    type: 'counter',
    help: 'Processor time, user and system, of the present process of this name.',
    labels: ['process'],
  },

  machine_cpus: { type: 'gauge', help: 'Processors of the machine.' },
  machine_cpu_seconds_total: {
    type: 'counter',
    help: 'What all processors of the machine have worked, for any program.',
  },
  machine_pressure_seconds_total: {
    type: 'counter',
    help: 'Time in which at least one task of the machine waited for it, by resource: cpu, io, memory (/proc/pressure).',
    labels: ['resource'],
  },

  start_phase_seconds: {
    type: 'histogram',
    help: 'Time of each phase of a mount that became ready, by how its image was prepared.',
    labels: ['phase', 'prepared'],
    buckets: START,
  },
  start_reads_seconds: {
    type: 'histogram',
    help: 'From the first read of a recorded start to its last first read of a block, by what was brought ahead of it.',
    labels: ['ahead'],
    known: ['pack', 'files', 'hints', 'nothing'],
    buckets: START,
  },
  mounts: {
    type: 'gauge',
    help: 'Mounts by state.',
    labels: ['state'],
    known: ['mounting', 'mounted', 'unmounting', 'detached', 'failed'],
  },
  mount_failures_total: {
    type: 'counter',
    help: 'Mounts that failed, by error code; also those whose image could not be looked up.',
    labels: ['code'],
    known: ['unavailable', 'unauthorized', 'not-found', 'timeout', 'integrity'],
  },
  images: {
    type: 'gauge',
    help: 'Images of the node by state.',
    labels: ['state'],
    known: ['unprepared', 'resolving', 'indexing', 'ready', 'failed'],
  },
  images_prepared_total: {
    type: 'counter',
    help: 'Images that were prepared, by origin.',
    labels: ['origin'],
    known: ['sidecar', 'node'],
  },
  lazy_pulls_total: {
    type: 'counter',
    help: 'Images that containerd pulled of which no layer was downloaded.',
  },
  lazy_pull_layers_total: { type: 'counter', help: 'Layers that containerd was told not to download.' },
  lazy_pull_bytes_total: { type: 'counter', help: 'Compressed bytes of these layers.' },

  reads_total: {
    type: 'counter',
    help: 'Reads of layer devices that reached the engine, by outcome: hit (all blocks present), waited (answered after a fetch), failed.',
    labels: ['outcome'],
    known: ['hit', 'waited', 'failed'],
  },
  read_bytes_total: { type: 'counter', help: 'Bytes with which reads were answered.' },
  read_wait_seconds: {
    type: 'histogram',
    help: 'Time that reads of absent blocks waited, by outcome.',
    labels: ['outcome'],
    known: ['data', 'failed'],
    buckets: WAIT,
  },
  reads_failed_last_5m: {
    type: 'gauge',
    help: 'Reads that failed in the last five minutes: for alarms.',
  },

  fetched_bytes_total: {
    type: 'counter',
    help: 'Compressed bytes that came from registries or packs, by class: demand, hint (hints and readahead), pack, rest.',
    labels: ['class'],
    known: ['demand', 'hint', 'pack', 'rest'],
  },
  fetch_seconds: {
    type: 'histogram',
    help: 'From the queue to the end of a fetch that ended well, by class.',
    labels: ['class'],
    known: ['demand', 'hint', 'rest'],
    buckets: ANSWER,
  },
  fetch_step_seconds_total: {
    type: 'counter',
    help: 'Time of fetches that readers waited for, by step, in the words of cofa replay why.',
    labels: ['step'],
    known: ['queue', 'lookup', 'first-byte', 'transfer', 'verify', 'write', 'other'],
  },
  fetch_failures_total: {
    type: 'counter',
    help: 'Fetches that failed or were given up, by error code.',
    labels: ['code'],
    known: ['unavailable', 'unauthorized', 'timeout', 'integrity', 'no-space'],
  },
  queued_jobs: { type: 'gauge', help: 'Jobs that wait for a fetcher, by class.', labels: ['class'] },
  running_jobs: { type: 'gauge', help: 'Jobs that fetchers have.' },
  fetcher_slots: { type: 'gauge', help: 'Jobs that all fetchers may have at once.' },
  waiting_reads: { type: 'gauge', help: 'Reads that wait for a fetch at the moment.' },
  blocks: { type: 'gauge', help: 'Blocks of open layers by state.', labels: ['state'] },
  layers: { type: 'gauge', help: 'Open layers by state.', labels: ['state'] },

  registry_requests_total: {
    type: 'counter',
    help: 'Requests to registries, redirects included, by status; error: no answer came.',
    labels: ['code'],
    known: ['200', '206', '401', '404', '429', '500', '503', 'error'],
  },
  registry_request_seconds: {
    type: 'histogram',
    help: 'From a request to a registry to the beginning of its answer.',
    buckets: ANSWER,
  },
  name_lookup_seconds: {
    type: 'histogram',
    help: 'Lookups of the names of registries.',
    buckets: ANSWER,
  },
  registry_credential_renewals_total: {
    type: 'counter',
    help: 'Tokens and passwords that were asked for, by outcome: done, refused (there was no better one), failed.',
    labels: ['outcome'],
    known: ['done', 'refused', 'failed'],
  },

  cache_used_bytes: { type: 'gauge', help: 'What the cache takes on the disk, metadata included.' },
  cache_metadata_bytes: { type: 'gauge', help: 'Of them: flat images, span tables, tables of contents.' },
  cache_limit_bytes: { type: 'gauge', help: 'What the cache may take; absent without --cache-limit.' },
  cache_disk_free_bytes: { type: 'gauge', help: 'Free bytes of the disk of the root.' },
  cache_disk_reserve_bytes: { type: 'gauge', help: 'Bytes of the disk that are to stay free.' },
  cache_prefetch_allowed: { type: 'gauge', help: '1 while there is room for what no reader waits for.' },
  evicted_bytes_total: { type: 'counter', help: 'Bytes that evictions gave back to the disk.' },
  evicted_blocks_total: {
    type: 'counter',
    help: 'Blocks that became absent again, by reason.',
    labels: ['reason'],
    known: ['limit', 'prune', 'scrub', 'lost'],
  },

  integrity_failures_total: {
    type: 'counter',
    help: 'What was not what it should be: block (fetched bytes), layer (a whole device), metadata (a flat image), pack (a startup pack), table (a span table).',
    labels: ['what'],
    known: ['block', 'layer', 'metadata', 'pack', 'table'],
  },
  scrubs_total: { type: 'counter', help: 'Layers that were scrubbed.' },
  scrub_blocks_total: {
    type: 'counter',
    help: 'Blocks of scrubs, by result: compared, and of these bad, repaired, kept (bad and still served).',
    labels: ['result'],
    known: ['compared', 'bad', 'repaired', 'kept'],
  },

  incidents_total: {
    type: 'counter',
    help: 'Incidents that the black box has kept since the engine started, by kind.',
    labels: ['kind'],
    known: ['integrity', 'eio', 'crash', 'slow-start'],
  },

  log_events_total: { type: 'counter', help: "Events of this node since its log began, every process's." },
  log_bytes: { type: 'gauge', help: 'What the log holds of this node.' },
  log_limit_bytes: { type: 'gauge', help: 'Beyond it the oldest events are removed.' },
  log_append_seconds: {
    type: 'histogram',
    help: 'Time until the log had taken an event.',
    buckets: ANSWER,
  },
  file_sync_seconds: {
    type: 'histogram',
    help: 'Time until the disk had taken a file of an image that was prepared: a mount whose answer waits for the log waits for it.',
    buckets: ANSWER,
  },
  log_append_failures_total: { type: 'counter', help: 'Events that the log did not take.' },
  log_waiting_appends: { type: 'gauge', help: 'Events that wait for the log.' },
  log_lag_seconds: {
    type: 'gauge',
    help: 'How long the oldest blocks have been here that the log does not have.',
  },
  trace_spans_total: {
    type: 'counter',
    help: 'Spans for the OpenTelemetry collector: sent, rejected (by it), failed (it did not take them in time), dropped (too many waited).',
    labels: ['fate'],
    known: ['sent', 'rejected', 'failed', 'dropped'],
  },
  nats_connected: { type: 'gauge', help: '1 while NATS can be reached, by process.', labels: ['process'] },

  fleet_members: {
    type: 'gauge',
    help: 'Members of the fleet that this one hears, itself included; absent without a fleet.',
  },
  fleet_changes_total: {
    type: 'counter',
    help: 'Members that came (or are there at another address), went, or were left out since they sent wrong bytes.',
    labels: ['what'],
    known: ['came', 'gone', 'left-out'],
  },
  fleet_pieces_total: {
    type: 'counter',
    help: 'Pieces that processes of this node asked the fleet for, by who had them: node, fetcher (a member without mounts), own (this member), missed (the registry was asked).',
    labels: ['outcome'],
    known: ['node', 'fetcher', 'own', 'missed'],
  },
  fleet_received_bytes_total: {
    type: 'counter',
    help: 'Compressed bytes that came from the fleet in the place of a registry, by who had them.',
    labels: ['from'],
    known: ['node', 'fetcher', 'own'],
  },
  fleet_sent_bytes_total: { type: 'counter', help: 'Compressed bytes that this member sent to others.' },
  fleet_origin_bytes_total: {
    type: 'counter',
    help: 'Compressed bytes that this member fetched from registries as the home of pieces.',
  },
  fleet_cache_bytes: {
    type: 'gauge',
    help: 'Pieces that this member keeps for others, on the disk; absent without a fleet.',
  },
  fleet_hedges_total: {
    type: 'counter',
    help: 'Questions to a second home since the first one was slow.',
  },
  fleet_refused_strangers_total: {
    type: 'counter',
    help: 'Questions of clients that showed no certificate of a member.',
  },
  fleet_wrong_bytes_total: {
    type: 'counter',
    help: 'Pieces that were not what the registry sends; the member that sent them is left out.',
  },
  fleet_inquiries_total: {
    type: 'counter',
    help: 'Images of which this node asked others what they have proven, by what it heard: vouched (for one sidecar at least), disputed (nodes disagree: none is believed), unproven, silent (no node was there, or none answered).',
    labels: ['outcome'],
    known: ['vouched', 'disputed', 'unproven', 'silent'],
  },
  fleet_vouched_images_total: {
    type: 'counter',
    help: 'Images that were prepared on the word of other nodes, before this one had proven them.',
  },
  fleet_disbelieved_total: {
    type: 'counter',
    help: 'Members that have vouched for what this node has found to be otherwise: their word does not count for 30 days.',
  },
  fleet_questions_total: {
    type: 'counter',
    help: 'Questions of others what this node has proven of an image, by its answer: proven, nothing, agreed (not sent, since others have said the same), refused (of a member that asks without end).',
    labels: ['answer'],
    known: ['proven', 'nothing', 'agreed', 'refused'],
  },

  image_size_bytes: { type: 'gauge', help: 'Uncompressed size of the N largest images.', labels: ['image'] },
  image_present_bytes: { type: 'gauge', help: 'What has arrived of them.', labels: ['image'] },
  image_fetched_bytes: {
    type: 'gauge',
    help: 'Compressed bytes that came of them since the front end started.',
    labels: ['image'],
  },
} as const satisfies Record<string, Family>;

/** Series of a family that are told from the first scrape on; none of what has yet to be found out. */
export const knownLabels = ({ type, labels = [], known }: Family): ReadonlyArray<readonly string[]> => {
  if (known !== undefined) return known.map((value) => [value]);
  return labels.length === 0 && type !== 'gauge' ? [[]] : [];
};

export type MetricName = keyof typeof families;
export const METRICS: Readonly<Record<MetricName, Family>> = families;

/** Only with `--metrics-images`. */
export const IMAGE_METRICS: readonly MetricName[] = [
  'image_size_bytes',
  'image_present_bytes',
  'image_fetched_bytes',
];

export const PREFIX = 'cofa_';

/**
 * One series of a family: its labels' values in the order of the table, then the number; of a histogram how many
 * observations each bucket has (not cumulated, infinity last), then their sum.
 */
export type Sample = readonly [name: string, labels: readonly string[], values: readonly number[]];

/** Samples of one process at most. */
export const MOST_SAMPLES = 2_000;

const isLabels = list(word, 8);
const isValues = list(amount, 64);
const isSample = (value: unknown): boolean =>
  Array.isArray(value) && value.length === 3 && word(value[0]) && isLabels(value[1]) && isValues(value[2]);
/** Whether a process says samples. Names of a later version are let through: the reader passes over them. */
export const isSamples: Shape<readonly Sample[]> = (value): value is readonly Sample[] =>
  list(isSample, MOST_SAMPLES)(value);
