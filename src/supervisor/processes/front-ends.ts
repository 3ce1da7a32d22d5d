/**
 * The front end as the supervisor sees it: one process that serves, now and then another that is about to take its
 * place, and the FUSE mount that outlives them all (fuse-mount.ts).
 *
 *     starting ── loaded ──▶ begin ── ready ──▶ serves ── dies ──▶ another one starts
 *
 * - Readers notice a death as a pause. One that is too long ends with EIO: when no front end is ready by the readers'
 *   deadline, the supervisor answers in its place (src/fuse/stand-in.ts) until one begins.
 * - A kernel before 6.9 does not ask again for what a dead front end had taken. There the mount is given up with the
 *   process and made anew, and the loop devices are moved to the new one: reads in between fail.
 * - A front end that is upgraded loads while the old one serves. The old one brings what has come into the log and dies;
 *   the new one reads the log's end, and begins.
 */
import { mkdir, statfs } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import type { Logger } from 'pino';
import type { ProcessStatus } from '../../../schemas/api.ts';
import { CofaError } from '../../../schemas/errors.ts';
import type { FuseSession } from '../../fuse/session.ts';
import { findMount, unmount } from '../../kernel/mount.ts';
import type { Layout } from '../../store/layout.ts';
import { QueueWatch } from '../../kernel/run-delay.ts';
import { Child, type Counted, type ChildOptions, type ChildPorts, describeEnd } from '../../process/child.ts';
import type { Conditions } from '../../process/conditions.ts';
import type { Timer } from '../../process/ports.ts';
import { within } from '../end.ts';
import { FuseMount } from './fuse-mount.ts';
import { watchFuse } from './fuse-watch.ts';
import { NODE_FLAGS } from '../../process/node-flags.ts';

export interface FrontEndsOptions {
  layout: Layout;
  log: Logger;
  conditions: Conditions;
  ports: ChildPorts;
  transport: 'kernel' | 'fuse-native';
  readDeadlineMs: number;
  hangMs: number;
  watchers: Pick<ChildOptions, 'onStart' | 'onExit'>;
  /** The mount to go on with, of an engine before this one; undefined: it makes one. */
  handed: FuseSession | undefined;
  /** One begins to serve. `move`: at a FUSE mount that is not the one that loops stand on. */
  onServing: (move: boolean) => void;
}

/** How an upgrade went. */
export interface Swap {
  from: number;
  to: number;
  /** From the moment that the old front end was told to end until the new one was ready, ms. */
  pauseMs: number;
}

/** A standby has this long to load, and then to begin, ms. */
const LOAD_MS = 30_000;
/** A front end that is to make room has this long, ms: it has to bring the last blocks into the log. */
const RETIRE_MS = 3_000;

export class FrontEnds {
  readonly #options: FrontEndsOptions;
  readonly #mount: FuseMount;
  /** The one that serves, or is about to. */
  #current: Child;
  /** The one that loads to take its place. */
  #standby: Child | undefined;
  /** The one that makes room for the present one, which waits for that. */
  #retiring: Child | undefined;
  /** The present one was told to begin: it takes requests, or is about to. */
  #begun = false;
  #ready = false;
  /** None has served yet. */
  #isFirst = true;
  /** Resolves when the present one is ready. */
  #isReady = Promise.withResolvers<void>();
  /** When readers were last served, or could first have been; on the monotonic clock. */
  #servedAt = 0;
  #deadline: Timer | undefined;
  #probe: NodeJS.Timeout | undefined;
  #stopping = false;

  constructor(options: FrontEndsOptions) {
    this.#options = options;
    const { layout, log, conditions } = options;
    const onFailed = (message: string) => conditions.set('front-end', message);
    this.#mount = new FuseMount({ folder: layout.devices(), log, onFailed });
    this.#current = this.#newChild();
  }

  /** A client wants something: it ceases to rehearse. */
  workCame(): void {
    this.#current.send({ kind: 'work' });
  }

  /** Reads that failed since no front end served. */
  get failedReads(): number {
    return this.#mount.failedReads;
  }

  /** What the one that serves has counted. */
  counted(patienceMs: number): Promise<Counted | undefined> {
    return this.#current.counted(patienceMs);
  }

  /** What is wrong around it. */
  get degraded(): readonly string[] {
    return this.#current.degraded;
  }

  /** Whether the kernel can have what was in flight sent again to a successor. */
  get resend(): boolean {
    return this.#mount.resend;
  }

  get isReady(): boolean {
    return this.#ready;
  }

  status(): ProcessStatus[] {
    const standby = this.#standby?.status();
    return [this.#current.status(), ...(standby === undefined ? [] : [{ ...standby, name: 'standby' }])];
  }

  /**
   * Makes the mount point and opens the FUSE mount; a front end with the transport `fuse-native` mounts by itself. Errors: those of
   * `FuseMount.open`.
   */
  async open(): Promise<void> {
    const { layout, transport, handed } = this.#options;
    // A look at a mount without a server would wait.
    if (handed === undefined) await mkdir(layout.devices(), { recursive: true, mode: 0o700 });
    if (transport === 'kernel') await this.#mount.open(handed);
  }

  /** Starts the first one; rejects when it does not come. */
  async start(): Promise<void> {
    this.#servedAt = this.#options.ports.clock.now();
    this.#current.start();
    if (this.#mount.session !== undefined) this.#probe = this.#watchMount();
    await Promise.race([this.#isReady.promise, this.#current.untilRunning()]);
  }

  /**
   * Puts another front end, with the code that is on the disk now, into the place of the one that serves. Errors:
   * `environment` when the new one does not start: then the old one stays; `unsupported`; `busy` during an upgrade.
   */
  async upgrade(): Promise<Swap> {
    if (!this.resend) {
      throw new CofaError('unsupported', 'this front end cannot hand its readers over to another one', {
        hint: 'it takes the transport "kernel" and Linux 6.9; else: cofa down, cofa up',
      });
    }
    if (this.#standby !== undefined || this.#retiring !== undefined)
      throw new CofaError('busy', 'an upgrade is under way');
    return await this.#replaceBy(await this.#loadAnother());
  }

  /** Ends it; then the connection is aborted, so that no read waits for a process that has ended. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#deadline?.cancel();
    clearInterval(this.#probe);
    await Promise.all([this.#current.stop(), this.#standby?.stop()]);
    this.#mount.endStandIn();
    this.close();
    if (this.#options.transport === 'fuse-native') {
      const devices = this.#options.layout.devices();
      if (findMount(devices) !== undefined) await unmount(devices, { lazy: true });
    }
  }

  /** Aborts what waits, and unmounts. For when there is no time for more. */
  close(): void {
    this.#mount.close();
  }

  // ── Upgrade ──

  /** Error `environment` where it does not load in time. */
  async #loadAnother(): Promise<Child> {
    const { layout, ports } = this.#options;
    const loaded = Promise.withResolvers<undefined>();
    const ended = Promise.withResolvers<string>();
    const late = Promise.withResolvers<string>();
    const standby = this.#newChild({
      onLoaded: () => loaded.resolve(undefined),
      onExit: (end) => ended.resolve(describeEnd(end)),
    });
    this.#standby = standby;
    const timer = ports.clock.after(LOAD_MS, () => late.resolve('it was not loaded in time')).unref();
    try {
      standby.start();
      const failure = await Promise.race([loaded.promise, ended.promise, late.promise]);
      if (failure === undefined && !this.#stopping) return standby;
      await standby.stop();
      this.#standby = undefined;
      throw new CofaError('environment', `the new front end does not start (${failure}); the old one stays`, {
        hint: `see ${layout.log('front-end')}`,
      });
    } finally {
      timer.cancel();
    }
  }

  /** Error `unavailable` where the new one does not get ready in time; it is started again. */
  async #replaceBy(standby: Child): Promise<Swap> {
    const { ports, conditions, layout } = this.#options;
    const old = this.#current;
    const from = old.pid ?? 0;
    const since = ports.clock.now();
    // From here on the old one is not started again, whatever happens.
    this.#current = standby;
    this.#standby = undefined;
    this.#begun = false;
    this.#retiring = old;
    this.#lost();
    await old.stop({ kind: 'retire' });
    this.#retiring = undefined;
    this.#begin();
    await within(ports.clock, LOAD_MS, this.#isReady.promise);
    if (!this.#ready) {
      conditions.set('front-end', 'the new front end does not get ready: reads of incomplete images wait');
      throw new CofaError('unavailable', 'the new front end does not get ready; it is started again', {
        hint: `see ${layout.log('front-end')}`,
      });
    }
    return { from, to: standby.pid ?? 0, pauseMs: Math.round(ports.clock.now() - since) };
  }

  // ── What the processes do ──

  #newChild(as: { onLoaded?: () => void; onExit?: NonNullable<ChildOptions['onExit']> } = {}): Child {
    const { layout, ports, hangMs, watchers, transport } = this.#options;
    const isCurrent = () => child === this.#current;
    const child: Child = new Child({
      role: 'front-end',
      name: 'front-end',
      command: process.execPath,
      args: [...NODE_FLAGS, PROGRAM, layout.root],
      // Syncs of devices take long on a busy disk; what makes room on it must not wait behind them.
      env: { ...process.env, UV_THREADPOOL_SIZE: '12' },
      log: layout.log('front-end'),
      // While the mount is made anew none can start.
      descriptors: () => (transport === 'kernel' ? [this.#mount.fd] : []),
      graceMs: RETIRE_MS,
      link: {
        hangMs,
        onReady: () => isCurrent() && this.#onReady(),
        onLoaded: () => {
          if (isCurrent() && this.#retiring === undefined) this.#begin();
          else as.onLoaded?.();
        },
      },
      ports,
      ...(watchers.onStart === undefined ? {} : { onStart: watchers.onStart }),
      onExit: (end) => {
        watchers.onExit?.(end);
        as.onExit?.(end);
        if (isCurrent() && !this.#stopping) this.#onEnd();
      },
      onGiveUp: () => isCurrent() && this.#onGivenUp(),
    });
    return child;
  }

  #begin(): void {
    const { readDeadlineMs, hangMs } = this.#options;
    this.#mount.endStandIn();
    this.#begun = true;
    this.#current.send({ kind: 'begin' });
    // Also when it comes late it has some time to get ready.
    this.#lost(Math.min(readDeadlineMs, hangMs));
  }

  #onReady(): void {
    const { transport, conditions, onServing } = this.#options;
    const isFirst = this.#isFirst;
    this.#isFirst = false;
    this.#ready = true;
    this.#isReady.resolve();
    this.#deadline?.cancel();
    conditions.clear('front-end');
    // With `fuse-native` each process mounts anew.
    onServing(this.#mount.takeIsNew() || (transport === 'fuse-native' && !isFirst));
  }

  #onEnd(): void {
    this.#begun = false;
    this.#lost();
    this.#mount.afterDeath();
  }

  #onGivenUp(): void {
    const sentence = 'the front end does not start: reads of incomplete images fail';
    this.#options.conditions.set('front-end', sentence);
    this.#mount.standIn();
  }

  // ── Readers ──

  /** No front end serves: readers wait, until their deadline, and at least `leastMs` from now. */
  #lost(leastMs = 0): void {
    const { ports, readDeadlineMs, transport } = this.#options;
    const now = ports.clock.now();
    if (this.#ready) {
      this.#servedAt = now;
      this.#isReady = Promise.withResolvers<void>();
    }
    this.#ready = false;
    if (transport !== 'kernel' || this.#mount.hasStandIn) return;
    this.#deadline?.cancel();
    const left = Math.max(leastMs, this.#servedAt + readDeadlineMs - now);
    this.#deadline = ports.clock.after(left, () => this.#onLate());
  }

  /** The readers' deadline has come, and no front end is ready. */
  #onLate(): void {
    if (this.#ready || this.#stopping) return;
    this.#options.conditions.set('front-end', 'no front end gets ready: reads of incomplete images fail');
    // The one that makes room takes requests until it has ended; then the next one begins.
    if (this.#retiring !== undefined) this.#retiring.kill("it did not make room by the readers' deadline");
    // One that has begun takes the requests: it had its time.
    else if (this.#begun) this.#current.kill("it was not ready by the readers' deadline");
    else this.#mount.standIn();
  }

  // ── The mount ──

  #watchMount(): NodeJS.Timeout {
    const { layout, hangMs, ports } = this.#options;
    // Its threads read the requests, the first one decides.
    const queue = new QueueWatch(ports.queuedMs);
    return watchFuse({
      ask: () => statfs(layout.devices()),
      session: () => this.#mount.session,
      isServed: () => this.#ready,
      hangMs,
      starved: () => queue.share(this.#current.pid ?? 0, ports.clock.now()),
      onSilent: () => this.#current.kill(`its FUSE mount did not answer for ${hangMs / 1000} s`),
      onCut: () => this.#onCut(),
    });
  }

  #onCut(): void {
    if (this.#stopping || !this.#mount.cut()) return;
    if (this.#current.pid === undefined) this.#mount.renew();
    else this.#current.kill('its FUSE connection was aborted');
  }
}

const PROGRAM = fileURLToPath(new URL('../../front-end/main.ts', import.meta.url));
