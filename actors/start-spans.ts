/**
 * The spans of starts and of containerd's pulls, folded from the event log. The engine folds as events come, and `cofa replay
 * export --otlp` what a file holds: the same events give the same spans with the same ids.
 *
 *     start                      mount.requested … the last read of the start
 *       resolve prepare attach mount     as actors/start-times.ts divides them
 *       reads                    from the mount to the last read that waited
 *         read                   one that waited; linked to the fetches that it waited for
 *       fetch                    a job of a fetcher, by class
 *       container                from its runtime to its end, where `cofa run` ran it
 *         program                one in it, from its beginning to the last sample that saw it
 *     pull, prepare snapshot     pull-spans.ts
 *
 * A start ends as `cofa replay why --start` says: at the first half second without a read that waits, or with its container. What waits is told when it has
 * been answered. So a start is over for this fold when no read can come any more that belongs to it: by the time of the events, never by
 * that of the reader.
 */
import type { CofaEvent, EventOf, TracedJob, TracedRead } from '../schemas/events.ts';
import { contextIn } from '../schemas/trace-context.ts';
import { MOST_A_START, type SeenPrograms } from './start-programs.ts';
import { PullSpans, type SpansOptions } from './pull-spans.ts';
import { LONGEST, type Span, type SpanTree, TreeMaker } from './spans.ts';
import { phasesOfStart, type PreparedBy } from './start-times.ts';

/** One event of a log. */
export interface SpanRecord {
  seq: number;
  /** Of its subject. */
  id: string;
  event: CofaEvent;
}

/** A pause without a waiting read that ends a start, and the longest one, ms: as in src/replay/why-start.ts. */
const QUIET_MS = 500;
const LIMIT_MS = 60_000;
/** A read that came before the pause is answered, and told, within this, ms: its deadline (30 s), and a flush. */
const LATE_MS = 32_000;
/** What is followed at once. */
const MOST_STARTS = 1_000;
const MOST_LAYERS = 1_024;
const MOST_ENTRIES = 50_000;
/** Spans of a start: the longest ones. */
const MOST_READS = 500;
const MOST_FETCHES = 500;
/** Of a read. */
const MOST_LINKS = 128;

interface Start {
  request: EventOf<'mount.requested'>;
  prepared: PreparedBy;
  preparedAt: number | undefined;
  openedAt: Map<string, number>;
  mountedAt: number | undefined;
  layers: ReadonlySet<string>;
  /** The last answer that is known. */
  busyUntil: number;
  steps: EventOf<'mount.mounted'>['steps'];
  /** Programs in its container, by process. */
  programs: Map<string, SeenProgram>;
  /** The run of the container that had it, when it is over. */
  ran: EventOf<'mount.unmounted'>['ran'];
}

/** A process as the last sample saw it. */
type SeenProgram = SeenPrograms['seen'][number] & { at: number };

/** An entry of a trace, by the event that tells of it. */
interface Told<Entry> {
  key: string;
  layer: string;
  entry: Entry;
}

export class StartSpans {
  readonly #options: SpansOptions;
  readonly #starts = new Map<string, Start>();
  readonly #pulls: PullSpans;
  #reads: Array<Told<TracedRead>> = [];
  #jobs: Array<Told<TracedJob>> = [];
  /** Starts and entries that found no room. */
  #dropped = 0;

  constructor(options: SpansOptions) {
    this.#options = options;
    this.#pulls = new PullSpans(options);
  }

  /** Folds an event. Returns what is over by its time, or by itself. */
  take({ seq, id, event }: SpanRecord): SpanTree[] {
    const over = this.settled(event.at);
    switch (event.type) {
      case 'engine.started':
      case 'engine.stopped':
        over.push(...this.end());
        break;
      case 'mount.requested':
        this.#requested(id, event);
        break;
      case 'image.prepared':
        for (const start of this.#starts.values())
          if (start.mountedAt === undefined && start.request.manifest === `sha256:${id}`) {
            start.prepared = event.origin;
            start.preparedAt = event.at;
          }
        break;
      case 'layer.opened':
        for (const { openedAt } of this.#starts.values())
          if (openedAt.size < MOST_LAYERS) openedAt.set(`sha256:${id}`, event.at);
        break;
      case 'mount.mounted':
        this.#mounted(id, event);
        break;
      case 'mount.failed':
        over.push(...this.#failed(id, event));
        break;
      case 'mount.unmounted':
        this.#unmounted(id, event);
        break;
      case 'engine.measured':
        this.#measured(event);
        break;
      case 'layer.trace':
        this.#traced(seq, `sha256:${id}`, event);
        break;
      case 'snapshot.prepared':
        over.push(...this.#pulls.snapshot(id, event));
        break;
      case 'snapshot.committed':
        over.push(...this.#pulls.layer(seq, event));
    }
    return over;
  }

  /** What is over at `now`, by the clock of the events, ms. */
  settled(now: number): SpanTree[] {
    const over: SpanTree[] = [];
    for (const [id, start] of this.#starts) {
      const { mountedAt, busyUntil } = start;
      if (mountedAt === undefined || now <= busyUntil + LATE_MS) continue;
      this.#starts.delete(id);
      over.push(this.#treeOf(id, start, mountedAt));
    }
    over.push(...this.#pulls.settled(now));
    if (over.length > 0) this.#forget();
    return over;
  }

  /** No event comes any more: what is known of each start and pull. */
  end(): SpanTree[] {
    const over = this.settled(Number.POSITIVE_INFINITY);
    this.#starts.clear();
    this.#forget();
    return over;
  }

  // ── Starts ──

  #requested(id: string, request: EventOf<'mount.requested'>): void {
    if (this.#starts.size >= MOST_STARTS) {
      this.#dropped += 1;
      return;
    }
    this.#starts.set(id, {
      request,
      prepared: 'before',
      preparedAt: undefined,
      openedAt: new Map(),
      mountedAt: undefined,
      layers: new Set(),
      busyUntil: Number.POSITIVE_INFINITY,
      steps: undefined,
      programs: new Map(),
      ran: undefined,
    });
  }

  #mounted(id: string, { at, steps }: EventOf<'mount.mounted'>): void {
    const start = this.#starts.get(id);
    // A mount that comes back after a restart has been asked for in another engine's time.
    if (start === undefined || start.mountedAt !== undefined) return;
    start.mountedAt = at;
    start.busyUntil = at;
    start.steps = steps;
    start.layers = this.#options.imageOf(start.request.manifest)?.layers ?? new Set();
  }

  /** One that was mounted is told when its reads are. */
  #unmounted(id: string, { ran }: EventOf<'mount.unmounted'>): void {
    const start = this.#starts.get(id);
    if (start?.mountedAt === undefined) {
      this.#starts.delete(id);
      return;
    }
    const { mountedAt } = start;
    // Another process says so.
    if (ran !== undefined && ran.spawned >= mountedAt - LIMIT_MS && ran.ended >= ran.spawned)
      if (ran.ended >= mountedAt && ran.ended <= mountedAt + LIMIT_MS) start.ran = ran;
  }

  #failed(id: string, { at, code, message }: EventOf<'mount.failed'>): SpanTree[] {
    const start = this.#starts.get(id);
    if (start === undefined || start.mountedAt !== undefined) return [];
    this.#starts.delete(id);
    const maker = this.#maker(id, start);
    const error = `${code}: ${message}`.slice(0, LONGEST);
    maker.add('start', { ...startSpan(id, start), to: at, error });
    return [maker.tree];
  }

  #measured({ samples }: EventOf<'engine.measured'>): void {
    for (const { at, programs = [] } of samples)
      for (const { mount, seen } of programs) {
        const known = this.#starts.get(mount)?.programs;
        for (const program of seen) {
          const key = `${program.pid} ${program.since}`;
          if (known?.has(key) || (known !== undefined && known.size < MOST_A_START))
            known.set(key, { ...program, at });
        }
      }
  }

  #traced(seq: number, layer: string, { reads, jobs, dropped }: EventOf<'layer.trace'>): void {
    if (this.#starts.size === 0) return;
    this.#dropped += dropped;
    const told = <Entry>(list: Array<Told<Entry>>, kind: string, entries: readonly Entry[]) => {
      const room = Math.max(0, MOST_ENTRIES - list.length);
      this.#dropped += Math.max(0, entries.length - room);
      for (const [place, entry] of entries.slice(0, room).entries())
        list.push({ key: `${kind} ${seq}.${place}`, layer, entry });
    };
    told(this.#reads, 'read', reads);
    told(this.#jobs, 'fetch', jobs);
    for (const start of this.#starts.values()) {
      const { mountedAt, layers } = start;
      if (mountedAt === undefined || !layers.has(layer)) continue;
      for (const read of reads)
        if (read.at <= mountedAt + LIMIT_MS) start.busyUntil = Math.max(start.busyUntil, endOfRead(read));
    }
  }

  #maker(id: string, { request }: Start): TreeMaker {
    return new TreeMaker(startName(this.#options.node, id), contextIn(request), this.#options.hash);
  }

  #treeOf(id: string, start: Start, mountedAt: number): SpanTree {
    const maker = this.#maker(id, start);
    const { asked, at: requestedAt } = start.request;
    const { layers, preparedAt, prepared, steps, ran } = start;
    let openedAt = 0;
    for (const [layer, at] of start.openedAt)
      if (layers.has(layer) && at <= mountedAt) openedAt = Math.max(openedAt, at);
    const phases = phasesOfStart({ asked, requestedAt, preparedAt, openedAt, mountedAt, steps });
    const startedAt = phases[0]?.from ?? requestedAt;
    const reads = this.#readsOf(layers, { startedAt, mountedAt, endedAt: ran?.ended });
    const lastAt = reads.reduce((last, { entry }) => Math.max(last, endOfRead(entry)), mountedAt);
    const to = ran?.ended ?? lastAt;
    const jobs = this.#jobs.filter(
      ({ layer, entry }) => layers.has(layer) && entry.queuedAt <= to + 1 && endOfJob(entry) >= startedAt - 1,
    );
    const root = maker.add('start', {
      ...startSpan(id, start),
      to: Math.max(to, lastAt),
      attributes: {
        ...attributesOf(id, start),
        'cofa.prepared': prepared,
        'cofa.reads': reads.length,
        'cofa.fetches': jobs.length,
        'cofa.fetched_bytes': jobs.reduce((sum, { entry }) => sum + entry.bytes, 0),
        ...(this.#dropped > 0 && { 'cofa.dropped_entries': this.#dropped }),
      },
    });
    for (const { phase, from, to } of phases) maker.add(phase, { parent: root, name: phase, from, to });
    const fetches = this.#addFetches(maker, root, jobs);
    this.#addReads(maker, root, { mountedAt, lastAt, reads, fetches });
    const container = ran === undefined ? root : addContainer(maker, root, ran);
    for (const [key, program] of start.programs)
      if (program.since <= root.to)
        addProgram(maker, container, key, { ...program, at: Math.min(program.at, root.to) });
    return maker.tree;
  }

  /** The reads that waited until the first pause, or until the container ended, in the order of their arrival. */
  #readsOf(
    layers: ReadonlySet<string>,
    { startedAt, mountedAt, endedAt }: { startedAt: number; mountedAt: number; endedAt: number | undefined },
  ): Array<Told<TracedRead>> {
    const last = endedAt ?? mountedAt + LIMIT_MS;
    const all = this.#reads
      .filter(({ layer, entry }) => layers.has(layer) && entry.at >= startedAt && entry.at <= last)
      .sort((a, b) => a.entry.at - b.entry.at);
    if (endedAt !== undefined) return all;
    let busyUntil = mountedAt;
    // Programs take their own time before their first read.
    const end = all.findIndex(({ entry }, place) => {
      if (place > 0 && entry.at - busyUntil > QUIET_MS) return true;
      busyUntil = Math.max(busyUntil, endOfRead(entry));
      return false;
    });
    return end < 0 ? all : all.slice(0, end);
  }

  #addFetches(
    maker: TreeMaker,
    root: Span,
    jobs: ReadonlyArray<Told<TracedJob>>,
  ): Map<Told<TracedJob>, Span> {
    const spans = new Map<Told<TracedJob>, Span>();
    for (const told of longest(jobs, MOST_FETCHES, ({ totalUs }) => totalUs)) {
      const { layer, entry: job, key } = told;
      const { queuedAt: from, sentUs, firstByteUs, fetchUs, worker: fetcher } = job;
      const sentAt = from + sentUs / 1000;
      const span = maker.add(key, {
        parent: root,
        name: `fetch ${job.class}`,
        from,
        to: endOfJob(job),
        error: job.error?.slice(0, LONGEST),
        attributes: {
          'cofa.layer': layer,
          'cofa.class': job.class,
          'cofa.fetcher': fetcher,
          'cofa.span': job.span,
          'cofa.spans': job.spans,
          'cofa.bytes': job.bytes,
          'cofa.queue_us': sentUs,
          'cofa.first_byte_us': firstByteUs,
          'cofa.transfer_us': Math.max(0, fetchUs - firstByteUs),
          'cofa.verify_us': job.decodeUs,
          'cofa.write_us': job.writeUs,
        },
        marks: [
          { name: 'sent', at: sentAt },
          // Where nothing came `firstByteUs` is the wait for it.
          ...(firstByteUs > 0 && job.bytes > 0
            ? [{ name: 'first byte', at: sentAt + firstByteUs / 1000 }]
            : []),
        ],
      });
      spans.set(told, span);
    }
    return spans;
  }

  #addReads(
    maker: TreeMaker,
    root: Span,
    given: {
      mountedAt: number;
      lastAt: number;
      reads: ReadonlyArray<Told<TracedRead>>;
      fetches: ReadonlyMap<Told<TracedJob>, Span>;
    },
  ): void {
    const { mountedAt, lastAt, reads, fetches } = given;
    if (reads.length === 0) return;
    const first = reads.reduce((least, { entry }) => Math.min(least, entry.at), mountedAt);
    const all = maker.add('reads', { parent: root, name: 'reads', from: first, to: lastAt });
    const byNumber = new Map<string, Array<[TracedJob, Span]>>();
    for (const [{ layer, entry }, span] of fetches) {
      const key = `${layer} ${entry.job}`;
      const known = byNumber.get(key);
      if (known === undefined) byNumber.set(key, [[entry, span]]);
      else known.push([entry, span]);
    }
    for (const { layer, entry: read, key } of longest(reads, MOST_READS, ({ us }) => us)) {
      const { at, block, blocks, errno } = read;
      maker.add(key, {
        parent: all,
        name: 'read',
        from: at,
        to: endOfRead(read),
        attributes: { 'cofa.layer': layer, 'cofa.block': block, 'cofa.blocks': blocks },
        links: read.jobs
          .slice(0, MOST_LINKS)
          .flatMap((job) =>
            (byNumber.get(`${layer} ${job}`) ?? []).flatMap(([told, span]) =>
              overlaps(read, told) ? [{ traceId: span.traceId, spanId: span.spanId }] : [],
            ),
          ),
        error: errno === 0 ? undefined : `errno ${errno}`,
      });
    }
  }

  /** Entries that no start can want any more. */
  #forget(): void {
    let oldest = Number.POSITIVE_INFINITY;
    for (const { request } of this.#starts.values())
      oldest = Math.min(oldest, request.asked ?? request.at, request.at);
    this.#reads = this.#reads.filter(({ entry }) => endOfRead(entry) >= oldest);
    this.#jobs = this.#jobs.filter(({ entry }) => endOfJob(entry) >= oldest);
    if (this.#starts.size === 0) this.#dropped = 0;
  }
}

/** What the trace of a start is made of: its mount has this id. */
export const startName = (node: string, mount: string): string => `${node} ${mount}`;

const endOfRead = ({ at, us }: TracedRead): number => at + us / 1000;
const endOfJob = ({ queuedAt, totalUs }: TracedJob): number => queuedAt + totalUs / 1000;

/** Numbers of jobs begin again with each front end, so time decides too; `queuedAt` is rounded to a millisecond. */
const overlaps = (read: TracedRead, job: TracedJob): boolean =>
  job.queuedAt <= endOfRead(read) + 1 && endOfJob(job) >= read.at - 1;

/** Those that took longest, in their order. */
function longest<Entry>(
  all: ReadonlyArray<Told<Entry>>,
  most: number,
  usOf: (entry: Entry) => number,
): ReadonlyArray<Told<Entry>> {
  if (all.length <= most) return all;
  const chosen = new Set([...all].sort((a, b) => usOf(b.entry) - usOf(a.entry)).slice(0, most));
  return all.filter((one) => chosen.has(one));
}

function addContainer(maker: TreeMaker, root: Span, ran: NonNullable<Start['ran']>): Span {
  const { spawned, program, command, ended, cpuUs } = ran;
  return maker.add('container', {
    parent: root,
    name: 'container',
    from: spawned,
    to: ended,
    attributes: {
      'cofa.cpu_us': cpuUs,
      ...(command !== undefined && { 'process.executable.name': command }),
    },
    marks: program === undefined ? [] : [{ name: 'program', at: program }],
  });
}

/** Its end is not known: the last sample that saw it. */
function addProgram(maker: TreeMaker, parent: Span, key: string, program: SeenProgram): void {
  const { pid, name, since, at, cpuUs, childrenUs } = program;
  maker.add(`program ${key}`, {
    parent,
    name: 'program',
    from: Math.min(since, at),
    to: at,
    attributes: {
      'process.pid': pid,
      'process.executable.name': name,
      'cofa.cpu_us': cpuUs,
      'cofa.children_cpu_us': childrenUs,
    },
  });
}

const startSpan = (id: string, start: Start) => ({
  name: 'start',
  kind: 'server' as const,
  from: Math.min(start.request.asked ?? start.request.at, start.request.at),
  attributes: attributesOf(id, start),
});

function attributesOf(id: string, { request }: Start): Record<string, string> {
  const { ref, manifest, dir, container } = request;
  return {
    'cofa.mount': id,
    'cofa.image': ref.slice(0, LONGEST),
    'oci.manifest.digest': manifest,
    'cofa.dir': dir.slice(0, LONGEST),
    ...(container === undefined ? {} : { 'container.id': container.slice(0, LONGEST) }),
  };
}
