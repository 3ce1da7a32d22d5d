/**
 * Rounds that kill a random process of a real engine with SIGKILL, while verifying readers read and clients mount and
 * unmount. After each round the engine has to recover. Rules throughout:
 *
 * - no reader gets a wrong byte, and none waits longer than its deadline allows;
 * - no read fails while the supervisor lives (reads that fail while it is dead are counted);
 * - an acknowledged mount is there when the engine is, until a client asked to unmount it;
 * - in the end nothing is left: mounts, loops, processes, drafts, consumers, descriptors.
 *
 * The choices follow from a seed, the timing is the machine's.
 */
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { jetstreamManager } from '@nats-io/jetstream';
import { startRelay, type Relay } from '../../ops/bench/relay.ts';
import { identify, isAlive } from '../../src/container/host.ts';
import type { Status } from '../../schemas/api.ts';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import { STREAM } from '../../schemas/subjects.ts';
import { connectEngine } from '../../src/client/client.ts';
import { readEndpoint } from '../../src/client/endpoint.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { indexImage, sidecarOf } from '../../src/index/index-image.ts';
import { RegistryClient } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { pushSidecar } from '../../src/registry/sidecars.ts';
import { abortFuse, type Engine, startEngine } from './engine.ts';
import { Random } from './random.ts';
import { type RegistryServer, startRegistry } from './registry-server.ts';
import { descriptors, enginePids, leftInKernel, list, now, read, statOf } from './soak-machine.ts';
import { patternFiles, type PatternImage, pushPatternImage } from './soak-image.ts';
import { type BadRead, type SoakReaders, startReaders } from './soak-readers.ts';
import { Cleanup, listMounts } from './temp.ts';

export type Victim = 'front-end' | 'fetcher' | 'nats-server' | 'supervisor' | 'all';
export const VICTIMS: readonly Victim[] = ['front-end', 'fetcher', 'nats-server', 'supervisor', 'all'];

export interface KillRoundsOptions {
  rounds: number;
  seed: number;
  victims?: readonly Victim[];
  readers?: number;
  /** Ends the rounds after this time, ms; the rounds done so far count. */
  limitMs?: number;
  /** Of the engine: a read that waits longer gets EIO, ms; 30,000 by default. */
  readDeadlineMs?: number;
  /** Folder for the engine's logs and the dump of a hang after a broken rule; by default none is kept. */
  keep?: string;
  onProgress?: (line: string) => void;
}

export interface KillReport {
  seed: number;
  rounds: number;
  seconds: number;
  kills: Record<string, number>;
  reads: number;
  megabytes: number;
  slowestReadMs: number;
  wrongBytes: number;
  hangs: number;
  /** Reads that failed while the supervisor lived, and reads during whose wait it was dead. */
  failedReads: number;
  failedWithoutSupervisor: number;
  /** `unheard`: calls that failed for their caller, with the answer, although the engine carried them out. */
  mounts: { mounted: number; unmounted: number; refused: number; unheard: number; lost: number };
  /** Longest time from a kill to a recovered engine, ms, by victim. */
  recoveryMs: Record<string, number>;
  /** Leftovers at the end. */
  leaked: string[];
  /** Sentences about every rule that was broken; empty when all is well. */
  violations: string[];
}

/** After the supervisor's return, reads that were queued in the kernel may still fail for a moment, ms. */
const AFTERMATH_MS = 1_000;
const SETTLE_MS = 40_000;
/** A process that died so often in a row is spared: the supervisor gives up a process that never lives. */
const SPARE_AFTER = 6;
const HEALTHY_MS = 11_000;
const MOUNTS = 4;

export async function killRounds(options: KillRoundsOptions): Promise<KillReport> {
  const cleanup = new Cleanup();
  const rounds = new KillRounds(options, cleanup);
  try {
    await rounds.prepare();
    return await rounds.run();
  } finally {
    await cleanup.run();
  }
}

interface LiveMount {
  id: number;
  dir: string;
  image: PatternImage;
  /** The engine has acknowledged the mount, and no client has asked to unmount it. */
  acknowledged: boolean;
}

class KillRounds {
  readonly #options: KillRoundsOptions;
  readonly #cleanup: Cleanup;
  readonly #random: Random;
  readonly #report: KillReport;
  readonly #images: PatternImage[] = [];
  readonly #mounts = new Map<number, LiveMount>();
  /** When the supervisor was dead, [from, to]. */
  readonly #deaths: Array<[number, number]> = [];
  readonly #killed = new Map<string, number[]>();
  readonly #bad: BadRead[] = [];
  #registry!: RegistryServer;
  #relay!: Relay;
  #client!: RegistryClient;
  #engine!: Engine;
  #readers!: SoakReaders;
  #directory = '';
  #root = '';
  #nextMount = 1;
  #idle: Map<string, number> = new Map();
  #hung = false;

  constructor(options: KillRoundsOptions, cleanup: Cleanup) {
    this.#options = options;
    this.#cleanup = cleanup;
    this.#random = new Random(options.seed);
    this.#report = {
      seed: options.seed,
      rounds: 0,
      seconds: 0,
      kills: {},
      reads: 0,
      megabytes: 0,
      slowestReadMs: 0,
      wrongBytes: 0,
      hangs: 0,
      failedReads: 0,
      failedWithoutSupervisor: 0,
      mounts: { mounted: 0, unmounted: 0, refused: 0, unheard: 0, lost: 0 },
      recoveryMs: {},
      leaked: [],
      violations: [],
    };
  }

  get #deadlineMs(): number {
    return this.#options.readDeadlineMs ?? 30_000;
  }

  async prepare(): Promise<void> {
    const cleanup = this.#cleanup;
    this.#directory = await cleanup.tempDir('kills');
    this.#root = await cleanup.tempDir('kill-root');
    this.#registry = await startRegistry();
    cleanup.defer(() => this.#registry.stop());
    // A link on which an image takes a second or two: processes die while blocks are in flight.
    const to = { host: '127.0.0.1', port: this.#registry.port };
    this.#relay = await startRelay({ to, rate: 40e6, rttMs: 2 });
    cleanup.defer(() => this.#relay.stop());
    this.#client = new RegistryClient({});
    cleanup.defer(() => this.#client.close());
    await this.#up();
    cleanup.defer(() => this.#engine.stop());
    await this.#addImage();
    this.#readers = startReaders({
      readers: this.#options.readers ?? 16,
      seed: this.#options.seed,
      // The kernel may split a read in several, one after the other, each with the engine's deadline.
      hangMs: 3 * this.#deadlineMs,
      onBad: (read) => this.#bad.push(read),
      onHang: (read) => this.#onHang(read),
    });
    cleanup.defer(() => this.#readers.stop());
  }

  async run(): Promise<KillReport> {
    const report = this.#report;
    const started = now();
    const end = started + (this.#options.limitMs ?? Number.POSITIVE_INFINITY);
    // What an engine without mounts holds, after a first mount and unmount.
    await this.#mount();
    await this.#unmountOldest();
    this.#idle = descriptors(this.#pids());
    for (let count = 0; count < MOUNTS; count++) await this.#mount();
    while (report.rounds < this.#options.rounds && now() < end && !this.#hung) {
      report.rounds += 1;
      await this.#round();
    }
    await this.#finish();
    const { reads, bytes, slowestMs } = this.#readers.counts();
    report.reads = reads;
    report.megabytes = Math.round(bytes / 1e6);
    report.slowestReadMs = Math.round(slowestMs);
    report.seconds = Math.round((now() - started) / 1000);
    this.#judgeReads();
    if (report.leaked.length > 0) report.violations.push(`left behind: ${report.leaked.join('; ')}`);
    if (report.violations.length > 0) await this.#keepLogs();
    return report;
  }

  async #round(): Promise<void> {
    const random = this.#random;
    const fresh = random.chance(0.6) ? this.#addImage() : undefined;
    const churn = this.#churn();
    await sleep(random.int(0, 600));
    const victim = this.#pickVictim();
    const killedAt = now();
    this.#kill(victim);
    const died = victim === 'supervisor' || victim === 'all';
    const death: [number, number] = [killedAt, Number.POSITIVE_INFINITY];
    if (died) this.#deaths.push(death);
    // Sometimes the next process dies before this one has returned.
    const patient = random.chance(0.7);
    try {
      if (died) {
        await this.#engine.ended;
        await this.#engine.client.close().catch(() => {});
        await this.#up();
        death[1] = now() + AFTERMATH_MS;
      }
      await Promise.all([churn, fresh]);
      if (patient) await this.#settled(victim, killedAt);
    } catch (error) {
      this.#violation(`round ${this.#report.rounds} (${victim}): ${describe(error)}`);
      if (died && death[1] === Number.POSITIVE_INFINITY) {
        this.#dump(`the engine does not start again: ${describe(error)}`);
        this.#hung = true;
      }
    }
    const { failures, wrong } = this.#tally();
    this.#options.onProgress?.(
      `round ${this.#report.rounds}: ${victim}, ${Math.round(now() - killedAt)} ms, ${this.#mounts.size} mounts, ` +
        `${this.#readers.counts().reads} reads, ${failures} failed, ${wrong} wrong`,
    );
  }

  // ── The engine ──

  async #up(): Promise<void> {
    this.#engine = await startEngine({
      rehearses: true,
      root: this.#root,
      workers: 2,
      readDeadlineMs: this.#deadlineMs,
      args: ['--log-level', 'debug'],
    });
  }

  #pids(): Map<string, number> {
    return enginePids(this.#engine.pid);
  }

  #pickVictim(): Victim {
    const victims = this.#options.victims ?? VICTIMS;
    for (let tries = 0; ; tries++) {
      const victim = this.#random.pick(victims);
      const recent = (this.#killed.get(victim) ?? []).slice(-SPARE_AFTER);
      const isWorn =
        recent.length >= SPARE_AFTER && now() - (recent[0] as number) < SPARE_AFTER * HEALTHY_MS * 0.7;
      const dies = victim === 'supervisor' || victim === 'all';
      if (dies || !isWorn || tries > 20) return victim;
    }
  }

  #kill(victim: Victim): void {
    const pids = this.#pids();
    const names = [...pids.keys()].filter((name) =>
      victim === 'all' ? true : victim === 'fetcher' ? name.startsWith('fetcher') : name.startsWith(victim),
    );
    const chosen = victim === 'all' ? names : names.length === 0 ? [] : [this.#random.pick(names)];
    for (const name of chosen) {
      try {
        process.kill(pids.get(name) as number, 'SIGKILL');
      } catch {
        // It has ended by itself, or is just starting.
      }
    }
    this.#report.kills[victim] = (this.#report.kills[victim] ?? 0) + 1;
    this.#killed.set(victim, [...(this.#killed.get(victim) ?? []), now()]);
  }

  /** Waits until the engine answers, all its processes run and every acknowledged mount is there. */
  async #settled(victim: Victim, since: number): Promise<void> {
    let last = 'no answer';
    for (const end = now() + SETTLE_MS; now() < end && !this.#hung; await sleep(50)) {
      const status = await this.#status().catch((error: unknown) => void (last = describe(error)));
      if (status === undefined) continue;
      const missing = status.processes.filter(({ state }) => state !== 'running');
      if (missing.length > 0) {
        last = `not running: ${missing.map(({ name, state }) => `${name} ${state}`).join(', ')}`;
        continue;
      }
      const wrong = this.#compare(status);
      if (wrong.length > 0) {
        last = wrong.join('; ');
        continue;
      }
      const { recoveryMs } = this.#report;
      recoveryMs[victim] = Math.max(recoveryMs[victim] ?? 0, Math.round(now() - since));
      return;
    }
    if (this.#hung) return;
    throw new Error(`it does not come right within ${SETTLE_MS} ms: ${last}`);
  }

  /** Which of our mounts are not as they should be. */
  #compare(status: Status): string[] {
    const wrong: string[] = [];
    const points = new Map<string, number>();
    for (const { point, type } of listMounts())
      if (type === 'erofs' && point.startsWith(this.#directory))
        points.set(point, (points.get(point) ?? 0) + 1);
    const known = new Map(status.mounts.map((mount) => [mount.dir, mount.state]));
    for (const { dir, acknowledged } of this.#mounts.values()) {
      if (!acknowledged) continue;
      if (known.get(dir) !== 'mounted') wrong.push(`${dir} is ${known.get(dir) ?? 'unknown'} to the engine`);
      if (points.get(dir) !== 1) wrong.push(`${dir} is mounted ${points.get(dir) ?? 0} times`);
    }
    for (const [dir, state] of known) {
      if (state === 'mounted' && !points.has(dir)) wrong.push(`${dir} is called mounted and is not`);
    }
    for (const dir of points.keys()) {
      if (!known.has(dir)) wrong.push(`${dir} is mounted and unknown to the engine`);
    }
    return wrong;
  }

  async #status(): Promise<Status> {
    const client = await connectEngine(this.#root);
    try {
      return await client.call('status', {}, { timeoutMs: 6_000 });
    } finally {
      await client.close();
    }
  }

  // ── Mounts ──

  async #churn(): Promise<void> {
    if (this.#mounts.size > MOUNTS || (this.#mounts.size > 1 && this.#random.chance(0.4)))
      await this.#unmountOldest();
    if (this.#mounts.size <= MOUNTS) await this.#mount();
  }

  async #mount(): Promise<void> {
    // Mostly one of the last images, which are not complete yet; sometimes an old one.
    const image = this.#random.chance(0.7)
      ? (this.#images.at(-1) as PatternImage)
      : this.#random.pick(this.#images);
    const id = this.#nextMount++;
    const mount: LiveMount = { id, dir: join(this.#directory, `m${id}`), image, acknowledged: false };
    this.#mounts.set(id, mount);
    try {
      await this.#call((client) =>
        client.call('mount', { ref: image.ref, dir: mount.dir, prefetch: false }, { timeoutMs: 60_000 }),
      );
      mount.acknowledged = true;
      this.#report.mounts.mounted += 1;
      this.#readers.enter(id, mount.dir, image.files);
    } catch (error) {
      this.#refused('mount', error);
      await this.#reconcile(mount);
    }
  }

  async #unmountOldest(): Promise<void> {
    const mount = [...this.#mounts.values()].find(({ acknowledged }) => acknowledged);
    if (mount === undefined) return;
    if (!(await this.#readers.leave(mount.id, 3 * this.#deadlineMs + 5_000))) {
      if (!this.#hung) this.#violation(`readers do not leave ${mount.dir}`);
      return;
    }
    mount.acknowledged = false;
    try {
      await this.#call((client) => client.call('unmount', { dir: mount.dir }, { timeoutMs: 60_000 }));
      this.#mounts.delete(mount.id);
      this.#report.mounts.unmounted += 1;
    } catch (error) {
      this.#refused('unmount', error);
      await this.#reconcile(mount);
    }
  }

  /**
   * After an operation that failed, or whose outcome is unknown: asks the engine what became of it, once it can answer.
   */
  async #reconcile(mount: LiveMount): Promise<void> {
    for (const end = now() + SETTLE_MS; !this.#hung && now() < end; await sleep(100)) {
      const status = await this.#status().catch(() => undefined);
      if (status === undefined) continue;
      const known = status.mounts.find(({ dir }) => dir === mount.dir);
      if (known === undefined) {
        this.#mounts.delete(mount.id);
        return;
      }
      if (known.state === 'failed' || known.state === 'detached') {
        await this.#call((client) => client.call('unmount', { dir: mount.dir })).catch(() => {});
        continue;
      }
      if (known.state !== 'mounted') continue;
      mount.acknowledged = true;
      this.#readers.enter(mount.id, mount.dir, mount.image.files);
      return;
    }
    if (!this.#hung) this.#violation(`the engine does not say what became of ${mount.dir}`);
  }

  #refused(what: string, error: unknown): void {
    this.#report.mounts.refused += 1;
    const { code, message } = toErrorRecord(error);
    const isWeather = ['unavailable', 'timeout', 'not-running'].includes(code);
    if (!isWeather) this.#violation(`${what} failed with ${code}: ${message}`);
  }

  async #call<T>(use: (client: Awaited<ReturnType<typeof connectEngine>>) => Promise<T>): Promise<T> {
    const client = await connectEngine(this.#root).catch((error: unknown) => {
      throw error instanceof SyntaxError
        ? new CofaError('not-running', 'no endpoint', { cause: error })
        : error;
    });
    try {
      return await use(client);
    } finally {
      await client.close().catch(() => {});
    }
  }

  /** A fresh image: its base layer is that of some images before it, its second layer is new. */
  async #addImage(): Promise<void> {
    const number = this.#images.length;
    const base = Math.floor(number / 8);
    const key = (this.#options.seed % 1_000_000) * 1_000;
    const layers = [
      patternFiles('base', key + base * 10, 3, 1 << 20),
      patternFiles('top', key + 500_000_000 + number * 10, 4, 3 << 18),
    ];
    const image = await pushPatternImage(
      join(this.#directory, `image${number}`),
      this.#registry.host,
      `app${number}`,
      layers,
    );
    const resolved = await this.#client.resolve(parseReference(image.ref));
    const indexed = await indexImage({ image: resolved, threads: 1 });
    await pushSidecar(this.#client, resolved, sidecarOf(indexed));
    this.#images.push({ ...image, ref: image.ref.replace(this.#registry.host, this.#relay.host) });
  }

  // ── Verdicts ──

  #violation(text: string): void {
    this.#report.violations.push(text);
    this.#options.onProgress?.(`VIOLATION: ${text}`);
  }

  #wasAlive(read: BadRead): boolean {
    return this.#deaths.every(([from, to]) => read.endedAt < from || read.startedAt > to);
  }

  #tally(): { wrong: number; failures: number; orphaned: number } {
    let [wrong, failures, orphaned] = [0, 0, 0];
    for (const read of this.#bad) {
      if (read.outcome === 'wrong') wrong += 1;
      else if (this.#wasAlive(read)) failures += 1;
      else orphaned += 1;
    }
    return { wrong, failures, orphaned };
  }

  #judgeReads(): void {
    const { wrong, failures, orphaned } = this.#tally();
    const report = this.#report;
    report.wrongBytes = wrong;
    report.failedReads = failures;
    report.failedWithoutSupervisor = orphaned;
    const say = (reads: BadRead[]) =>
      reads
        .slice(0, 5)
        .map(
          ({ path, offset, outcome, detail, startedAt, endedAt }) =>
            `${path}@${offset} ${outcome} ${detail ?? ''} after ${Math.round(endedAt - startedAt)} ms`,
        )
        .join(', ');
    const isWrong = ({ outcome }: BadRead) => outcome === 'wrong';
    if (wrong > 0) report.violations.push(`${wrong} wrong reads: ${say(this.#bad.filter(isWrong))}`);
    if (failures > 0)
      report.violations.push(
        `${failures} reads failed while the supervisor lived: ${say(this.#bad.filter((read) => !isWrong(read) && this.#wasAlive(read)))}`,
      );
  }

  #onHang({ thread, mount, ms }: { thread: number; mount: number; ms: number }): void {
    this.#report.hangs += 1;
    const first = !this.#hung;
    this.#hung = true;
    const dir = this.#mounts.get(mount)?.dir ?? `mount ${mount}`;
    this.#violation(`reader ${thread} waits in ${dir} since ${ms} ms`);
    if (!first) return;
    this.#dump(`reader ${thread} waits in ${dir} since ${ms} ms`);
    // From now on no process waits, so that all can be unmounted.
    abortFuse(this.#root);
  }

  /** Writes down the present state of the engine, its processes and the kernel. */
  #dump(why: string): void {
    const { keep } = this.#options;
    if (keep === undefined) return;
    mkdirSync(keep, { recursive: true });
    const lines = [why, ''];
    for (const [name, pid] of [...this.#pids(), ['readers', this.#readers.pid] as const]) {
      lines.push(`── ${name} ${pid}: ${read(`/proc/${pid}/status`).match(/State:.*/)?.[0] ?? 'gone'}`);
      for (const task of list(`/proc/${pid}/task`)) {
        const stack = read(`/proc/${pid}/task/${task}/stack`).trim().split('\n').slice(0, 8);
        const state = statOf(`${pid}/task/${task}`)[0];
        if (state === 'D' || name === 'readers' || name.startsWith('front-end'))
          lines.push(`${task} ${state}: ${stack.map((line) => line.replace(/^\[<0>\] /, '')).join(' < ')}`);
      }
    }
    for (const { point, type, device } of listMounts()) {
      if (!point.startsWith(this.#root) && !point.startsWith(this.#directory)) continue;
      const waiting = type.startsWith('fuse')
        ? read(`/sys/fs/fuse/connections/${device.split(':')[1]}/waiting`).trim()
        : '';
      lines.push(`mount ${point} ${type} ${device} ${waiting === '' ? '' : `waiting ${waiting}`}`);
    }
    writeFileSync(join(keep, `hang-${this.#options.seed}.txt`), lines.join('\n'));
  }

  async #keepLogs(): Promise<void> {
    const { keep, seed } = this.#options;
    if (keep === undefined) return;
    const folder = join(keep, `logs-${seed}`);
    mkdirSync(folder, { recursive: true });
    for (const name of list(join(this.#root, 'log')))
      writeFileSync(join(folder, name), read(join(this.#root, 'log', name)));
    // Reads the files of an engine that has stopped.
    await this.#engine.cli(['events', 'export', '-q', join(folder, 'all.cofa-log')]);
  }

  // ── The end ──

  async #finish(): Promise<void> {
    const { leaked } = this.#report;
    try {
      if (!this.#hung) await this.#settled('fetcher', now());
      while (!this.#hung && [...this.#mounts.values()].some(({ acknowledged }) => acknowledged)) {
        const before = this.#report.mounts.unmounted;
        await this.#unmountOldest();
        if (this.#report.mounts.unmounted === before) break;
      }
      if (this.#hung) return;
      // The engine may have carried out a call whose answer was lost with NATS after its caller had looked for the
      // mount.
      for (const { dir } of (await this.#status()).mounts) {
        if ([...this.#mounts.values()].some((mount) => mount.dir === dir)) continue;
        await this.#call((client) => client.call('unmount', { dir }, { timeoutMs: 60_000 }));
        this.#report.mounts.unheard += 1;
      }
      this.#report.mounts.lost = this.#mounts.size;
      if (this.#mounts.size > 0)
        this.#violation(`mounts that cannot be unmounted: ${[...this.#mounts.values()].map((m) => m.dir)}`);
      // A front end keeps its own fetcher for half a minute after its last job.
      for (let tries = 0; tries < 80 && this.#leftDescriptors().length > 0; tries++) await sleep(500);
      leaked.push(...this.#leftDescriptors(), ...(await this.#leftConsumers()));
      const processes = [...this.#pids().values()].flatMap((pid) => identify(pid) ?? []);
      const down = await this.#engine.cli(['down']);
      if (down.code !== 0) this.#violation(`down: ${down.code} ${down.stderr}`);
      await Promise.race([this.#engine.ended, sleep(20_000)]);
      leaked.push(...leftInKernel([this.#root, this.#directory]), ...this.#leftFiles());
      for (const { pid } of processes.filter(isAlive)) leaked.push(`process ${pid}`);
    } catch (error) {
      this.#violation(`at the end: ${describe(error)}`);
    }
  }

  #leftFiles(): string[] {
    const left: string[] = [];
    const folders = ['images', 'spans', 'layers', 'run'].map((name) => join(this.#root, name));
    for (const folder of folders) {
      for (const name of readdirSync(folder, { recursive: true }) as string[])
        if (name.endsWith('.draft')) left.push(`file ${join(folder, name)}`);
    }
    for (const name of list(this.#directory)) if (/^m\d+$/.test(name)) left.push(`folder ${name}`);
    return left;
  }

  /** More than an engine without mounts held in the beginning, with some room for passing ones. */
  #leftDescriptors(): string[] {
    const left: string[] = [];
    for (const [name, count] of descriptors(this.#pids())) {
      const before = this.#idle.get(name);
      if (before !== undefined && count > before + 12)
        left.push(`${name} has ${count} descriptors, ${before} before`);
    }
    return left;
  }

  async #leftConsumers(): Promise<string[]> {
    const { log } = await readEndpoint(this.#root);
    const bus = await connectBus(log, { name: 'cofa-rounds', reconnect: false });
    try {
      const manager = await jetstreamManager(bus);
      const { state } = await manager.streams.info(STREAM);
      // One may follow the log.
      return state.consumer_count > 2 ? [`${state.consumer_count} NATS consumers`] : [];
    } finally {
      await bus.close();
    }
  }
}

function describe(error: unknown): string {
  const { code, message } = toErrorRecord(error);
  return `${code}: ${message}`;
}
