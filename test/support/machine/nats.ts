/**
 * A simulated nats-server with JetStream, and the client's side of it as the engine uses it. Core messages are lost
 * when the server dies or a connection is cut; messages that a client publishes without a connection wait for the next
 * one. JetStream checks the expected sequence of a subject, knows message ids for two minutes, and acknowledges what it
 * has written. A power cut loses written messages that are not synced, from the end.
 */
import { errors, headers as newHeaders, type Msg, type MsgHdrs } from '@nats-io/nats-core';
import { BUS_ROLES, type BusRole, permissionsOf } from '../../../src/bus/roles.ts';
import { currentProcess, type Handle, type Machine, type SimProcess } from './machine.ts';

export interface StoredMessage {
  seq: number;
  subject: string;
  data: Uint8Array;
  headers: MsgHdrs | undefined;
  at: number;
  /** Folder of the engine that wrote it. */
  root: string | undefined;
}

interface Stream {
  config: Record<string, unknown> & { name: string; subjects: string[]; max_bytes: number };
  messages: StoredMessage[];
  lastSeq: number;
  /** So many of those messages are durable. */
  syncedSeq: number;
  /** The stream itself is on the disk. */
  isDurable: boolean;
  ids: Map<string, { seq: number; at: number }>;
}

/** What a JetStream API call gives: a result, or an error of the server. */
export class ApiError extends Error {
  readonly code: number;
  readonly status: number;
  constructor(code: number, status: number, description: string) {
    super(description);
    this.code = code;
    this.status = status;
  }
}

export interface NatsFaults {
  /** Time of a message from one client to another, ms; how much it varies. */
  delayMs: number;
  /** Per append: written, and its ack is lost. */
  loseAck: number;
  /** Appends fail: the disk is full. */
  isFull: boolean;
}

/** The files of one server, which outlive its processes. */
export class NatsStore {
  readonly streams = new Map<string, Stream>();

  /** Begins to sync the present messages; the returned function marks them as durable. */
  beginSync(): () => void {
    const ends = [...this.streams.values()].map((stream) => [stream, stream.lastSeq] as const);
    return () => {
      for (const [stream, seq] of ends) {
        stream.syncedSeq = Math.max(stream.syncedSeq, seq);
        stream.isDurable = true;
      }
    };
  }

  cut(random: { int(low: number, high: number): number }): number {
    let lost = 0;
    for (const [name, stream] of this.streams) {
      if (!stream.isDurable && random.int(0, 1) === 0) {
        this.streams.delete(name);
        continue;
      }
      const kept = random.int(stream.syncedSeq, stream.lastSeq);
      lost += stream.messages.filter(({ seq }) => seq > kept).length;
      stream.messages = stream.messages.filter(({ seq }) => seq <= kept);
      stream.lastSeq = Math.max(stream.messages.at(-1)?.seq ?? 0, stream.syncedSeq);
      stream.syncedSeq = stream.lastSeq;
      for (const [id, { seq }] of stream.ids) if (seq > kept) stream.ids.delete(id);
    }
    return lost;
  }
}

interface Subscription {
  connection: SimConnection;
  subject: string;
  callback: (error: Error | null, message: Msg) => void;
  isOpen: boolean;
}

export class NatsServer {
  readonly url: string;
  readonly store: NatsStore;
  readonly machine: Machine;
  faults: NatsFaults;
  isUp = false;
  /** Counts its processes. */
  life = 0;
  readonly connections = new Set<SimConnection>();
  readonly subscriptions = new Set<Subscription>();
  readonly consumers = new Set<SimConsumer>();

  constructor(machine: Machine, url: string, store: NatsStore, faults: NatsFaults) {
    this.machine = machine;
    this.url = url;
    this.store = store;
    this.faults = faults;
  }

  start(): void {
    this.isUp = true;
    this.life += 1;
    this.machine.trace(`nats at ${this.url} is up`);
  }

  stop(): void {
    if (!this.isUp) return;
    this.isUp = false;
    this.machine.trace(`nats at ${this.url} is down`);
    this.subscriptions.clear();
    this.consumers.clear();
    for (const connection of Array.from(this.connections)) connection.lost();
  }

  /** A client's request on its way: void when the server dies, or the client is cut off, before it arrives. */
  travel(run: () => void, connection?: SimConnection): void {
    const { life } = this;
    const link = connection?.link;
    this.machine.after(this.faults.delayMs * this.machine.random.next(), () => {
      if (!this.isUp || this.life !== life || (connection !== undefined && connection.link !== link)) {
        this.machine.meet('messages lost with NATS');
        return;
      }
      run();
    });
  }

  route(
    subject: string,
    data: Uint8Array,
    options: { reply?: string; headers?: MsgHdrs | undefined },
  ): number {
    let count = 0;
    for (const subscription of Array.from(this.subscriptions)) {
      if (!matches(subscription.subject, subject)) continue;
      count += 1;
      subscription.connection.deliver(subscription, subject, data, options);
    }
    return count;
  }

  // ── JetStream ──

  stream(name: string): Stream {
    const stream = this.store.streams.get(name);
    if (stream === undefined) throw new ApiError(10059, 404, 'stream not found');
    return stream;
  }

  append(
    subject: string,
    data: Uint8Array,
    options: {
      headers?: MsgHdrs | undefined;
      msgID?: string | undefined;
      expected?: number | undefined;
      root?: string | undefined;
    },
  ): { seq: number; duplicate: boolean } {
    const stream = [...this.store.streams.values()].find(({ config }) =>
      config.subjects.some((pattern) => matches(pattern, subject)),
    );
    if (stream === undefined) throw new ApiError(10060, 503, 'no stream');
    const { msgID } = options;
    const known = msgID === undefined ? undefined : stream.ids.get(msgID);
    if (known !== undefined && this.machine.now - known.at < 120_000) {
      this.machine.meet('duplicates recognised');
      return { seq: known.seq, duplicate: true };
    }
    const last = stream.messages.findLast((message) => message.subject === subject)?.seq ?? 0;
    if (options.expected !== undefined && options.expected !== last) {
      this.machine.meet('wrong last sequence');
      throw new ApiError(10071, 400, `wrong last sequence: ${last}`);
    }
    if (this.faults.isFull) throw new ApiError(10077, 503, 'insufficient storage resources available');
    const seq = ++stream.lastSeq;
    const head = options.headers ?? (msgID === undefined ? undefined : newHeaders());
    if (msgID !== undefined) head?.set('Nats-Msg-Id', msgID);
    const message: StoredMessage = {
      seq,
      subject,
      data,
      headers: head,
      at: this.machine.now,
      root: options.root,
    };
    stream.messages.push(message);
    if (msgID !== undefined) stream.ids.set(msgID, { seq, at: this.machine.now });
    this.machine.trace(`log ${seq} ${subject}`);
    this.onAppend?.(message);
    for (const consumer of Array.from(this.consumers)) consumer.offer(stream.config.name, message);
    return { seq, duplicate: false };
  }

  /** Engines, by their folder, that cannot reach the server. */
  readonly unreachable = new Set<string>();

  reaches(process: SimProcess): boolean {
    return this.isUp && !this.unreachable.has(process.root ?? '');
  }

  /** Cuts an engine off. */
  cutOff(root: string): void {
    this.unreachable.add(root);
    for (const connection of Array.from(this.connections))
      if (connection.process.root === root) connection.lost();
  }

  /** Makes a second message beside a published one: a mistake that is built in. */
  twin: ((subject: string, bytes: Uint8Array) => Uint8Array | undefined) | undefined;

  /** Sees every stored record. */
  onAppend: ((message: StoredMessage) => void) | undefined;
}

let inbox = 0;
const nextInbox = (prefix: string): string => `${prefix}.${(inbox += 1)}`;

/** A client's connection. Implements the part of NatsConnection that src/bus and its users call. */
export class SimConnection {
  readonly server: NatsServer;
  readonly process: SimProcess;
  /** Counts reconnects. */
  link = 1;
  isConnected = true;
  #closed = false;
  readonly #subscriptions = new Set<Subscription>();
  readonly #statusListeners: Array<(status: { type: string; server?: string }) => void> = [];
  readonly #closing = Promise.withResolvers<void>();

  /** The user of a private nats-server; without, all is allowed. */
  readonly #role: BusRole | undefined;
  readonly #inbox: string;

  constructor(server: NatsServer, process: SimProcess, who: { user?: string; inboxPrefix?: string } = {}) {
    this.server = server;
    this.process = process;
    this.#role = BUS_ROLES.find((role) => role === who.user);
    this.#inbox = who.inboxPrefix ?? '_INBOX';
    server.connections.add(this);
    process.onEnd(() => this.#leave());
  }

  get info(): { max_payload: number; version: string } {
    return { max_payload: 8 << 20, version: '2.9.10' };
  }

  /** nats-server would refuse subjects outside of the user's rights. */
  check(kind: 'publish' | 'subscribe', subject: string): void {
    if (this.#role === undefined) return;
    const permissions = permissionsOf(this.#role);
    const isIn = (patterns: readonly string[]) => patterns.some((pattern) => matches(pattern, subject));
    if (isIn(permissions[kind]) && !(kind === 'publish' && isIn(permissions.denied ?? []))) return;
    this.server.machine.fail(`${this.#role} may not ${kind} ${subject}`);
  }

  subscribe(subject: string, options: { callback: Subscription['callback'] }): { unsubscribe(): void } {
    this.check('subscribe', subject);
    const subscription: Subscription = {
      connection: this,
      subject,
      callback: options.callback,
      isOpen: true,
    };
    this.#subscriptions.add(subscription);
    // A subscription without a connection begins with the next one.
    if (this.isConnected)
      this.#send(() => {
        if (subscription.isOpen) this.server.subscriptions.add(subscription);
      });
    return {
      unsubscribe: () => {
        subscription.isOpen = false;
        this.#subscriptions.delete(subscription);
        this.server.subscriptions.delete(subscription);
      },
    };
  }

  publish(subject: string, data?: unknown, options: { reply?: string; headers?: MsgHdrs } = {}): void {
    // A process that has just killed itself sends nothing more in the same event.
    if (!this.process.isAlive) return;
    if (this.#closed) throw new errors.ClosedConnectionError();
    this.check('publish', subject);
    const bytes = toBytes(data);
    const copy = this.server.twin?.(subject, bytes);
    this.#send(() => void this.server.route(subject, bytes, options));
    if (copy !== undefined) this.#send(() => void this.server.route(subject, copy, options));
  }

  request(
    subject: string,
    data?: unknown,
    options: { timeout?: number; headers?: MsgHdrs } = {},
  ): Promise<Msg> {
    if (this.#closed) return Promise.reject(new errors.ClosedConnectionError());
    this.check('publish', subject);
    const bytes = toBytes(data);
    const { promise, resolve, reject } = Promise.withResolvers<Msg>();
    const reply = nextInbox(this.#inbox);
    const answers = this.subscribe(reply, {
      callback: (_, message) => {
        end();
        resolve(message);
      },
    });
    const timer = this.#timer(options.timeout ?? 1_000, () => {
      end();
      reject(new errors.TimeoutError());
    });
    const end = () => {
      answers.unsubscribe();
      timer.run = undefined;
    };
    this.#send(() => {
      const head = options.headers;
      if (this.#api(subject, bytes, reply)) return;
      const heard = this.server.route(subject, bytes, {
        reply,
        ...(head === undefined ? {} : { headers: head }),
      });
      if (heard > 0) return;
      this.server.travel(
        () =>
          this.process.enter(() => {
            if (timer.run === undefined) return;
            end();
            reject(new errors.NoRespondersError(subject));
          }),
        this,
      );
    });
    return promise;
  }

  /** Runs at the server once the client's earlier messages have arrived; its answer travels back like a message. */
  call<T>(timeoutMs: number, ask: () => T, losesAnswer: () => boolean = () => false): Promise<T> {
    if (this.#closed) return Promise.reject(new errors.ClosedConnectionError());
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    let over = false;
    const timer = this.#timer(timeoutMs, () => {
      over = true;
      reject(new errors.TimeoutError());
    });
    this.#send(() => {
      let answer: () => void;
      try {
        const value = ask();
        answer = () => resolve(value);
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        answer = () => reject(error);
      }
      if (losesAnswer()) {
        this.server.machine.meet('acks lost');
        return;
      }
      this.server.travel(() => {
        if (over) return;
        timer.run = undefined;
        this.process.enter(answer);
      }, this);
    });
    return promise;
  }

  flush(): Promise<void> {
    return this.call(60_000, () => undefined);
  }

  async drain(): Promise<void> {
    await this.flush().catch(() => {});
    this.#leave();
  }

  close(): Promise<void> {
    this.#leave();
    return Promise.resolve();
  }

  isClosed(): boolean {
    return this.#closed;
  }

  isDraining(): boolean {
    return false;
  }

  closed(): Promise<void> {
    return this.#closing.promise;
  }

  getServer(): string {
    return this.server.url;
  }

  /** As nats-core: `disconnect`, `reconnect`. */
  status(): AsyncIterable<{ type: string; server?: string }> {
    const queue: Array<{ type: string }> = [];
    let wake: (() => void) | undefined;
    this.#statusListeners.push((status) => {
      queue.push(status);
      wake?.();
    });
    const isOver = () => this.#closed;
    return {
      async *[Symbol.asyncIterator]() {
        for (;;) {
          const next = queue.shift();
          if (next !== undefined) yield next;
          else if (isOver()) return;
          else await new Promise<void>((resolve) => (wake = resolve));
        }
      },
    };
  }

  // ── The server's side ──

  /** The client loses the server, or the network to it. */
  lost(): void {
    if (this.#closed || !this.isConnected) return;
    this.isConnected = false;
    this.link += 1;
    for (const subscription of this.#subscriptions) this.server.subscriptions.delete(subscription);
    this.#tell('disconnect');
    this.#reconnect();
  }

  deliver(
    subscription: Subscription,
    subject: string,
    data: Uint8Array,
    options: { reply?: string; headers?: MsgHdrs | undefined },
  ): void {
    // One connection gets its messages in order.
    const { machine, life } = this.server;
    const { link } = this;
    this.#gotUntil =
      Math.max(this.#gotUntil, machine.now) + machine.random.next() * this.server.faults.delayMs;
    machine.after(this.#gotUntil - machine.now, () => {
      if (!this.server.isUp || this.server.life !== life || this.link !== link) {
        machine.meet('messages lost with NATS');
        return;
      }
      if (!subscription.isOpen || this.#closed) return;
      this.process.enter(() => subscription.callback(null, this.#message(subject, data, options)));
    });
  }

  #message(
    subject: string,
    data: Uint8Array,
    options: { reply?: string; headers?: MsgHdrs | undefined },
  ): Msg {
    return {
      subject,
      data,
      reply: options.reply,
      headers: options.headers,
      respond: (body: unknown, head: { headers?: MsgHdrs } = {}) => {
        if (options.reply === undefined) return false;
        this.publish(options.reply, body, head);
        return true;
      },
      json: () => JSON.parse(Buffer.from(data).toString()) as unknown,
      string: () => Buffer.from(data).toString(),
    } as unknown as Msg;
  }

  /** `$JS.API.INFO`, which the supervisor asks as a sign of life. */
  #api(subject: string, _bytes: Uint8Array, reply: string): boolean {
    if (subject !== '$JS.API.INFO') return false;
    this.server.route(reply, Buffer.from('{"streams":1}'), {});
    return true;
  }

  #timer(ms: number, run: () => void): Handle {
    return this.server.machine.after(ms, () => this.process.enter(run));
  }

  /** In order. Messages sent without a server are lost. */
  #send(run: () => void): void {
    if (this.#closed) return;
    if (!this.isConnected) {
      this.server.machine.meet('messages lost with NATS');
      return;
    }
    const { machine, life } = { machine: this.server.machine, life: this.server.life };
    const { link } = this;
    // One connection's messages keep their order.
    this.#sentUntil =
      Math.max(this.#sentUntil, machine.now) + machine.random.next() * this.server.faults.delayMs;
    machine.after(this.#sentUntil - machine.now, () => {
      if (this.link === link && this.server.life === life && this.server.isUp) run();
      else machine.meet('messages lost with NATS');
    });
  }
  #sentUntil = 0;
  #gotUntil = 0;

  #reconnect(): void {
    this.server.machine.after(250, () => {
      if (this.#closed) return;
      if (!this.server.reaches(this.process)) {
        this.#reconnect();
        return;
      }
      this.isConnected = true;
      this.#sentUntil = 0;
      for (const subscription of this.#subscriptions) this.server.subscriptions.add(subscription);
      this.#tell('reconnect');
    });
  }

  #tell(type: string): void {
    for (const listener of this.#statusListeners)
      this.process.enter(() => listener({ type, server: this.server.url }));
  }

  #leave(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.server.connections.delete(this);
    for (const subscription of this.#subscriptions) {
      subscription.isOpen = false;
      this.server.subscriptions.delete(subscription);
    }
    for (const consumer of Array.from(this.server.consumers))
      if (consumer.connection === this) this.server.consumers.delete(consumer);
    this.process.enter(() => this.#closing.resolve());
  }
}

/** An ordered consumer: delivers the stored messages, then new ones, and after a restart continues where it was. */
export class SimConsumer {
  readonly connection: SimConnection;
  readonly #stream: string;
  readonly #filters: string[];
  readonly #from: number;
  #next = 0;
  readonly #queue: StoredMessage[] = [];
  #wake: (() => void) | undefined;
  #closed = false;

  constructor(connection: SimConnection, stream: string, filters: string[], from: number) {
    this.connection = connection;
    this.#stream = stream;
    this.#filters = filters;
    this.#from = from;
    this.#subscribe();
  }

  /** Sequence of the last message that has arrived. */
  #got = 0;
  /** Messages keep their order. */
  #sentUntil = 0;

  #subscribe(): void {
    this.#next = Math.max(this.#from, this.#got + 1);
    const { server, link } = this.connection;
    const { life } = server;
    let isThere = false;
    void this.connection
      .call(2_000, () => {
        if (this.#closed) return;
        isThere = true;
        server.consumers.add(this);
        const { messages } = server.stream(this.#stream);
        for (const message of messages) this.offer(this.#stream, message);
      })
      .catch(() => {});
    const look = (): void => {
      server.machine.after(500, () =>
        this.connection.process.enter(() => {
          if (this.#closed || this.connection.isClosed()) return;
          const isLost = server.life !== life || this.connection.link !== link || !isThere;
          if (this.connection.isConnected && server.isUp && isLost) this.#subscribe();
          else look();
        }),
      );
    };
    look();
  }

  offer(stream: string, message: StoredMessage): void {
    if (stream !== this.#stream || this.#closed || message.seq < this.#next) return;
    if (!this.#filters.some((filter) => matches(filter, message.subject))) return;
    this.#next = message.seq + 1;
    const { server } = this.connection;
    const { machine, life } = server;
    const { link } = this.connection;
    this.#sentUntil =
      Math.max(this.#sentUntil, machine.now) + machine.random.next() * 0.1 * server.faults.delayMs;
    machine.after(this.#sentUntil - machine.now, () => {
      if (!server.isUp || server.life !== life || this.connection.link !== link) return;
      // After a gap the server sends all of it again.
      if (message.seq <= this.#got) return;
      this.#got = message.seq;
      this.#queue.push(message);
      this.connection.process.enter(() => this.#wake?.());
    });
  }

  close(): Promise<void> {
    this.#closed = true;
    this.connection.server.consumers.delete(this);
    this.#wake?.();
    return Promise.resolve();
  }

  async *[Symbol.asyncIterator](): AsyncIterator<StoredMessage> {
    for (;;) {
      if (this.#closed) return;
      const next = this.#queue.shift();
      if (next === undefined) {
        await new Promise<void>((resolve) => (this.#wake = resolve));
        continue;
      }
      yield next;
    }
  }
}

export function matches(pattern: string, subject: string): boolean {
  if (pattern === subject) return true;
  const wanted = pattern.split('.');
  const tokens = subject.split('.');
  for (const [at, token] of wanted.entries()) {
    if (token === '>') return tokens.length > at;
    if (at >= tokens.length || (token !== '*' && token !== tokens[at])) return false;
  }
  return wanted.length === tokens.length;
}

export function toBytes(data: unknown): Uint8Array {
  if (data === undefined) return new Uint8Array();
  return typeof data === 'string' ? Buffer.from(data) : Buffer.from(data as Uint8Array);
}

/** The process in whose context a connection is opened. */
export function connectionOwner(): SimProcess {
  const process = currentProcess();
  if (process === undefined) throw new Error('a connection outside of any process');
  return process;
}
