/**
 * The whole engine on a simulated machine: users who mount and unmount, readers, and faults, all drawn from one seed.
 * The programs are the real ones (machine.ts). After every event it checks the rules that must always hold:
 *
 * - a read gives the layer's bytes or an error, never others; it ends by its deadline, and fails for a cause only;
 * - no read gets a block that went bad on the disk once a scrub that began later has ended;
 * - the log says of no block that it is present before it is synced;
 * - no directory is mounted twice; a loop reads a device file by itself only when the whole of it is right;
 * - one front end does not fetch the same span twice at once;
 * - flat metadata are called verified only when they are those of the layers, and refuted only when they are not; no
 *   mount requested after a refutation has refuted metadata, and none that does not trust sidecars ever has others;
 * - what root-rules.ts says of block roots;
 * - every thrown error has a handler.
 *
 * When the faults end everything must recover: the engine runs, each acknowledged mount is there once and every byte of
 * it can be read. After all is unmounted and the engine is down, no process, mount, loop, connection or draft is left,
 * and every block that the log calls present is right.
 */
import { LAYER_LIMITS } from '../../../actors/layer-protocol.ts';
import { emptyNode, foldEvent, idOf, type NodeState } from '../../../actors/node-state.ts';
import type { ScrubReply, Status } from '../../../schemas/api.ts';
import type { CofaEvent } from '../../../schemas/events.ts';
import { TRUST_POLICIES, type TrustPolicy } from '../../../schemas/trust.ts';
import { STREAM, subjects } from '../../../schemas/subjects.ts';
import { decode } from './wire.ts';
import { FORGED, GARBAGE, HOLE, RIGHT, type SimFile } from './disk.ts';
import type { Loop, SimMount } from './kernel.ts';
import { currentProcess, type SimProcess } from './machine.ts';
import { NatsStore, SimConnection, type StoredMessage } from './nats.ts';
import { healed } from './plan.ts';
import type { Sabotage } from './sabotage.ts';
import type { RunSupervisor } from './programs.ts';
import { SLOW_MS } from './black-box.ts';
import { RootRules } from './root-rules.ts';
import { digestOf, type SimImage, World } from './world.ts';

export interface EngineOutcome {
  seed: number;
  /** Hash of all events of the run, in order. */
  trace: string;
  events: number;
  /** Simulated ms. */
  simulatedMs: number;
  met: Record<string, number>;
}

export interface EngineOptions {
  sabotage?: Sabotage | undefined;
  onTrace?: ((line: string) => void) | undefined;
}

/** Runs one seed. Throws a Violation that names seed, time and rule, with the last things that happened. */
export function simulateEngine(
  seed: number,
  runSupervisor: RunSupervisor,
  options: EngineOptions = {},
): Promise<EngineOutcome> {
  return new WholeEngine(seed, runSupervisor, options).run();
}

const ROOT = '/sim/root';
/** Of a second engine with the same node name. */
const OTHER_ROOT = '/sim/other';
const SHARED_NATS = 'nats://10.0.0.9:4222';
const NODE = 'node';
const names = subjects(NODE);
/** Longer than any recovery takes. */
const PATIENCE_MS = 300_000;
const MOST_EVENTS = 400_000;
/** From a death to a front end that serves again, and some more. */
const RECOVERY_MS = 20_000;

/** A call with one of these errors has changed nothing; after any other the outcome is unknown. */
const SURE = new Set(['not-running', 'not-found', 'conflict', 'integrity', 'invalid-argument']);

const FOLDERS = ['/sim', ROOT, OTHER_ROOT, '/sim/mnt'];

interface Expected {
  state: 'none' | 'mounted' | 'unknown';
  /** A call runs. */
  isBusy: boolean;
  image: SimImage | undefined;
  /** It was mounted with this policy; undefined: the engine's. */
  trust: TrustPolicy | undefined;
}

interface Read {
  id: number;
  mount: SimMount;
  startedAt: number;
  what: string;
}

class WholeEngine {
  readonly #world: World;
  readonly #runSupervisor: RunSupervisor;
  readonly #isLoud: boolean;
  readonly #supervisors = new Map<string, SimProcess>();
  #user!: SimProcess;
  readonly #expected = new Map<string, Expected>();
  readonly #reads = new Map<number, Read>();
  #nextRead = 1;
  #supervisorDiedAt = Number.NEGATIVE_INFINITY;
  /** When an engine said that it ends; Infinity: a client is telling it to. */
  #downAt = Number.NEGATIVE_INFINITY;
  #wantsUp = true;
  /** Folder of the engine that answered last. */
  #living = ROOT;
  #isHealed = false;
  /** `<root> <manifest> <digest of metadata>` */
  readonly #refuted = new Set<string>();
  /** Mounts by id, with the metadata they must not have: those refuted before their request. */
  readonly #forbidden = new Map<string, { dir: string; flats: ReadonlySet<string | undefined> }>();
  readonly #roots: RootRules;
  #unhandled: unknown;

  constructor(seed: number, runSupervisor: RunSupervisor, options: EngineOptions) {
    this.#world = new World(seed, options);
    this.#roots = new RootRules(this.#world);
    this.#isLoud = options.onTrace !== undefined;
    this.#runSupervisor = runSupervisor;
    for (let at = 0; at < this.#world.plan.dirs; at++)
      this.#expected.set(`/sim/mnt/d${at}`, {
        state: 'none',
        isBusy: false,
        image: undefined,
        trust: undefined,
      });
  }

  get #machine() {
    return this.#world.machine;
  }

  async run(): Promise<EngineOutcome> {
    const machine = this.#machine;
    const { disk } = this.#world;
    for (const folder of FOLDERS) disk.put(folder, 'folder');
    if (this.#world.plan.listed) this.#listSidecars();
    disk.syncNames();
    if (this.#world.plan.two) this.#world.server(SHARED_NATS, new NatsStore()).start();
    const onUnhandled = (reason: unknown) => {
      this.#unhandled ??= reason;
    };
    process.on('unhandledRejection', onUnhandled);
    try {
      this.#user = machine.start({ name: 'user', argv: [] });
      this.#upAll();
      this.#schedule();
      await this.#until(this.#world.plan.faultsEndMs, () => false);
      this.#heal();
      // An engine that was replaced takes a while to notice.
      if (this.#world.plan.two) await this.#until(machine.now + RECOVERY_MS, () => false);
      await this.#comeRight();
      await this.#repair();
      await this.#readAll();
      await this.#proveAll();
      await this.#keepAll();
      await this.#takeDown();
      this.#checkEnd();
    } finally {
      process.off('unhandledRejection', onUnhandled);
    }
    return {
      seed: machine.seed,
      trace: machine.hash,
      events: machine.events,
      simulatedMs: Math.round(machine.now),
      met: machine.met,
    };
  }

  /** The user trusts every sidecar that is not known to be forged. */
  #listSidecars(): void {
    const { disk, images } = this.#world;
    const list = disk.create(`${ROOT}/trusted-sidecars`);
    const known = images.filter(({ isAttackers }) => isAttackers !== true);
    list.content = Buffer.from(known.map(({ sidecar }) => `${sidecar}\n`).join(''));
    list.size = list.content.length;
    list.sync();
  }

  // ── Time ──

  /** Runs until `end` or until it is done; returns whether it is. */
  async #until(end: number, isDone: () => boolean): Promise<boolean> {
    const machine = this.#machine;
    while (!isDone()) {
      if (!(await machine.step(end))) return isDone();
      machine.check(machine.events < MOST_EVENTS, () => 'it goes round in circles');
      this.#checkNow();
    }
    return true;
  }

  #every(meanMs: () => number, run: () => void): void {
    const machine = this.#machine;
    const mean = meanMs();
    const isOn = mean < Number.POSITIVE_INFINITY;
    if (!isOn && !this.#isHealed && this.#machine.now === 0) return;
    machine.after(isOn ? mean * (0.4 + 1.2 * machine.random.next()) : 1_000, () => {
      if (this.#isHealed) return;
      if (isOn && meanMs() < Number.POSITIVE_INFINITY) run();
      this.#every(meanMs, run);
    });
  }

  #schedule(): void {
    const { random } = this.#machine;
    const plan = () => this.#world.plan;
    this.#every(
      () => plan().mountEveryMs,
      () => this.#churn(),
    );
    this.#every(
      () => plan().readEveryMs,
      () => this.#readSome(),
    );
    this.#every(
      () => plan().killFrontMs,
      () => this.#kill('front-end'),
    );
    this.#every(
      () => plan().killFetcherMs,
      () => this.#kill('fetcher'),
    );
    this.#every(
      () => plan().killNatsMs,
      () => this.#kill('nats-server'),
    );
    this.#every(
      () => plan().killSupervisorMs,
      () => this.#kill('supervisor'),
    );
    this.#every(
      () => plan().killAllMs,
      () => this.#kill('all'),
    );
    this.#every(
      () => plan().powerCutMs,
      () => this.#cutPower(),
    );
    this.#every(
      () => plan().downMs,
      () => this.#downAndUp(),
    );
    this.#every(
      () => plan().upgradeMs,
      () => this.#upgrade(),
    );
    this.#every(
      () => (plan().two ? Number.POSITIVE_INFINITY : plan().rotMs),
      () => this.#world.rot(),
    );
    this.#every(
      () => plan().scrubMs,
      () => this.#scrub(() => {}),
    );
    this.#every(
      () => plan().removeMs,
      () => this.#remove(),
    );
    this.#every(
      () => plan().stopMs,
      () => this.#standStill(),
    );
    this.#every(
      () => (plan().two ? plan().cutOffMs : Number.POSITIVE_INFINITY),
      () => this.#cutOff(),
    );
    this.#every(
      () => plan().cutConnectionMs,
      () => {
        const all = [...this.#world.servers.values()].flatMap(({ connections }) => [...connections]);
        if (all.length === 0) return;
        this.#machine.meet('connections cut');
        this.#world.disturbedAt = this.#machine.now;
        random.pick(all).lost();
      },
    );
    this.#every(
      () => plan().natsFullMs,
      () => this.#fill('isNatsFull'),
    );
    this.#every(
      () => plan().diskFullMs,
      () => this.#fill('isDiskFull'),
    );
  }

  #fill(what: 'isNatsFull' | 'isDiskFull'): void {
    this.#world[what] = true;
    this.#machine.after(this.#machine.random.int(200, 4_000), () => {
      this.#world[what] = false;
    });
  }

  // ── The engine ──

  /** Whether an engine lives. */
  get #isUp(): boolean {
    return [...this.#supervisors.values()].some(({ isAlive }) => isAlive);
  }

  #upAll(): void {
    const machine = this.#machine;
    this.#up(ROOT);
    if (this.#world.plan.two) machine.after(machine.random.int(100, 4_000), () => this.#up(OTHER_ROOT));
  }

  #up(root: string): void {
    const machine = this.#machine;
    if (this.#supervisors.get(root)?.isAlive === true || !this.#wantsUp) return;
    const { plan } = this.#world;
    const supervisor = machine.start({ name: 'supervisor', argv: ['node', 'main.ts', 'up'], root });
    this.#supervisors.set(root, supervisor);
    supervisor.onEnd(() => {
      this.#world.disturbedAt = machine.now;
      this.#supervisorDiedAt = machine.now;
      // The service manager starts it again.
      machine.after(machine.random.int(50, 1_500), () => this.#up(root));
    });
    supervisor.enter(() => {
      this.#runSupervisor({
        root,
        node: NODE,
        ...(plan.two ? { nats: SHARED_NATS } : {}),
        transport: 'kernel',
        workers: plan.workers,
        readDeadlineMs: plan.readDeadlineMs,
        hangMs: 3_000,
        // On the simulated disk, where no key is: a read of the real one takes as long as it likes.
        keys: '/sim/keys',
        trust: machine.random.chance(0.2) ? machine.random.pick(TRUST_POLICIES) : plan.trust,
        logLimit: plan.logLimit,
        ...(plan.cacheShare === undefined
          ? {}
          : {
              cacheLimit: Math.round(
                plan.cacheShare * this.#world.layers.reduce((sum, { size }) => sum + size, 0),
              ),
            }),
        ...(plan.two ? {} : { incidents: { bytes: 1 << 30, count: 10_000, slowMs: SLOW_MS } }),
        registry: {},
        logLevel: this.#isLoud ? 'debug' : 'silent',
      } as Parameters<RunSupervisor>[0]).catch((error: unknown) => {
        if (!supervisor.isAlive) return;
        machine.trace(`supervisor fails: ${String(error)}`);
        machine.meet('starts that failed');
        supervisor.end(1, null);
      });
    });
  }

  #processes(name: string): SimProcess[] {
    return [...this.#machine.processes.values()].filter((process) => process.name.startsWith(name));
  }

  #kill(name: string): void {
    const machine = this.#machine;
    machine.meet(`kills of ${name}`);
    this.#world.disturbedAt = machine.now;
    const found =
      name === 'all'
        ? [...machine.processes.values()].filter((process) => process !== this.#user)
        : this.#processes(name);
    if (found.length === 0) return;
    if (name === 'all') for (const process of found) process.signal('SIGKILL');
    else machine.random.pick(found).signal('SIGKILL');
  }

  #cutPower(): void {
    const machine = this.#machine;
    const { disk, kernel, stores, servers } = this.#world;
    machine.meet('power cuts');
    this.#roots.forget();
    this.#world.disturbedAt = machine.now;
    this.#supervisorDiedAt = machine.now;
    machine.cutPower();
    for (const [url, server] of servers) {
      // A shared NATS runs on another machine.
      if (url === SHARED_NATS) continue;
      server.stop();
      servers.delete(url);
    }
    kernel.reboot();
    for (const read of this.#reads.values()) read.mount.users -= 1;
    this.#reads.clear();
    for (const store of stores.values()) {
      const lost = store.cut(machine.random);
      machine.meet('records lost with the power', lost);
    }
    disk.cut(machine.random);
    // The users own the folders for mounts, and make them durable.
    for (const folder of FOLDERS) if (disk.get(folder) === undefined) disk.put(folder, 'folder');
    this.#supervisors.clear();
    this.#downAt = Number.NEGATIVE_INFINITY;
    this.#user = machine.start({ name: 'user', argv: [] });
    for (const expected of this.#expected.values()) {
      if (expected.isBusy) expected.state = 'unknown';
      expected.isBusy = false;
    }
    machine.after(machine.random.int(500, 3_000), () => this.#upAll());
  }

  #downAndUp(): void {
    if (!this.#isUp) return;
    this.#machine.meet('cofa down');
    this.#world.disturbedAt = this.#machine.now;
    this.#supervisorDiedAt = this.#machine.now;
    this.#downAt = Number.POSITIVE_INFINITY;
    this.#call('down', { force: this.#machine.random.chance(0.5) }, (_, code) => {
      this.#downAt = code === 'ok' ? this.#machine.now : Number.NEGATIVE_INFINITY;
    });
  }

  /** Cuts one of two engines off from NATS for a while. */
  #cutOff(): void {
    const machine = this.#machine;
    const server = this.#world.servers.get(SHARED_NATS);
    if (server === undefined || server.unreachable.size > 0) return;
    const root = machine.random.pick([ROOT, OTHER_ROOT]);
    machine.meet('engines cut off');
    machine.trace(`${root} is cut off from NATS`);
    this.#world.disturbedAt = machine.now;
    this.#supervisorDiedAt = machine.now;
    server.cutOff(root);
    machine.after(machine.random.int(500, 12_000), () => {
      machine.trace(`${root} reaches NATS again`);
      server.unreachable.delete(root);
      this.#world.disturbedAt = machine.now;
      this.#supervisorDiedAt = machine.now;
    });
  }

  #upgrade(): void {
    this.#machine.meet('upgrades');
    this.#world.disturbedAt = this.#machine.now;
    this.#call('upgrade', {}, (_, code) => this.#machine.meet(`upgrade: ${code}`));
  }

  /** Compares all blocks; `done` gets whether every layer is right now. */
  #scrub(done: (isRight: boolean) => void, repair = this.#machine.random.chance(0.5)): void {
    const machine = this.#machine;
    const { boot, now: since } = machine;
    machine.meet('scrubs');
    machine.trace('user: scrub');
    const bytesPerSecond = machine.random.pick([0, 1e6]);
    this.#call(
      'scrub',
      { repair, bytesPerSecond },
      (result, code) => {
        if (machine.boot !== boot) return;
        const report = result as ScrubReply | undefined;
        machine.trace(`user: scrub: ${code}, ${report?.bad} bad, ${report?.repaired} repaired`);
        machine.meet(`scrub: ${code}`);
        machine.meet('blocks that a scrub found bad', report?.bad ?? 0);
        machine.meet('blocks that a scrub repaired', report?.repaired ?? 0);
        if (report?.stopped !== false) return done(false);
        const isDone = ({ kept, failure }: ScrubReply['layers'][number]) =>
          kept === 0 && failure?.startsWith('not repaired') !== false;
        for (const layer of report.layers)
          if (isDone(layer)) this.#world.scrubbed(layer.root ?? layer.diffId, since);
        done(report.layers.every((layer) => isDone(layer) && layer.failure === undefined));
      },
      120_000,
    );
  }

  /** The engine refuses to remove mounted images. */
  #remove(): void {
    const { ref } = this.#machine.random.pick(this.#world.images);
    this.#call('remove', { ref }, (_, code) => this.#machine.meet(`remove: ${code}`));
  }

  /** Stops a process for a while, long enough or not for the supervisor to kill it. */
  #standStill(): void {
    const { random } = this.#machine;
    const found = [...this.#processes('front-end'), ...this.#processes('fetcher')];
    if (found.length === 0) return;
    const process = random.pick(found);
    this.#machine.meet('processes that stand still');
    const forMs = random.int(100, 8_000);
    this.#world.disturbedAt = this.#machine.now + forMs;
    process.signal('SIGSTOP');
    this.#machine.after(forMs, () => process.signal('SIGCONT'));
  }

  #heal(): void {
    const world = this.#world;
    this.#machine.trace('heal');
    this.#isHealed = true;
    world.plan = healed(world.plan);
    world.isDiskFull = false;
    world.isNatsFull = false;
    world.servers.get(SHARED_NATS)?.unreachable.clear();
  }

  // ── Users ──

  /** One call of the API; `done` gets its result, or undefined and the reason. */
  #call(
    operation: 'status' | 'mount' | 'unmount' | 'remove' | 'down' | 'upgrade' | 'scrub',
    request: object,
    done: (result: unknown, code: string) => void,
    timeoutMs = 60_000,
  ): void {
    const machine = this.#machine;
    const user = this.#user;
    user.enter(() => {
      const { disk, servers } = this.#world;
      let server = servers.get(SHARED_NATS);
      let role: string | undefined;
      try {
        const endpoint = JSON.parse(disk.file(`${ROOT}/run/endpoint.json`)?.content.toString() ?? '') as {
          nats: { url: string; user?: string };
        };
        ({ user: role } = endpoint.nats);
        server ??= servers.get(endpoint.nats.url);
      } catch {
        // No engine runs.
      }
      if (server?.isUp !== true) {
        machine.after(1, () => user.enter(() => done(undefined, 'not-running')));
        return;
      }
      const bus = new SimConnection(server, user, role === undefined ? {} : { user: role });
      bus.request(names.api(operation), JSON.stringify(request), { timeout: timeoutMs }).then(
        (message) => {
          void bus.close();
          const reply = message.json<{
            ok: boolean;
            result: unknown;
            error: { code: string; message: string };
          }>();
          if (reply.ok) done(reply.result, 'ok');
          else {
            machine.trace(`user: ${operation} ${reply.error.code}: ${reply.error.message}`);
            done(undefined, reply.error.code);
          }
        },
        () => {
          void bus.close();
          done(undefined, 'no answer');
        },
      );
    });
  }

  #churn(): void {
    const { random } = this.#machine;
    const [dir, expected] = random.pick([...this.#expected]);
    if (expected.isBusy) return;
    if (expected.state === 'none' || (expected.state === 'unknown' && random.chance(0.5)))
      this.#mount(dir, expected);
    else this.#unmount(dir, expected);
  }

  #mount(dir: string, expected: Expected): void {
    const machine = this.#machine;
    const { random } = machine;
    const { plan } = this.#world;
    const image = random.pick(this.#world.images);
    const trust = random.chance(plan.mountTrust) ? random.pick(TRUST_POLICIES) : undefined;
    const was = expected.state;
    expected.isBusy = true;
    const prefetch = random.chance(plan.prefetch);
    // A block or so a second, up to more than the registry gives.
    const limit = prefetch && random.chance(0.3) ? random.int(50_000, 50_000_000) : undefined;
    const order = `${trust === undefined ? '' : `, trust ${trust}`}${limit === undefined ? '' : `, ${limit} B/s`}`;
    machine.trace(`user: mount ${image.ref} ${dir}${order}`);
    if (limit !== undefined) machine.meet('mounts with a limit for the rest');
    this.#call(
      'mount',
      {
        ref: image.ref,
        dir,
        prefetch,
        ...(limit === undefined ? {} : { prefetchLimit: limit }),
        ...(trust === undefined ? {} : { trust }),
      },
      (result, code) => {
        expected.isBusy = false;
        machine.trace(`user: mount ${dir}: ${code}`);
        machine.meet(`mount: ${code}`);
        if (result !== undefined) {
          expected.state = 'mounted';
          expected.image = image;
          expected.trust = trust;
        } else expected.state = was === 'none' && SURE.has(code) ? 'none' : 'unknown';
        if (code === 'integrity') this.#checkRefuted(image, trust);
        if (['conflict', 'internal', 'invalid-argument'].includes(code) && was === 'none')
          this.#checkRefusal('mount', dir, code);
      },
    );
  }

  #unmount(dir: string, expected: Expected): void {
    const machine = this.#machine;
    const was = expected.state;
    expected.isBusy = true;
    expected.state = 'unknown';
    machine.trace(`user: unmount ${dir}`);
    this.#call('unmount', { dir }, (result, code) => {
      expected.isBusy = false;
      machine.trace(`user: unmount ${dir}: ${code}`);
      machine.meet(`unmount: ${code}`);
      if (result !== undefined) {
        this.#checkPromise(dir, false);
        expected.state = 'none';
      } else if (code === 'not-found') {
        machine.check(was !== 'mounted', () => `${dir} was acknowledged, and the engine does not know it`);
        expected.state = 'none';
      } else if (code === 'busy') expected.state = was;
    });
  }

  /** What a user was told is in the log. */
  #checkPromise(dir: string, isMounted: boolean): void {
    const found = [...this.#fold().mounts.values()].find((mount) => mount.dir === dir);
    this.#machine.check(
      isMounted ? found?.state === 'mounted' : found === undefined,
      () =>
        `${dir} was said to be ${isMounted ? 'mounted' : 'unmounted'}, and the log says ${found?.state ?? 'nothing'}`,
    );
  }

  /** The state of the log; records of a replaced engine do not count. */
  #fold(): NodeState {
    const state = emptyNode();
    const stores = new Set([...this.#world.servers.values()].map(({ store }) => store));
    for (const store of this.#world.stores.values()) stores.add(store);
    for (const { streams } of stores) {
      let owner = 0;
      for (const { seq, subject, data, headers } of streams.get(STREAM)?.messages ?? []) {
        const epoch = Number(headers?.get('Cofa-Epoch') || Number.NaN);
        if (epoch < owner) continue;
        const event = decode<CofaEvent>(data);
        if (event.type === 'engine.started') owner = seq;
        foldEvent(state, idOf(subject), event);
      }
    }
    return state;
  }

  /** The engine refuses only what was refuted, and not to users who do not trust it. */
  #checkRefuted(image: SimImage, trust: TrustPolicy | undefined): void {
    const isForged = image.isIndexed && !image.offered.equals(image.flat);
    const met = this.#machine.met['wrong bytes'] ?? 0;
    this.#machine.check(
      image.isAttackers === true ||
        met > 0 ||
        this.#world.plan.wrongBytes > 0 ||
        (isForged && trust !== 'never' && trust !== 'own'),
      () => `${image.ref} was refused with integrity, trust ${trust}`,
    );
  }

  /** Codes that no action of a user and no fault can explain. */
  #checkRefusal(what: string, dir: string, code: string): void {
    if (code === 'internal') this.#machine.fail(`${what} of ${dir} failed with ${code}`);
  }

  // ── Readers ──

  #readSome(): void {
    const { random } = this.#machine;
    const mounts = this.#world.kernel.mounts.filter(({ type }) => type === 'erofs');
    if (mounts.length === 0 || this.#reads.size > 100) return;
    const mount = random.pick(mounts);
    if (mount.devices.length === 0) return;
    const loop = random.pick(mount.devices);
    const blocks = Math.ceil(loop.size / 65_536);
    const first = random.int(0, blocks - 1);
    this.#read(
      mount,
      mount.devices.indexOf(loop),
      first,
      Math.min(blocks - 1, first + random.int(0, this.#world.plan.readBlocks - 1)),
    );
  }

  #read(
    mount: SimMount,
    device: number,
    first: number,
    last: number,
    done: (ok: boolean) => void = () => {},
  ): void {
    const machine = this.#machine;
    const { boot } = machine;
    const id = this.#nextRead++;
    const loop = mount.devices[device];
    if (loop === undefined) return;
    const read: Read = {
      id,
      mount,
      startedAt: machine.now,
      what: `${mount.point} device ${device} blocks ${first}-${last}`,
    };
    this.#reads.set(id, read);
    mount.users += 1;
    machine.trace(`read ${id}: ${read.what}`);
    this.#world.kernel.read(loop, first, last, (errno, tags) => {
      if (machine.boot !== boot || !this.#reads.delete(id)) return;
      machine.trace(`read ${id}: ${errno ?? 'ok'}`);
      if (errno === undefined) {
        machine.meet('reads served');
        const file = this.#fileBehind(loop);
        const isRotten = (tag: number, at: number) =>
          tag === GARBAGE && this.#world.isRotten(file, first + at, read.startedAt);
        const wrong = (tags ?? new Uint8Array([HOLE])).findIndex(
          (tag, at) => tag !== this.#checked(loop) && !isRotten(tag, at),
        );
        if (tags?.some(isRotten) === true) machine.meet('reads of what has rotted');
        machine.check(
          wrong < 0,
          () => `read ${id} of ${read.what} got a wrong byte in block ${first + wrong}: ${tags?.[wrong]}`,
        );
      } else {
        machine.meet('reads failed');
        machine.check(
          this.#hasCause(read) || this.#roots.isDenied(mount, loop),
          () => `read ${id} of ${read.what} failed without a cause: ${errno}`,
        );
      }
      // Some readers keep the file open for a while.
      machine.after(machine.random.chance(0.1) ? machine.random.int(0, 2_000) : 0, () => {
        if (machine.boot !== boot) return;
        mount.users -= 1;
        this.#world.kernel.settle(mount);
      });
      done(errno === undefined);
    });
  }

  /** Bytes of a forged layer are its author's. Rules of their own say whose mounts may have it. */
  #checked(loop: Loop): number {
    return this.#roots.isForged(loop) ? FORGED : RIGHT;
  }

  #fileBehind({ backing }: Loop): SimFile | undefined {
    return backing.kind === 'disk' ? backing.file : this.#world.device(ROOT, `sha256:${backing.name}`);
  }

  /** Whether a fault happened that may let a read fail before its deadline. */
  #hasCause({ startedAt, mount }: Read): boolean {
    const { plan, machine } = this.#world;
    if (machine.now - startedAt >= plan.readDeadlineMs - 1) return true;
    if (!mount.isAttached || this.#supervisorDiedAt >= startedAt - RECOVERY_MS || !this.#isUp) return true;
    const { met } = machine;
    return [
      'registry fails',
      'registry silent',
      'wrong bytes',
      'kills of nats-server',
      'connections cut',
      'disk full',
      'kills of fetcher',
      'processes that stand still',
      'no front end served for a deadline',
    ].some((what) => (met[what] ?? 0) > 0);
  }

  // ── Rules ──

  #checkNow(): void {
    const machine = this.#machine;
    if (this.#unhandled !== undefined) {
      const reason = this.#unhandled;
      machine.fail(`an error without a handler: ${reason instanceof Error ? reason.stack : String(reason)}`);
    }
    const { plan } = this.#world;
    for (const read of this.#reads.values()) {
      const since = Math.max(read.startedAt, this.#world.disturbedAt + RECOVERY_MS);
      if (machine.now <= since + plan.readDeadlineMs + 2_000) break;
      machine.fail(`read ${read.id} of ${read.what} waits since ${read.startedAt.toFixed(0)}`);
    }
    for (const server of this.#world.servers.values())
      server.onAppend ??= (message) => this.#checkAppend(message);
    this.#checkMounts();
    this.#checkTrust();
  }

  /** Of mounts that were acknowledged to a user. */
  #checkTrust(): void {
    for (const [dir, { state, image, trust }] of this.#expected) {
      if (state === 'mounted' && !this.#world.plan.two)
        this.#roots.checkTrusting(this.#world.kernel.find(dir), trust);
      if (state !== 'mounted' || trust !== 'never' || image === undefined || this.#world.plan.two) continue;
      const flat = flatOf(this.#world.kernel.find(dir));
      this.#machine.check(
        flat === undefined || flat.equals(image.flat),
        () => `${dir} trusts no sidecar and has the metadata of one`,
      );
    }
  }

  #checkMounts(): void {
    const machine = this.#machine;
    const points = new Set<string>();
    const { mounts, loops } = this.#world.kernel;
    for (const { type, point } of mounts) {
      if (type !== 'erofs') continue;
      // A front end that replaces another takes its mounts over while that one may still serve them.
      machine.check(this.#world.plan.two || !points.has(point), () => `${point} is mounted twice`);
      points.add(point);
    }
    for (const { backing, number } of loops.values()) {
      if (backing.kind !== 'disk' || backing.file.blocks === undefined) continue;
      machine.check(
        backing.file.blocks.every(
          (tag, block) => tag === RIGHT || this.#world.isRotten(backing.file, block, machine.now),
        ),
        () => `loop${number} reads a device that is not whole`,
      );
    }
  }

  #checkAppend({ subject, data, root = ROOT }: StoredMessage): void {
    const machine = this.#machine;
    const event = decode<CofaEvent>(data);
    machine.trace(`event ${event.type}`);
    machine.meet(`log: ${event.type}`);
    const id = subject.slice(subject.lastIndexOf('.') + 1);
    this.#roots.onAppend(subject, event);
    if (event.type === 'image.verified' || event.type === 'image.refuted') {
      const image = this.#world.images.find(({ manifest }) => manifest.endsWith(id));
      const isRight = image !== undefined && event.flat === digestOf(image.flat);
      machine.check(
        isRight === (event.type === 'image.verified'),
        () => `${image?.ref} has metadata that are ${isRight ? '' : 'not '}the layers', and ${event.type}`,
      );
      if (event.type === 'image.refuted') this.#refuted.add(`${root} sha256:${id} ${event.flat}`);
    }
    if (event.type === 'image.removed')
      for (const key of this.#refuted) if (key.startsWith(`${root} sha256:${id} `)) this.#refuted.delete(key);
    if (event.type === 'mount.requested') {
      const flats = [...this.#refuted].filter((key) => key.startsWith(`${root} ${event.manifest} `));
      this.#forbidden.set(id, { dir: event.dir, flats: new Set(flats.map((key) => key.split(' ')[2])) });
    }
    if (event.type === 'mount.mounted') {
      const { dir, flats } = this.#forbidden.get(id) ?? { dir: '', flats: new Set() };
      const flat = flatOf(this.#world.kernel.find(dir));
      machine.check(
        this.#world.plan.two || flat === undefined || !flats.has(digestOf(flat)),
        () => `${dir} is mounted with metadata that were refuted before`,
      );
    }
    if (event.type !== 'layer.blocks') return;
    const file = this.#world.device(root, `sha256:${id}`);
    for (const [first, count] of event.ranges)
      for (let block = first; block < first + count; block++)
        machine.check(
          file?.durable.blocks?.[block] === this.#world.checked(`sha256:${id}`) ||
            this.#world.isRotten(file, block, Number.NEGATIVE_INFINITY),
          () => `block ${block} of ${subject} is in the log and not synced`,
        );
  }

  // ── The end ──

  async #status(): Promise<Status | undefined> {
    let answer: Status | undefined;
    let done = false;
    this.#call(
      'status',
      {},
      (result) => {
        answer = result as Status | undefined;
        done = true;
      },
      10_000,
    );
    await this.#until(this.#machine.now + 12_000, () => done);
    return answer;
  }

  async #comeRight(): Promise<void> {
    const machine = this.#machine;
    const end = machine.now + PATIENCE_MS;
    let last = 'no answer';
    for (;;) {
      machine.check(machine.now < end, () => `it does not come right: ${last}`);
      await this.#until(machine.now + 500, () => false);
      if (this.#downAt > this.#supervisorDiedAt) {
        last = 'an engine that was told to go is still there';
        continue;
      }
      if ([...this.#expected.values()].some(({ isBusy }) => isBusy)) {
        last = 'a call is under way';
        continue;
      }
      const status = await this.#status();
      if (status === undefined) continue;
      const missing = status.processes.find(({ state }) => state !== 'running');
      if (missing !== undefined) {
        last = `${missing.name} is ${missing.state}`;
        continue;
      }
      last = this.#compare(status).join('; ');
      if (last === '') return;
    }
  }

  /** Which of the mounts are not as promised. */
  #compare(status: Status): string[] {
    const wrong: string[] = [];
    this.#living = status.root;
    const { mounts } = this.#world.kernel;
    const points = mounts.filter((mount) => this.#isOfLiving(mount)).map(({ point }) => point);
    const known = new Map(status.mounts.map(({ dir, state, ref }) => [dir, { state, ref }]));
    for (const [dir, { state, image }] of this.#expected) {
      const there = known.get(dir);
      // What the attacker's own image is made of is gone when its table is known to be wrong.
      if (image?.isAttackers === true) continue;
      if (state === 'mounted' && (there?.state !== 'mounted' || there.ref !== image?.ref))
        wrong.push(
          `${dir} was acknowledged with ${image?.ref} and is ${there?.state ?? 'unknown'} with ${there?.ref}`,
        );
      if (state === 'none' && there !== undefined)
        wrong.push(`${dir} is gone for its user and ${there.state}`);
      const top = mounts.findLast(({ point }) => point === dir);
      if (there?.state === 'mounted' && (top === undefined || !this.#isOfLiving(top)))
        wrong.push(`${dir} is called mounted and is not`);
      if (there === undefined && points.includes(dir))
        wrong.push(`${dir} is mounted and the engine does not know it`);
    }
    return wrong;
  }

  /** Finds rotten blocks and fetches them again. */
  async #repair(): Promise<void> {
    const machine = this.#machine;
    if (this.#world.rotten.length === 0) return;
    const end = machine.now + PATIENCE_MS;
    for (let isRight = false; !isRight; ) {
      machine.check(machine.now < end, () => 'what has rotted is not repaired');
      let isOver = false;
      this.#scrub((right) => {
        isOver = true;
        isRight = right;
      }, true);
      await this.#until(machine.now + PATIENCE_MS, () => isOver);
      machine.check(isOver, () => 'a scrub goes on for ever');
      if (!isRight) await this.#until(machine.now + 1_000, () => false);
    }
  }

  /**
   * Whether a mount belongs to the engine that runs now. Of two engines, one that died and was replaced unmounts its
   * own when it starts again, which it cannot as long as the other one owns the name.
   */
  #isOfLiving({ type, metadata }: SimMount): boolean {
    if (type !== 'erofs' || !this.#world.plan.two) return type === 'erofs';
    const backing = metadata?.backing;
    return backing?.kind === 'disk' && backing.path.startsWith(`${this.#living}/`);
  }

  async #readAll(): Promise<void> {
    const machine = this.#machine;
    let [asked, answered, failed] = [0, 0, 0];
    // The front end remembers for a moment that bytes came wrong, or none at all (actors/stall.ts).
    await this.#until(machine.now + LAYER_LIMITS.stallMs + 1_000, () => false);
    for (const mount of this.#world.kernel.mounts.filter((one) => this.#isOfLiving(one))) {
      for (const [at, loop] of mount.devices.entries()) {
        const { size } = loop;
        // Who believes an attacker gets what he has.
        if (this.#roots.isForged(loop) || this.#roots.isAttackers(mount)) continue;
        for (let block = 0; block < size / 65_536; block += 2) {
          asked += 1;
          this.#read(mount, at, block, Math.min(block + 1, size / 65_536 - 1), (ok) => {
            answered += 1;
            if (!ok) failed += 1;
          });
        }
      }
    }
    await this.#until(machine.now + PATIENCE_MS, () => answered === asked);
    machine.check(answered === asked, () => 'reads wait for ever');
    machine.check(failed === 0, () => `${failed} of ${asked} reads fail although all is well again`);
  }

  /** Where all blocks are present and stay, each flat image gets its verdict. */
  async #proveAll(): Promise<void> {
    const machine = this.#machine;
    const { plan } = this.#world;
    // Unread blocks are still absent, and evicted ones put proofs off.
    if (plan.cacheShare !== undefined || plan.two) return;
    const end = machine.now + PATIENCE_MS;
    // An image whose blobs are not what its config says can be whole by those of another one; its own prove nothing.
    const attackers = new Set(
      this.#world.images.filter(({ isAttackers }) => isAttackers).map(({ manifest }) => manifest),
    );
    for (;;) {
      const status = await this.#status();
      const mounted = new Set(status?.mounts.map(({ manifest }) => manifest));
      const open = status?.images.find(
        ({ trust, layers, manifest }) =>
          trust === 'unproven' &&
          mounted.has(manifest) &&
          !attackers.has(manifest) &&
          layers.every(({ state }) => state === 'complete' || state === 'handed-over'),
      );
      if (status !== undefined && open === undefined) return;
      machine.check(machine.now < end, () => `${open?.ref} is complete and not proven`);
      await this.#until(machine.now + 1_000, () => false);
    }
  }

  /** The black box has kept what the log tells of. */
  async #keepAll(): Promise<void> {
    const machine = this.#machine;
    if (this.#world.plan.two) return;
    const { blackBox } = this.#world;
    const end = machine.now + PATIENCE_MS;
    for (let problem = blackBox.problem(); problem !== undefined; problem = blackBox.problem()) {
      if (machine.now >= end) {
        const sentence = blackBox.problem(true);
        machine.check(sentence === undefined, () => sentence ?? '');
        return;
      }
      await this.#until(machine.now + 1_000, () => false);
    }
  }

  async #takeDown(): Promise<void> {
    const machine = this.#machine;
    this.#wantsUp = false;
    // Readers close their open files.
    await this.#until(machine.now + 3_000, () => false);
    const status = await this.#status();
    for (const { dir } of status?.mounts ?? []) {
      let code = '';
      this.#call('unmount', { dir }, (_, answer) => {
        code = answer;
      });
      await this.#until(machine.now + 70_000, () => code !== '');
      machine.check(code === 'ok', () => `unmount of ${dir} ends with ${code || 'no answer'}`);
    }
    this.#call('down', { force: false }, () => {});
    const isDown = () => this.#machine.processes.size === 1;
    await this.#until(machine.now + 60_000, isDown);
    machine.check(isDown(), () => {
      const left = [...machine.processes.values()].map(({ name }) => name);
      return `down leaves processes: ${left.join(', ')}`;
    });
  }

  #checkEnd(): void {
    const machine = this.#machine;
    const { kernel, disk } = this.#world;
    machine.check(
      kernel.mounts.every((mount) => this.#world.plan.two && !this.#isOfLiving(mount)),
      () => `left mounted: ${kernel.mounts.map(({ point }) => point).join(', ')}`,
    );
    machine.check(
      this.#world.plan.two || kernel.loops.size === 0,
      () => `left loops: ${[...kernel.loops.values()].map(({ label }) => label).join(', ')}`,
    );
    for (const [path] of disk.files(ROOT))
      machine.check(!path.endsWith('.draft'), () => `left behind: ${path}`);
    // The engine made every one of them. A power cut may undo the removal of an empty folder.
    if (!this.#world.plan.two && (machine.met['power cuts'] ?? 0) === 0)
      for (const name of disk.children('/sim/mnt')) machine.check(false, () => `left behind: folder ${name}`);
    const state = this.#fold();
    machine.check(
      state.mounts.size === 0,
      () => `the log has mounts: ${[...state.mounts.values()].map(({ dir }) => dir).join(', ')}`,
    );
    for (const [diffId, { present }] of state.layers) {
      // With two engines the owner of a device is unknown.
      if (this.#world.plan.two) continue;
      const file = this.#world.device(ROOT, diffId);
      for (const [block, bit] of present.entries())
        machine.check(
          bit === 0 || file?.blocks?.[block] === this.#world.checked(diffId),
          () => `the log has block ${block} of ${diffId} present, and it is not right`,
        );
    }
    machine.check(currentProcess() === undefined, () => 'the world runs inside a process');
  }
}

/** The content of a mount's metadata device. */
function flatOf(mount: SimMount | undefined): Buffer | undefined {
  const backing = mount?.type === 'erofs' ? mount.metadata?.backing : undefined;
  return backing?.kind === 'disk' ? backing.file.content : undefined;
}
