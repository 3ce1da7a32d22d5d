/**
 * A child process of the supervisor: started, watched and restarted as actors/process.ts decides. One that lives and
 * does not answer, or does not get ready, is killed, and so restarted like one that crashed.
 */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { Overdue } from '../../actors/overdue.ts';
import { ASKED_ENDS, type ProcessEvent, processMachine } from '../../actors/process.ts';
import type { ProcessStatus } from '../../schemas/api.ts';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import { makeExpendable } from '../kernel/oom-score.ts';
import { raiseBeforeEnd } from '../kernel/priority.ts';
import { QueueWatch, queuedMs } from '../kernel/run-delay.ts';
import { ActorHost } from './actor-host.ts';
import type { LedgerEntry } from '../../schemas/fleet.ts';
import type { Sample } from '../../schemas/metrics.ts';
import { type FleetNews, fromChild, type ToChild } from './parent-link.ts';
import { type Clock, type Ports, realPorts, type Timer } from './ports.ts';

/** As `spawn` of node:child_process. */
export type Spawn = (command: string, args: string[], options: SpawnOptions) => ChildProcess;

/** What a child process takes of the world. */
export interface ChildPorts extends Pick<Ports, 'clock'> {
  spawn: Spawn;
  /** Time since its start that a process had no processor, ms (src/kernel/run-delay.ts). */
  queuedMs: (pid: number) => number;
  /** So that none dies at idle priority (src/kernel/priority.ts). */
  raiseBeforeEnd: (pid: number) => void;
}

export const realChildPorts = (): ChildPorts => ({
  clock: realPorts().clock,
  spawn: (command, args, options) => spawn(command, args, options),
  queuedMs,
  raiseBeforeEnd,
});

/** How a process ended. */
export interface ProcessEnd {
  code: number | null;
  signal: NodeJS.Signals | null;
  /** Why it was killed; undefined when that was not the supervisor's doing. */
  reason: string | undefined;
}

export interface ChildOptions {
  role: ProcessStatus['role'];
  name: string;
  command: string;
  args: string[];
  env?: NodeJS.ProcessEnv;
  /** File that takes its stdout and stderr. */
  log: string;
  /** Descriptors that it inherits as 3, 4, … */
  descriptors?: () => number[];
  /** It is running as soon as it was spawned; otherwise it says so over the link. */
  readyAtOnce?: boolean;
  /** A Node process with an IPC channel (parent-link.ts) that answers signs of life. */
  link?: LinkOptions;
  /** Sent to end it; SIGKILL follows after `graceMs`. */
  signal?: NodeJS.Signals;
  graceMs?: number;
  /** What the kernel sends it when the supervisor dies; SIGKILL by default, which ends one that is stopped or stuck too. */
  deathSignal?: 'TERM' | 'KILL';
  ports: ChildPorts;
  /** When memory runs out the kernel ends it rather than others (src/kernel/oom-score.ts). */
  isExpendable?: boolean;
  /** A session of its own, whose group the kernel can give another share of the processors (src/kernel/priority.ts). */
  ownSession?: boolean;
  onStart?: (pid: number) => void;
  onExit?: (end: ProcessEnd & { pid: number }) => void;
  /** Too many short lives in a row: it is tried now and then only. */
  onGiveUp?: () => void;
}

/** What a process has counted since it began; without `samples` it did not say so in time. */
export interface Counted {
  role: ProcessStatus['role'];
  name: string;
  pid: number;
  samples?: readonly Sample[];
}

export interface LinkOptions {
  /** A process that does not answer for this long is killed, ms; six times as long where it had no processor (actors/overdue.ts). */
  hangMs: number;
  /** It is loaded and waits for `send({ kind: 'begin' })`; without, it is told to begin. */
  onLoaded?: () => void;
  onReady?: () => void;
  /** It is the member of a fleet, and says who came and went. */
  onFleet?: (news: FleetNews) => void;
  /** It is the member of a fleet, and another one asks what this node has found out about an image, a `LedgerSubject`. */
  onProve?: (subject: unknown) => readonly LedgerEntry[];
}

/** Signs of life that are asked for within `hangMs`. Each must have had its time: a machine that slept is no hang. */
const BEATS = 5;
/** A process has this many times `hangMs` to get ready; the next one twice as long, and so on, at most this often. */
const START_FACTOR = 3;
const MOST_DOUBLINGS = 2;
/** What is killed and does not end hangs in the kernel: it is not waited for any longer, ms. */
const UNKILLABLE_MS = 5_000;

export class Child {
  readonly #options: ChildOptions;
  readonly #host: ActorHost<typeof processMachine>;
  #process: ChildProcess | undefined;
  /** On the monotonic clock. */
  #born = 0;
  #retry: Timer | undefined;
  /** On the wall clock, as is the end below. */
  #since: number;
  #lastEnd: (ProcessEnd & { at: number }) | undefined;
  /** Why the present process is being killed. */
  #reason: string | undefined;
  /** Instead of the signal, at the next end. */
  #farewell: ToChild | undefined;
  /** What the present process said last that is wrong around it. */
  #degraded: readonly string[] = [];
  /** Starts in a row that took too long. A busy machine has no use for one that is cut off at the same place again. */
  #lateStarts = 0;
  /** Questions for its counts, by number. */
  readonly #asked = new Map<number, (samples: readonly Sample[] | undefined) => void>();
  #nextAsk = 1;

  constructor(options: ChildOptions) {
    this.#options = options;
    const { clock } = options.ports;
    this.#since = clock.wallMs();
    this.#host = new ActorHost(processMachine, {
      spawn: () => this.#spawn(),
      schedule: ({ ms }: { ms: number }) => {
        this.#retry?.cancel();
        this.#retry = clock.after(ms, () => this.#send({ type: 'RETRY' }));
      },
      kill: () => this.#end(),
      giveUp: () => options.onGiveUp?.(),
    });
  }

  get #clock(): Clock {
    return this.#options.ports.clock;
  }

  get pid(): number | undefined {
    return this.#process?.pid;
  }

  get state(): ProcessStatus['state'] {
    const { state } = this.#host;
    if (state === 'pausing') return 'restarting';
    return state === 'running' || state === 'starting' || state === 'failed' ? state : 'stopped';
  }

  start(): void {
    this.#send({ type: 'START' });
  }

  /** Resolves when it runs; rejects when it was given up or stopped. Error `environment`. */
  async untilRunning(): Promise<void> {
    const state = await this.#host.until('running', 'failed', 'stopped');
    if (state !== 'running') {
      throw new CofaError('environment', `${this.#options.name} does not start`, {
        hint: `see ${this.#options.log}`,
      });
    }
  }

  /** What is wrong around it, as it said at its last sign of life. */
  get degraded(): readonly string[] {
    return this.#degraded;
  }

  /** Kills the process as it is; another is started. `reason`: for `status` and the log. */
  kill(reason: string): void {
    this.#reason ??= reason;
    if (this.#process !== undefined) this.#kill(this.#process);
  }

  /** Tells it to read its configuration again; one that is starting reads it in any case. */
  reload(): void {
    this.#process?.kill('SIGHUP');
  }

  send(message: ToChild): void {
    if (this.#process?.connected === true) this.#process.send(message, () => {});
  }

  /** Asks it what it has counted; waits so long, ms. Undefined: it does not run, or has no link. */
  async counted(patienceMs: number): Promise<Counted | undefined> {
    const { role, name, link } = this.#options;
    const pid = this.#process?.pid;
    if (pid === undefined || link === undefined || this.state !== 'running') return undefined;
    const ask = this.#nextAsk++;
    const { promise, resolve } = Promise.withResolvers<readonly Sample[] | undefined>();
    this.#asked.set(ask, resolve);
    const timer = this.#clock.after(patienceMs, () => resolve(undefined));
    this.send({ kind: 'count', ask });
    const samples = await promise;
    timer.cancel();
    this.#asked.delete(ask);
    return { role, name, pid, ...(samples === undefined ? {} : { samples }) };
  }

  /**
   * Ends it for good and waits until it is gone, or until it is clear that the kernel does not let it go. `farewell` is
   * sent over the link instead of the signal.
   */
  async stop(farewell?: ToChild): Promise<void> {
    this.#retry?.cancel();
    this.#farewell = farewell;
    this.#send({ type: 'STOP' });
    const patience = (this.#options.graceMs ?? GRACE_MS) + UNKILLABLE_MS;
    const late = Promise.withResolvers<void>();
    const timer = this.#clock.after(patience, late.resolve).unref();
    await Promise.race([this.#host.until('stopped'), late.promise]);
    timer.cancel();
  }

  status(): ProcessStatus {
    const { role, name } = this.#options;
    const end = this.#lastEnd;
    return {
      role,
      name,
      pid: this.#process?.pid ?? 0,
      state: this.state,
      since: new Date(this.#since).toISOString(),
      restarts: this.#host.snapshot.context.restarts,
      ...(end === undefined
        ? {}
        : { lastEnd: { at: new Date(end.at).toISOString(), reason: describeEnd(end) } }),
    };
  }

  #send(event: ProcessEvent): void {
    const before = this.#host.state;
    this.#host.send(event);
    if (this.#host.state !== before) this.#since = this.#clock.wallMs();
  }

  #spawn(): void {
    const { command, args, env, log, descriptors, link, ports, ownSession = false } = this.#options;
    const { deathSignal = 'KILL' } = this.#options;
    let child: ChildProcess;
    let output: number | undefined;
    try {
      output = openSync(log, 'a', 0o600);
      const own = [...(descriptors?.() ?? []), ...(link === undefined ? [] : ['ipc' as const])];
      // The kernel ends it with the supervisor, however that ends: setpriv(1) of util-linux, prctl(2) PR_SET_PDEATHSIG.
      child = ports.spawn('setpriv', ['--pdeathsig', deathSignal, '--', command, ...args], {
        stdio: ['ignore', output, output, ...own],
        env: env ?? process.env,
        detached: ownSession,
      });
    } catch (error) {
      // No descriptors, no memory: one more short life.
      const reason = toErrorRecord(error).message;
      this.#lastEnd = { code: null, signal: null, reason, at: this.#clock.wallMs() };
      setImmediate(() => this.#send({ type: 'EXITED', livedMs: 0 }));
      return;
    } finally {
      if (output !== undefined) closeSync(output);
    }
    this.#process = child;
    this.#reason = undefined;
    this.#born = this.#clock.now();
    this.#follow(child);
  }

  /** Tells the machine when the process runs and when it has ended. */
  #follow(child: ChildProcess): void {
    const { link, onStart, onExit, readyAtOnce, isExpendable } = this.#options;
    const unwatch = link === undefined ? () => {} : this.#watch(child, link);
    let over = false;
    const ended = (code: number | null, signal: NodeJS.Signals | null) => {
      if (over) return;
      over = true;
      unwatch();
      this.#process = undefined;
      this.#degraded = [];
      const end = { code, signal, reason: this.#reason };
      this.#lastEnd = { ...end, at: this.#clock.wallMs() };
      onExit?.({ ...end, pid: child.pid ?? 0 });
      this.#send({ type: 'EXITED', livedMs: this.#clock.now() - this.#born });
    };
    child.once('error', () => ended(null, null));
    child.once('exit', ended);
    child.once('spawn', () => {
      if (isExpendable === true) makeExpendable(child.pid);
      onStart?.(child.pid ?? 0);
      if (readyAtOnce === true) this.#send({ type: 'READY' });
    });
  }

  /** Asks for signs of life until the returned function is called. */
  #watch(child: ChildProcess, { hangMs, onLoaded, onReady, onFleet, onProve }: LinkOptions): () => void {
    let beat = 0;
    // While it loads its program a process cannot answer: until its first word, only its start has a limit.
    let hasSpoken = false;
    let isAsked = false;
    let troubled = 0;
    const factor = START_FACTOR * 2 ** Math.min(this.#lateStarts, MOST_DOUBLINGS);
    const silence = new Overdue(BEATS);
    const start = new Overdue(BEATS * factor + 1);
    const queue = new QueueWatch(this.#options.ports.queuedMs);
    child.on('message', (said: unknown) => {
      const message = fromChild(said);
      if (message === 'none') this.kill('it said what it may not say');
      if (message === 'none' || message === undefined) return;
      hasSpoken = true;
      if (message.kind === 'loaded') {
        if (onLoaded === undefined) this.send({ kind: 'begin' });
        else onLoaded();
        return;
      }
      if (message.kind === 'ready') {
        this.#lateStarts = 0;
        this.#send({ type: 'READY' });
        onReady?.();
        return;
      }
      if (message.kind === 'fleet') {
        onFleet?.(message.news);
        return;
      }
      if (message.kind === 'prove') {
        this.send({ kind: 'proven', ask: message.ask, entries: onProve?.(message.subject) ?? [] });
        return;
      }
      if (message.kind === 'counted') {
        this.#asked.get(message.ask)?.(message.samples);
        return;
      }
      isAsked = false;
      silence.answered();
      this.#degraded = message.degraded ?? [];
      troubled = message.trouble === undefined ? 0 : troubled + 1;
      if (troubled > BEATS) this.kill(message.trouble ?? '');
    });
    const beats = this.#clock.every(hangMs / BEATS, () => {
      if (child !== this.#process || this.#host.state === 'stopping') return;
      const share = queue.share(child.pid ?? 0, this.#clock.now());
      if (isAsked) silence.missed(share);
      if (hasSpoken && silence.isOver) {
        const silentMs = (silence.unanswered * hangMs) / BEATS;
        return this.kill(`it did not answer for ${silentMs / 1000} s`);
      }
      if (this.#host.state === 'starting') start.missed(share);
      else start.answered();
      if (start.isOver) {
        this.#lateStarts += 1;
        return this.kill(`it was not ready after ${(factor * hangMs) / 1000} s`);
      }
      isAsked = true;
      this.send({ kind: 'ping', beat: ++beat });
    });
    return () => beats.cancel();
  }

  #end(): void {
    const child = this.#process;
    const farewell = this.#farewell;
    this.#farewell = undefined;
    if (child === undefined) {
      this.#send({ type: 'EXITED', livedMs: 0 });
      return;
    }
    this.#reason ??= farewell === undefined ? ASKED_ENDS.stopped : ASKED_ENDS.handedOver;
    if (farewell === undefined) child.kill(this.#options.signal ?? 'SIGTERM');
    else this.send(farewell);
    const timer = this.#clock.after(this.#options.graceMs ?? GRACE_MS, () => this.#kill(child));
    child.once('exit', () => timer.cancel());
  }

  #kill(child: ChildProcess): void {
    if (child.pid !== undefined) this.#options.ports.raiseBeforeEnd(child.pid);
    child.kill('SIGKILL');
  }
}

const GRACE_MS = 3_000;

/** Such as `killed by SIGKILL: it did not answer for 10 s`. */
export function describeEnd({ code, signal, reason }: ProcessEnd): string {
  const how =
    signal !== null
      ? `killed by ${signal}`
      : code === null
        ? 'it could not be started'
        : `ended with ${code}`;
  return reason === undefined ? how : `${how}: ${reason}`;
}
