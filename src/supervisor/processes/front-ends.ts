/**
 * The front end as the supervisor sees it: one process that serves, now and then another that is about to take its
 * place, and the FUSE mount that outlives them all.
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
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Logger } from 'pino';
import type { ProcessStatus } from '../../../schemas/api.ts';
import { CofaError, toErrorRecord } from '../../../schemas/errors.ts';
import { type Guard, startGuard } from '../../fuse/guard.ts';
import { type FuseSession, openFuseSession } from '../../fuse/session.ts';
import { type StandIn, startStandIn } from '../../fuse/stand-in.ts';
import { findMount, unmount } from '../../kernel/mount.ts';
import type { Layout } from '../../store/layout.ts';
import { Child, type ChildOptions, type ChildPorts, describeEnd } from '../../process/child.ts';
import type { Conditions } from '../../process/conditions.ts';
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
  #session: FuseSession | undefined;
  #guard: Guard | undefined;
  #current: Child;
  #standby: Child | undefined;
  /** Of the front end that was told last to begin: whether it is ready. */
  #isReady = Promise.withResolvers<void>();
  #ready = false;
  /** When readers were last served, or could first have been. */
  #servedAt = 0;
  #standIn: StandIn | undefined;
  #deadline: NodeJS.Timeout | undefined;
  #probe: NodeJS.Timeout | undefined;
  #stopping = false;
  /** The front end that was there is about to end, to make room for the present one, which has to wait for that. */
  #retiring: Child | undefined;
  /** The present one was told to begin: it takes requests, or is about to. */
  #begun = false;
  /** The mount is a new one since the loops were attached. */
  #moved = false;
  /** The mount's connection was aborted. */
  #isCut = false;

  constructor(options: FrontEndsOptions) {
    this.#options = options;
    this.#current = this.#newChild();
  }

  /** Whether the kernel can have what was in flight sent again to a successor. */
  get resend(): boolean {
    return this.#session?.resend ?? false;
  }

  get isReady(): boolean {
    return this.#ready;
  }

  status(): ProcessStatus[] {
    const standby = this.#standby?.status();
    return [this.#current.status(), ...(standby === undefined ? [] : [{ ...standby, name: 'standby' }])];
  }

  /** Opens the FUSE mount; its descriptor outlives the front ends. */
  async open(): Promise<void> {
    const { layout, transport } = this.#options;
    await mkdir(layout.devices(), { recursive: true, mode: 0o700 });
    if (transport === 'kernel') this.#use(await openFuseSession(layout.devices()));
  }

  /** Starts the first one; rejects when it does not come. */
  async start(): Promise<void> {
    this.#servedAt = this.#options.ports.clock.now();
    this.#current.start();
    const { layout, hangMs } = this.#options;
    if (this.#session !== undefined)
      this.#probe = watchFuse({
        ask: () => statfs(layout.devices()),
        session: () => this.#session,
        isServed: () => this.#ready,
        hangMs,
        onSilent: () => this.#current.kill(`its FUSE mount did not answer for ${hangMs / 1000} s`),
        onCut: () => this.#onCut(),
      });
    await Promise.race([this.#isReady.promise, this.#current.untilRunning()]);
  }

  /**
   * Puts another front end, with the code that is on the disk now, into the place of the one that serves. Errors:
   * `environment` when the new one does not start: then the old one stays; `unsupported`; `busy` while one is at it.
   */
  async upgrade(): Promise<Swap> {
    const { transport, ports, conditions } = this.#options;
    if (transport !== 'kernel' || !this.resend) {
      throw new CofaError('unsupported', 'this front end cannot hand its readers over to another one', {
        hint: 'it takes the transport "kernel" and Linux 6.9; else: cofa down, cofa up',
      });
    }
    if (this.#standby !== undefined || this.#retiring !== undefined)
      throw new CofaError('busy', 'an upgrade is under way');
    const loaded = Promise.withResolvers<void>();
    const ended = Promise.withResolvers<string>();
    const standby = this.#newChild({
      onLoaded: loaded.resolve,
      onExit: (end) => ended.resolve(describeEnd(end)),
    });
    this.#standby = standby;
    try {
      standby.start();
      const failure = await Promise.race([
        loaded.promise,
        ended.promise,
        sleep(LOAD_MS, 'it was not loaded in time', { ref: false }),
      ]);
      if (failure !== undefined || this.#stopping) {
        await standby.stop();
        throw new CofaError(
          'environment',
          `the new front end does not start (${failure}); the old one stays`,
          {
            hint: `see ${this.#options.layout.log('front-end')}`,
          },
        );
      }
    } finally {
      this.#standby = undefined;
    }
    const from = this.#current.pid ?? 0;
    const since = ports.clock.now();
    const old = this.#current;
    // From here on the old one is not started again, whatever happens.
    this.#current = standby;
    this.#begun = false;
    this.#retiring = old;
    this.#lost();
    await old.stop({ kind: 'retire' });
    this.#retiring = undefined;
    this.#begin();
    await Promise.race([this.#isReady.promise, sleep(LOAD_MS, undefined, { ref: false })]);
    if (!this.#ready) {
      conditions.set('front-end', 'the new front end does not get ready: reads of incomplete images wait');
      throw new CofaError('unavailable', 'the new front end does not get ready; it is started again', {
        hint: `see ${this.#options.layout.log('front-end')}`,
      });
    }
    return { from, to: standby.pid ?? 0, pauseMs: Math.round(ports.clock.now() - since) };
  }

  /** Ends it; then the connection is aborted, so that no read waits for a process that is gone. */
  async stop(): Promise<void> {
    this.#stopping = true;
    clearTimeout(this.#deadline);
    clearInterval(this.#probe);
    await Promise.all([this.#current.stop(), this.#standby?.stop()]);
    this.#endStandIn();
    this.close();
    if (this.#options.transport === 'fuse-native') {
      const devices = this.#options.layout.devices();
      if (findMount(devices) !== undefined) await unmount(devices, { lazy: true });
    }
  }

  /** Aborts what waits, and lets go of the mount. For when there is no time for more. */
  close(): void {
    this.#guard?.stop();
    this.#session?.close();
    this.#session = undefined;
  }

  #use(session: FuseSession): void {
    this.#session = session;
    try {
      this.#guard = startGuard(session.connection);
    } catch (error) {
      this.#options.log.warn({ error }, 'the FUSE mount is not guarded');
    }
  }

  #newChild(as: { onLoaded?: () => void; onExit?: NonNullable<ChildOptions['onExit']> } = {}): Child {
    const { layout, ports, hangMs, watchers, conditions } = this.#options;
    const child: Child = new Child({
      role: 'front-end',
      name: 'front-end',
      command: process.execPath,
      args: [...NODE_FLAGS, PROGRAM, layout.root],
      // Syncs of devices take long on a busy disk; what makes room on it must not wait behind them.
      env: { ...process.env, UV_THREADPOOL_SIZE: '12' },
      log: layout.log('front-end'),
      descriptors: () => this.#descriptors(),
      graceMs: RETIRE_MS,
      link: {
        hangMs,
        onReady: () => {
          if (child === this.#current) this.#onReady();
        },
        onLoaded: () => {
          if (child === this.#current && this.#retiring === undefined) this.#begin();
          else as.onLoaded?.();
        },
      },
      ports,
      ...(watchers.onStart === undefined ? {} : { onStart: watchers.onStart }),
      onExit: (end) => {
        watchers.onExit?.(end);
        as.onExit?.(end);
        if (child === this.#current && !this.#stopping) this.#onEnd();
      },
      onGiveUp: () => {
        if (child !== this.#current) return;
        conditions.set('front-end', 'the front end does not start: reads of incomplete images fail');
        this.#standForIt();
      },
    });
    return child;
  }

  #descriptors(): number[] {
    if (this.#options.transport !== 'kernel') return [];
    // While the mount is made anew none can start.
    if (this.#session === undefined) throw new CofaError('environment', 'there is no FUSE mount');
    return [this.#session.fd];
  }

  #onReady(): void {
    const { transport, conditions, onServing } = this.#options;
    this.#ready = true;
    this.#isReady.resolve();
    clearTimeout(this.#deadline);
    conditions.clear('front-end');
    const move = this.#moved;
    // Its mount comes and goes with the process.
    this.#moved = transport === 'fuse-native';
    onServing(move);
  }

  #onEnd(): void {
    this.#begun = false;
    this.#lost();
    if (this.#session !== undefined && (this.#isCut || !this.#session.resend)) this.#renew();
  }

  /** The connection was aborted by somebody, for good: no front end can serve it any more. */
  #onCut(): void {
    if (this.#stopping || this.#isCut || this.#session === undefined) return;
    this.#isCut = true;
    this.#options.log.error('the FUSE connection was aborted from outside: the mount is made anew');
    if (this.#current.pid === undefined) this.#renew();
    else this.#current.kill('its FUSE connection was aborted');
  }

  /** Nobody serves: readers wait, until their deadline, and at least `leastMs` from now. */
  #lost(leastMs = 0): void {
    const { ports, readDeadlineMs, transport } = this.#options;
    const now = ports.clock.now();
    if (this.#ready) {
      this.#servedAt = now;
      this.#isReady = Promise.withResolvers<void>();
    }
    this.#ready = false;
    if (transport !== 'kernel' || this.#standIn !== undefined) return;
    clearTimeout(this.#deadline);
    const left = Math.max(leastMs, this.#servedAt + readDeadlineMs - now);
    this.#deadline = setTimeout(() => this.#onLate(), left);
  }

  /** The readers' deadline has come, and no front end is ready. */
  #onLate(): void {
    if (this.#ready || this.#stopping) return;
    this.#options.conditions.set('front-end', 'no front end gets ready: reads of incomplete images fail');
    // Until it is gone, the one that is to make room takes requests; then the next one begins.
    if (this.#retiring !== undefined) {
      this.#retiring.kill("it did not make room by the readers' deadline");
      return;
    }
    // One that has begun takes the requests: it had its time.
    if (this.#begun) this.#current.kill("it was not ready by the readers' deadline");
    else this.#standForIt();
  }

  #begin(): void {
    const { readDeadlineMs, hangMs } = this.#options;
    this.#endStandIn();
    this.#begun = true;
    this.#current.send({ kind: 'begin' });
    // Also when it comes late it has some time to get ready.
    this.#lost(Math.min(readDeadlineMs, hangMs));
  }

  #standForIt(): void {
    if (this.#session === undefined || this.#standIn !== undefined || this.#stopping) return;
    try {
      this.#standIn = startStandIn(this.#session);
    } catch (error) {
      this.#options.log.error(
        { error },
        'nobody can answer in place of the front end: the mount is made anew',
      );
      this.#renew();
    }
  }

  #endStandIn(): void {
    if (this.#standIn === undefined) return;
    this.#options.log.info({ answered: this.#standIn.answered }, 'a front end begins: EIO is over');
    this.#standIn.stop();
    this.#standIn = undefined;
  }

  /** Gives the mount up with all that waits on it, and makes another one, to which the loops are moved later. */
  #renew(): void {
    this.close();
    this.#isCut = false;
    this.#moved = true;
    openFuseSession(this.#options.layout.devices()).then(
      (session) => {
        if (this.#stopping) session.close();
        else this.#use(session);
      },
      (error: unknown) => {
        this.#options.log.error({ error }, 'no FUSE mount');
        this.#options.conditions.set('front-end', `no FUSE mount: ${toErrorRecord(error).message}`);
      },
    );
  }
}

const PROGRAM = fileURLToPath(new URL('../../front-end/main.ts', import.meta.url));
