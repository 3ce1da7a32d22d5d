/**
 * The supervisor: the one process of a node that starts the others, holds the FUSE descriptor, mounts and unmounts,
 * and answers the API. It never touches a block: reads go through the front end (src/front-end) and survive its restarts.
 */
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { availableParallelism, hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { NatsConnection } from '@nats-io/nats-core';
import { createLog } from '../process/log.ts';
import { isWhole } from '../../actors/layer-life.ts';
import type { ImageStatus, ProcessStatus, Status } from '../../schemas/api.ts';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import type { TrustPolicy } from '../../schemas/trust.ts';
import type { FrontNotice, FrontStatus } from '../../schemas/front.ts';
import { subjects } from '../../schemas/subjects.ts';
import { busAway, readEndpoint } from '../client/client.ts';
import { type BusAddress, ask, busOnDemand, connectBus, decode } from '../bus/connection.ts';
import { BUS_ROLES, type BusRole, type BusUsers } from '../bus/roles.ts';
import { awaySentence, watchBus } from '../bus/health.ts';
import { askLocal, serveLocal } from '../bus/local-socket.ts';
import { reapContainers } from '../container/reap.ts';
import { abortConnection, connectionOf } from '../fuse/connection.ts';
import { findMount, unmount } from '../kernel/mount.ts';
import { RegistryClient } from '../registry/client.ts';
import type { ProviderSettings } from '../registry/credential-providers.ts';
import type { SnapshotterOptions } from '../process/snapshotter-options.ts';
import type { EventLog } from '../store/event-log.ts';
import { Layout, removeDrafts, writeWhole } from '../store/layout.ts';
import { localApi, serveApi } from './api.ts';
import { Chains } from './images/chains.ts';
import { Child, type ChildOptions, describeEnd, realChildPorts } from '../process/child.ts';
import { CacheKeeper, NO_CACHE } from './layers/cache-keeper.ts';
import { Conditions } from '../process/conditions.ts';
import { Devices } from './layers/devices.ts';
import { Discards } from './mounts/discards.ts';
import { Fetchers } from './processes/fetchers.ts';
import { FrontEnds } from './processes/front-ends.ts';
import { giveHeapRoom, Tidying } from '../process/heap.ts';
import { Images } from './images/images.ts';
import { Leftovers } from './mounts/leftovers.ts';
import { takeLockInTurn } from '../store/lock.ts';
import { type NodeLog, openNodeLog } from './log/node-log.ts';
import { operations } from './operations.ts';
import { rootId } from './log/ownership.ts';
import { Trust } from './images/trust.ts';
import { Mounts } from './mounts/mounts.ts';
import { startNats, watchNats } from '../process/nats-server.ts';
import { dropFilePages } from './mounts/file-pages.ts';
import { Indexers } from './images/indexers.ts';
import { newestBlocks } from './layers/newest-blocks.ts';
import { Scrubs } from './layers/scrubs.ts';
import { Startups } from './images/startups.ts';
import { ProcessEvents } from './processes/process-events.ts';
import { type RegistrySettings, writeSettings } from '../process/settings.ts';

export interface SupervisorOptions {
  root: string;
  /** URL of a NATS with JetStream; a private nats-server is started without. */
  nats?: string | undefined;
  /** File with the users of this node's roles on that NATS; without, the URL's is all of them. */
  natsUsers?: string | undefined;
  node: string;
  transport: 'kernel' | 'fuse-native';
  /** Fetcher processes; one a core by default. */
  workers?: number | undefined;
  /** Jobs side by side in one fetcher. */
  slots?: number | undefined;
  readDeadlineMs: number;
  /** A process of the engine that does not answer for this long is killed and started again, ms. */
  hangMs: number;
  /** Bytes of events that are kept, about; `LOG_LIMIT` by default. */
  logLimit?: number | undefined;
  logLevel: string;
  /** containerd's snapshotter; none without. */
  snapshotter?: SnapshotterOptions | undefined;
  /** The kubelet's credential providers, to be run by this engine as well. */
  credentialProviders?: ProviderSettings | undefined;
  registry: RegistrySettings;
  /** Bytes that the cache may take; without, what the disk has. */
  cacheLimit?: number | undefined;
  /** Which sidecars may be used before they are proven; `always` by default. */
  trust?: TrustPolicy | undefined;
  /** Whether processes that have nothing to do yet rehearse starts (rehearsal.ts); by default they do. */
  rehearses?: boolean | undefined;
}

/** The front end has this long to say how it is, ms. */
const FRONT_STATUS_MS = 4_000;
/** What is still under way to NATS at the end has this long, ms. */
const DRAIN_MS = 2_000;
/** An end that takes longer is cut short, ms: what waits fails, and every process is killed. */
const END_MS = 30_000;
const VERSION = (
  JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }
).version;

/**
 * Runs an engine until SIGTERM, SIGINT or the API's `down`. Errors before it is ready: `conflict` (a second engine),
 * `environment` (something is missing on the machine), `unavailable` (the given NATS).
 */
export async function runSupervisor(options: SupervisorOptions): Promise<void> {
  giveHeapRoom();
  const supervisor = new Supervisor(options);
  await supervisor.run();
}

class Supervisor {
  readonly #options: SupervisorOptions;
  readonly #layout: Layout;
  readonly #log;
  readonly #names;
  readonly #ports = realChildPorts();
  readonly #fronts: FrontEnds;
  readonly #fetchers: Fetchers;
  readonly #tidying = new Tidying();
  #nats: Child | undefined;
  #snapshotter: Child | undefined;
  readonly #facts: ProcessEvents;
  readonly #startedAt = new Date();
  readonly #conditions: Conditions;
  readonly #ended = Promise.withResolvers<void>();
  readonly #events = Promise.withResolvers<EventLog>();
  /** Begins the label of every loop device of this engine. */
  readonly #label: string;
  #onServing: (move: boolean) => void = () => {};
  #lastServed: FrontStatus = {
    layers: [],
    workers: [],
    queued: { demand: 0, prefetch: 0 },
    cache: NO_CACHE,
    degraded: [],
  };
  #stopping = false;
  #isLimited = false;

  constructor(options: SupervisorOptions) {
    this.#options = options;
    this.#layout = new Layout(options.root);
    this.#log = createLog('supervisor', options.logLevel);
    this.#conditions = new Conditions(this.#log);
    this.#names = subjects(options.node);
    // An engine may be replaced while it starts, before anybody waits for its end.
    this.#ended.promise.catch(() => {});
    const { root, transport, readDeadlineMs, hangMs } = options;
    this.#label = `cofa:${createHash('sha256').update(root).digest('hex').slice(0, 12)}`;
    const events = this.#events;
    this.#facts = new ProcessEvents({
      append: async (event) => (await events.promise).append(this.#names.event('engine', 'main'), event),
      now: Date.now,
      log: this.#log,
    });
    const shared = {
      layout: this.#layout,
      conditions: this.#conditions,
      ports: this.#ports,
      hangMs,
    };
    this.#fronts = new FrontEnds({
      ...shared,
      log: this.#log,
      transport,
      readDeadlineMs,
      watchers: this.#watchers('front-end', 'front-end'),
      onServing: (move) => this.#onServing(move),
    });
    this.#fetchers = new Fetchers({
      ...shared,
      count: options.workers ?? availableParallelism(),
      label: this.#label,
      watchers: (name) => this.#watchers('fetcher', name),
    });
  }

  async run(): Promise<void> {
    // An engine that is replaced while it starts ends then: what its start waits for may never come.
    await Promise.race([this.#start(), this.#ended.promise]);
    await this.#ended.promise;
    process.exit(0);
  }

  async #start(): Promise<void> {
    const { root, node } = this.#options;
    const layout = this.#layout;
    await layout.prepare();
    await takeLockInTurn(layout.lock(), root, () => {
      const connection = connectionOf(layout.devices());
      if (connection !== undefined) abortConnection(connection);
    });
    await rm(layout.endpoint(), { force: true });
    await removeDrafts(layout);
    const label = this.#label;
    const steps: Record<string, number> = { process: Math.round(performance.now()) };
    let lastStep = performance.now();
    const step = (name: string) => {
      steps[name] = Math.round(performance.now() - lastStep);
      lastStep = performance.now();
    };
    const [leftovers, users] = await Promise.all([this.#findLeftovers(), this.#startNats()]);
    step('nats');
    const { supervisor: nats, ...children } = users;
    const bus = await connectBus(nats, { name: 'cofa-supervisor' });
    const packs = busOnDemand(users.packs, 'cofa-supervisor-packs');
    watchBus(bus, {
      onAway: () => this.#conditions.set('nats', awaySentence(nats.url)),
      onBack: () => {
        this.#conditions.clear('nats');
        // What the front end had to say meanwhile is lost: it says it again when it is asked to serve its layers.
        if (!this.#stopping) this.#onServing(false);
      },
    });
    const registrySettings = await this.#registrySettings();
    const names = this.#names;
    const devices = new Devices({ bus, names, layout, label, log: this.#log, leftovers });
    this.#onServing = (move) => {
      // A front end that takes another's place compares first what that one has not.
      const doubts = scrubs?.sayDoubts().catch(() => {});
      Promise.resolve(doubts)
        .then(() => devices.reopenAll(move))
        .catch((error: unknown) => {
          this.#log.error({ error }, 'the front end was not told all that it has to serve');
        });
    };
    let scrubs: Scrubs | undefined;
    let frontStarted: Promise<void> | undefined;
    const startFront = async (epoch: number) => {
      names.epoch = epoch;
      await this.#fronts.open();
      await writeSettings({
        root,
        node,
        nats: { url: nats.url },
        users: children,
        epoch,
        ...(this.#options.nats === undefined ? { natsFiles: layout.in('nats') } : {}),
        transport: this.#options.transport,
        resend: this.#fronts.resend,
        slots: this.#options.slots ?? 4,
        readDeadlineMs: this.#options.readDeadlineMs,
        logLevel: this.#options.logLevel,
        registry: registrySettings,
        cacheLimit: this.#options.cacheLimit,
        rehearses: this.#rehearses,
      });
      await this.#fronts.start();
    };
    const { events, owner, live, keeper } = await this.#openLog(bus, (epoch) => {
      // It loads while this process reads the log.
      frontStarted = startFront(epoch);
      frontStarted.catch(() => {});
    });
    step('log');
    // Also while this engine starts: its front end can never get ready then.
    const own: { mounts?: Mounts; trust?: Trust } = {};
    void owner.lost.then((error) => this.#endReplaced(error, own, bus));
    this.#events.resolve(events);
    this.#facts.open();

    const completeLayers = async () => completeOf(await this.#frontStatus(bus));
    const registry = new RegistryClient({ ...registrySettings, log: this.#log });
    const startups = new Startups({ bus, packs, names, registry, log: this.#log });
    const indexers = new Indexers(root, this.#rehearses);
    const images = new Images(
      {
        layout,
        log: this.#log,
        events,
        names,
        registry,
        devices,
        startups,
        indexers,
        label,
        leftovers,
        trust: this.#options.trust ?? 'always',
        completeLayers,
      },
      live.state,
    );
    devices.onDirect = (diffId) => void images.changedDirect(diffId);
    const chains = new Chains({ images, log: this.#log, now: Date.now });
    const trust = new Trust({
      layout,
      log: this.#log,
      images,
      conditions: this.#conditions,
      completeLayers,
      now: () => performance.now(),
    });
    const newId = () => randomBytes(8).toString('hex');
    const mounts = new Mounts({
      layout,
      log: this.#log,
      events,
      names,
      images,
      newId,
      onRestored: (dir) => this.#conditions.clear(`restore:${dir}`),
    });

    const scrub = new Scrubs({
      bus,
      names,
      log: this.#log,
      images,
      devices,
      dropPages: (diffId, ranges) => dropFilePages(diffId, ranges, { layout, images, mounts }),
    });
    if (live.state.crashed) scrub.doubts = await newestBlocks(bus, names, events.epoch ?? 0);
    scrubs = scrub;
    bus.subscribe(names.notice, {
      callback: (error, message) => {
        if (error !== null) return;
        const notice = decode<FrontNotice>(message.data);
        if (notice.kind === 'whole') trust.poke();
        else if (notice.kind === 'complete') void devices.handOver(notice.diffId);
        else if (notice.kind === 'take-back') void devices.takeBack(notice.diffId);
        else if (notice.kind === 'checked') scrub.compared(notice.diffId);
        else this.#conditions.set(`corrupt:${notice.diffId}`, notice.message);
      },
    });
    own.mounts = mounts;
    own.trust = trust;
    await frontStarted;
    this.#fetchers.start();
    await scrub
      .sayDoubts()
      .catch((error: unknown) => this.#log.error({ error }, 'the newest blocks are not compared'));
    step('front');

    const found = leftovers.size;
    const restored = await mounts.restore(live.state);
    for (const { dir, sentence } of restored.failures) this.#conditions.set(`restore:${dir}`, sentence);
    for (const dir of restored.lost) {
      const sentence = `${dir} was mounted anew: who used the mount that was there reads errors`;
      this.#conditions.set(`lost:${dir}`, sentence);
    }
    trust.poke();
    const reaped = await reapContainers({
      root,
      now: new Date(),
      unmountImage: async (dir) => {
        await mounts.unmount(dir);
      },
    });
    for (const { id, error } of reaped) {
      if (error !== undefined) this.#log.warn({ container: id, error }, 'what a container left stays');
    }

    const discards = new Discards({
      folder: layout.discarded(),
      mounts,
      conditions: this.#conditions,
      log: this.#log,
    });
    discards.sweep();

    const { loops: dismissed, dirs } = await leftovers.dismissRest(
      this.#log,
      (dir) => mounts.has(dir),
      async () => new Set((await mounts.past()).keys()),
    );
    if (dirs.length > 0) await mounts.removeFolders(dirs);
    step('mounts');
    this.#log.info({ ...restored, loops: found, dismissed, ms: steps }, 'mounts are back');

    const cache = new CacheKeeper({
      bus,
      names,
      layout,
      log: this.#log,
      images,
      mounts,
      status: async () => (await this.#frontStatus(bus)).cache,
    });
    void cache.begin();

    const status = async (): Promise<Status> => {
      const served = await this.#served(bus);
      return {
        node,
        version: VERSION,
        root,
        nats: nats.url,
        transport: this.#options.transport,
        startedAt: this.#startedAt.toISOString(),
        ready: this.#fronts.isReady,
        log: keeper.report(),
        degraded: [...new Set([...this.#conditions.list(), ...served.degraded])],
        ...(this.#options.snapshotter === undefined ? {} : { snapshotter: this.#options.snapshotter.socket }),
        mounts: mounts.list(),
        images: imageStatus(images, served),
        cache: served.cache,
        processes: this.#processes(),
      };
    };
    /** There has been work. */
    const working = new AbortController();
    let rehearsed: Promise<void> | undefined;
    const handlers = operations({
      root,
      images,
      mounts,
      discards,
      chains,
      trust,
      cache,
      scrubs: scrub,
      status,
      refuseWhenStopping: () => this.#refuseWhenStopping(),
      onMount: () => working.abort(),
      onWork: () => this.#tidying.worked(),
      upgrade: async () => {
        const frontEnd = await this.#fronts.upgrade();
        return { frontEnd, fetchers: await this.#fetchers.upgrade() };
      },
      detach: (force) => this.#detach(mounts, force),
      stop: () => stop(),
    });
    serveApi(bus, names, handlers, this.#log, owner.mayAnswer);
    const away = () => (this.#conditions.has('nats') ? busAway(nats.url) : undefined);
    const local = localApi(handlers, this.#log, owner.mayAnswer, away);
    await serveLocal(layout.socket('supervisor'), local).catch((error: unknown) => {
      this.#log.warn({ error }, 'status cannot be asked for while NATS is away');
    });
    const stop = async () => {
      working.abort();
      indexers.close();
      cache.stop();
      scrub.close();
      this.#limitEnd();
      this.#facts.close();
      await Promise.all([
        Promise.race([Promise.all([trust.close(), rehearsed]), sleep(DRAIN_MS)]),
        discards.settled(DRAIN_MS),
      ]);
      await rm(layout.endpoint(), { force: true });
      await events.append(names.event('engine', 'main'), { type: 'engine.stopped' }).then(
        ({ seq }) => keeper.close(seq, DRAIN_MS),
        (error: unknown) => this.#log.warn({ error }, 'the log did not take the end'),
      );
      // A NATS that is stuck is not waited for.
      await Promise.race([bus.drain().catch(() => {}), sleep(DRAIN_MS)]);
      await registry.close();
      await this.#stopChildren();
      this.#ended.resolve();
    };
    const onSignal = () => {
      // `down` is at work already.
      if (this.#stopping) return;
      this.#stopping = true;
      this.#limitEnd();
      void mounts
        .detachAll(true)
        .catch((error: unknown) => this.#log.error({ error }, 'mounts stay'))
        .then(stop);
    };
    process.on('SIGTERM', onSignal);
    process.on('SIGINT', onSignal);

    await writeWhole(
      layout.endpoint(),
      Buffer.from(
        JSON.stringify(
          { v: 1, node, pid: process.pid, nats: users.api, log: users.reader, packs: users.packs, root },
          null,
          2,
        ),
      ),
    );
    keeper.start();
    this.#startSnapshotter();
    // A start that has a pack should not wait for a connection.
    void packs().catch(() => {});
    this.#log.info({ root, node, nats: nats.url }, 'ready');
    if (this.#rehearses && mounts.list().length === 0) {
      rehearsed = this.#rehearse(working.signal).then(() => {
        if (!working.signal.aborted) indexers.prepare();
      });
    }
  }

  get #rehearses(): boolean {
    return this.#options.rehearses !== false;
  }

  /** A first start would spend half of its processor time on code that runs for the first time. */
  async #rehearse(signal: AbortSignal): Promise<void> {
    try {
      const { rehearseStart } = await import('./rehearse.ts');
      await rehearseStart({ root: this.#options.root, name: 'supervisor', signal });
      if (!signal.aborted) this.#tidying.now();
    } catch (error) {
      this.#log.warn({ error }, 'the first start will be slower: its rehearsal failed');
    }
  }

  /** What an engine left that was killed. Its dead FUSE mount goes; its loops, and what stands on them, stay. */
  async #findLeftovers(): Promise<Leftovers> {
    const leftovers = await Leftovers.find(this.#layout, this.#label);
    const devices = this.#layout.devices();
    while (findMount(devices) !== undefined) await unmount(devices, { lazy: true });
    return leftovers;
  }

  /** A desk for credentials is kept where some come in. */
  async #registrySettings(): Promise<RegistrySettings> {
    const { registry, snapshotter, credentialProviders } = this.#options;
    if (snapshotter?.imageService === undefined && credentialProviders === undefined) return registry;
    const { openDesk } = await import('../registry/credential-desk.ts');
    const credentialSocket = this.#layout.socket('credentials');
    await openDesk(credentialSocket, {
      providers: credentialProviders,
      keyring: `${this.#label}:credentials`,
      now: Date.now,
      log: this.#log,
    });
    return { ...registry, credentialSocket };
  }

  async #openLog(bus: NatsConnection, onOwned: (epoch: number) => void): Promise<NodeLog> {
    const { root, node, transport, nats, logLimit } = this.#options;
    const host = hostname();
    return await openNodeLog({
      bus,
      names: this.#names,
      node,
      onOwned,
      limit: logLimit,
      files: nats === undefined ? this.#layout.in('nats') : undefined,
      conditions: this.#conditions,
      presence: { host, pid: process.pid, folder: root },
      started: {
        type: 'engine.started',
        pid: process.pid,
        version: VERSION,
        transport,
        root: await rootId(this.#layout),
        host,
      },
      log: this.#log,
    });
  }

  /** Another engine owns the node now: nothing more is answered or written, and what this one mounted goes. */
  async #endReplaced(
    error: CofaError,
    own: { mounts?: Mounts; trust?: Trust },
    bus: NatsConnection,
  ): Promise<void> {
    this.#log.fatal({ error }, 'another engine has taken over this node: this one ends');
    this.#stopping = true;
    const endpoint = await readEndpoint(this.#options.root).catch(() => undefined);
    if (endpoint?.pid === process.pid) await rm(this.#layout.endpoint(), { force: true });
    void own.trust?.close();
    await own.mounts?.abandon();
    await bus.close().catch(() => {});
    await this.#stopChildren();
    this.#ended.reject(error);
  }

  /** Past NATS, which may be away. A front end that is just being started has nothing to say. */
  async #frontStatus(bus: NatsConnection): Promise<FrontStatus> {
    try {
      return await askLocal<FrontStatus>(this.#layout.socket('front-end'), 'status', FRONT_STATUS_MS);
    } catch {
      return await ask<FrontStatus>(bus, this.#names.front('status'), {}, FRONT_STATUS_MS);
    }
  }

  #refuseWhenStopping(): void {
    if (this.#stopping) throw new CofaError('not-running', 'the engine is stopping');
  }

  async #detach(mounts: Mounts, force: boolean): Promise<void> {
    this.#stopping = true;
    const busy = await mounts.detachAll(force).catch((error: unknown) => {
      this.#stopping = false;
      throw error;
    });
    if (busy.length > 0) {
      this.#stopping = false;
      throw new CofaError('busy', `in use and not complete yet: ${busy.join(', ')}`, {
        hint: 'end what uses them, wait until the images are complete (cofa status), or: cofa down --force',
      });
    }
  }

  async #startNats(): Promise<BusUsers> {
    if (this.#options.nats !== undefined) {
      const url = new URL(this.#options.nats);
      const user = url.username === '' ? undefined : decodeURIComponent(url.username);
      const pass = url.password === '' ? undefined : decodeURIComponent(url.password);
      url.username = '';
      url.password = '';
      const address = { url: url.toString().replace(/\/$/, ''), user, pass };
      const { natsUsers, node } = this.#options;
      if (natsUsers !== undefined) {
        const { readNodeUsers, usersOn } = await import('../bus/user-files.ts');
        return usersOn(address.url, node, await readNodeUsers(natsUsers));
      }
      return Object.fromEntries(BUS_ROLES.map((role) => [role, address])) as Record<BusRole, BusAddress>;
    }
    const nats = await startNats(this.#layout, this.#ports, {
      ...this.#watchers('nats-server', 'nats-server'),
      onGiveUp: () => this.#conditions.set('nats-server', 'nats-server does not start'),
    });
    const { users, child, repaired } = nats;
    if (repaired > 0)
      this.#log.warn(
        { bytes: repaired },
        'the end of the log was damaged and is cut off: what is lost was not synced',
      );
    watchNats(nats, {
      log: this.#log,
      hangMs: this.#options.hangMs,
      clock: this.#ports.clock,
    }).catch((error: unknown) => {
      this.#log.warn({ error }, 'nats-server is not watched');
    });
    this.#nats = child;
    return users;
  }

  /** What the front end has to tell; while none answers, what was told last. */
  async #served(bus: NatsConnection): Promise<FrontStatus> {
    try {
      const served = await this.#frontStatus(bus);
      this.#lastServed = served;
      return served;
    } catch (error) {
      if (toErrorRecord(error).code !== 'unavailable') throw error;
      const degraded = ['the front end does not answer at the moment: its figures are old'];
      return { ...this.#lastServed, workers: [], degraded };
    }
  }

  #watchers(
    role: Exclude<ProcessStatus['role'], 'supervisor'>,
    name: string,
  ): Required<Pick<ChildOptions, 'onStart' | 'onExit'>> {
    return {
      onStart: (pid) => this.#facts.add({ type: 'process.started', role, name, pid }),
      onExit: ({ pid, code, signal, reason }) => {
        if (this.#stopping) return;
        this.#log.warn({ process: name, pid }, describeEnd({ code, signal, reason }));
        this.#facts.add({
          type: 'process.ended',
          role,
          name,
          pid,
          ...(code === null ? {} : { code }),
          ...(signal === null ? {} : { signal }),
          ...(reason === undefined ? {} : { reason }),
        });
      },
    };
  }

  /** From now on the end has its time. */
  #limitEnd(): void {
    if (this.#isLimited) return;
    this.#isLimited = true;
    setTimeout(() => {
      this.#log.error('the end takes too long: what waits fails, and every process is killed');
      try {
        this.#fronts.close();
      } finally {
        // The kernel kills the other processes with this one.
        process.kill(process.pid, 'SIGKILL');
      }
    }, END_MS);
  }

  #startSnapshotter(): void {
    const { root, snapshotter } = this.#options;
    if (snapshotter === undefined) return;
    const child = new Child({
      role: 'snapshotter',
      name: 'snapshotter',
      command: process.execPath,
      args: [
        fileURLToPath(new URL('../snapshotter/main.ts', import.meta.url)),
        root,
        JSON.stringify(snapshotter),
      ],
      log: this.#layout.log('snapshotter'),
      link: { hangMs: this.#options.hangMs, onReady: () => this.#conditions.clear('snapshotter') },
      ports: this.#ports,
      ...this.#watchers('snapshotter', 'snapshotter'),
      onGiveUp: () => {
        const sentence = `the snapshotter does not start: containerd cannot use ${snapshotter.socket}`;
        this.#conditions.set('snapshotter', sentence);
      },
    });
    this.#snapshotter = child;
    child.start();
  }

  #processes(): Status['processes'] {
    const me = {
      role: 'supervisor' as const,
      name: 'supervisor',
      pid: process.pid,
      state: 'running' as const,
      since: this.#startedAt.toISOString(),
      restarts: 0,
    };
    const own = [this.#nats, this.#snapshotter].flatMap((child) =>
      child === undefined ? [] : child.status(),
    );
    return [me, ...own, ...this.#fronts.status(), ...this.#fetchers.status()].map((status) => {
      const rssBytes = residentBytes(status.pid);
      return rssBytes === undefined ? status : { ...status, rssBytes };
    });
  }

  /**
   * The front end answers who waits and appends what has come. Then the FUSE connection is aborted, so
   * that no read waits for a process that is gone. NATS goes last.
   */
  async #stopChildren(): Promise<void> {
    await this.#snapshotter?.stop();
    await Promise.all([this.#fronts.stop(), this.#fetchers.stop()]);
    await this.#nats?.stop();
  }
}

function residentBytes(pid: number): number | undefined {
  try {
    const pages = readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1];
    return Number(pages) * 4096;
  } catch {
    return undefined;
  }
}

function completeOf(served: FrontStatus): Map<string, number> {
  const complete = served.layers.filter(({ state }) => isWhole(state));
  return new Map(complete.map(({ diffId, bytes }) => [diffId, bytes.total]));
}

function imageStatus(images: Images, served: FrontStatus): ImageStatus[] {
  const layers = new Map(served.layers.map((layer) => [layer.diffId, layer]));
  return [...images.all()].map((image) => {
    const mine = (image.prepared?.devices ?? []).flatMap(({ diffId }) => {
      const layer = layers.get(diffId);
      return layer === undefined ? [] : [layer];
    });
    const sum = (pick: (layer: FrontStatus['layers'][number]) => number) =>
      mine.reduce((n, layer) => n + pick(layer), 0);
    const state = image.host.state;
    return {
      ref: image.resolved.ref,
      manifest: image.manifest,
      state:
        state === 'failed'
          ? ('failed' as const)
          : image.prepared !== undefined
            ? ('ready' as const)
            : state === 'preparing'
              ? ('indexing' as const)
              : ('resolving' as const),
      ...(image.prepared === undefined ? {} : { origin: image.prepared.origin, trust: image.proof }),
      ...(image.prepared?.passed === undefined ? {} : { passed: image.prepared.passed }),
      blocks: {
        absent: sum((layer) => layer.blocks.absent),
        fetching: sum((layer) => layer.blocks.fetching),
        present: sum((layer) => layer.blocks.present),
      },
      bytes: {
        total: sum((layer) => layer.bytes.total),
        present: sum((layer) => layer.bytes.present),
        fetched: sum((layer) => layer.bytes.fetched),
      },
      reads: { hits: sum((l) => l.hits), misses: sum((l) => l.misses), errors: sum((l) => l.errors) },
      layers: mine.map(({ diffId, state: layerState, blocks, bytes }) => ({
        diffId,
        state: layerState,
        blocks,
        bytes,
      })),
    };
  });
}
