/**
 * A TCP relay that behaves like a link of a given rate and delay, without root and without touching the machine's
 * network. Each direction is a wire that all connections share:
 *
 *     read from a socket ──▶ lane of the connection ─┐
 *     read from a socket ──▶ lane of the connection ─┴▶ wire, in turns ──▶ half a round trip ──▶ written
 *
 * The wire takes bytes / rate for each piece. This schedule is kept in exact times and only delivery is rounded to the
 * timer's millisecond, so errors do not add up. A connection may have `window` bytes in flight in a direction, as TCP
 * has a receive window; beyond that the relay does not read its source. Opening a connection costs one round trip more.
 *
 * Not emulated: loss, slow start, packet headers (1448 of 1514 bytes on an Ethernet are payload, so give 94.9 % of a
 * link's nominal rate where that matters).
 *
 * Command line: node ops/bench/relay.ts --to HOST:PORT [--listen PORT] [--rate 1G] [--rtt 5]
 */
import { createServer, type AddressInfo, connect, type Server, type Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { programOptions } from '../program-options.ts';

export interface RelayOptions {
  to: { host: string; port: number };
  /** Loopback port to listen on; a free one by default. */
  listen?: number;
  /** Bits a second in each direction; unlimited by default. */
  rate?: number;
  /** Round-trip time in milliseconds, half of it in each direction; 0 by default. */
  rttMs?: number;
  /** Bytes that a connection may have in flight in a direction; 1 MiB by default, at least twice rate × delay. */
  window?: number;
  /** Sees the bytes of each connection as they arrive, before any delay: for logs of the requests. */
  onRequestBytes?: (connection: number, bytes: Buffer) => void;
}

/** The fault, for open connections and all new ones until `heal`. */
export type Fault =
  /** Each connection is reset after it has carried this many more bytes to the client. */
  | { kind: 'cut'; afterBytes: number }
  /** The relay carries nothing more; connections stay open. */
  | { kind: 'stall' }
  /** Open connections are reset, new ones too. */
  | { kind: 'reset' }
  /** Another round-trip time. */
  | { kind: 'delay'; rttMs: number };

export interface Relay {
  /** `127.0.0.1:PORT` */
  host: string;
  port: number;
  /** Bytes carried so far to the server and to the client, and connections opened. */
  counters(): { toServer: number; toClient: number; connections: number };
  fail(fault: Fault): void;
  heal(): void;
  stop(): Promise<void>;
}

/** Starts a relay on loopback. */
export async function startRelay(options: RelayOptions): Promise<Relay> {
  const rttMs = options.rttMs ?? 0;
  const bytesPerMs = (options.rate ?? Number.POSITIVE_INFINITY) / 8000;
  const window = Math.max(
    options.window ?? 1 << 20,
    Number.isFinite(bytesPerMs) ? 2 * bytesPerMs * rttMs : 0,
  );
  const wires = { toServer: new Wire(bytesPerMs, rttMs / 2), toClient: new Wire(bytesPerMs, rttMs / 2) };
  const pairs = new Set<Pair>();
  let fault: Fault | undefined;
  let connections = 0;
  let stopped = false;

  const server = createServer({ noDelay: true, allowHalfOpen: true, highWaterMark: 256 * 1024 }, (client) => {
    const number = connections++;
    const upstream = connect({ ...options.to, noDelay: true, allowHalfOpen: true });
    const pair: Pair = {
      client,
      upstream,
      budget: fault?.kind === 'cut' ? fault.afterBytes : Number.POSITIVE_INFINITY,
    };
    pairs.add(pair);
    const drop = () => {
      pairs.delete(pair);
      client.destroy();
      upstream.destroy();
    };
    const reset = () => {
      pairs.delete(pair);
      client.resetAndDestroy();
      upstream.destroy();
    };
    pair.reset = reset;
    if (stopped || fault?.kind === 'reset') {
      client.on('error', () => {});
      upstream.on('error', () => {});
      reset();
      return;
    }
    client.on('error', drop);
    const seen = (bytes: Buffer) => options.onRequestBytes?.(number, bytes);
    // The handshake: what the client sends first starts to travel a round trip after it connected.
    const up: Carrying = {
      wire: wires.toServer,
      from: client,
      to: upstream,
      window,
      drop,
      allowed: everything,
      seen,
    };
    if (rttMs > 0) setTimeout(() => carry(up), rttMs);
    else carry(up);
    carry({
      wire: wires.toClient,
      from: upstream,
      to: client,
      window,
      drop,
      allowed: (bytes) => {
        const before = pair.budget;
        pair.budget -= bytes;
        return before;
      },
      reset,
    });
  });
  await listen(server, options.listen ?? 0);
  const port = (server.address() as AddressInfo).port;
  return {
    host: `127.0.0.1:${port}`,
    port,
    counters: () => ({ toServer: wires.toServer.carried, toClient: wires.toClient.carried, connections }),
    fail: (next) => {
      fault = next;
      wires.toServer.stalled = wires.toClient.stalled = next.kind === 'stall';
      for (const wire of Object.values(wires))
        wire.delayMs = (next.kind === 'delay' ? next.rttMs : rttMs) / 2;
      for (const pair of pairs) {
        if (next.kind === 'cut') pair.budget = next.afterBytes;
        if (next.kind === 'reset') pair.reset?.();
      }
    },
    heal: () => {
      fault = undefined;
      for (const wire of Object.values(wires)) {
        wire.stalled = false;
        wire.delayMs = rttMs / 2;
      }
      for (const pair of pairs) pair.budget = Number.POSITIVE_INFINITY;
    },
    stop: async () => {
      stopped = true;
      const closed = new Promise((resolve) => server.close(resolve));
      for (const { client, upstream } of pairs) {
        client.destroy();
        upstream.destroy();
      }
      wires.toServer.stop();
      wires.toClient.stop();
      await closed;
    },
  };
}

interface Pair {
  client: Socket;
  upstream: Socket;
  /** Bytes that may still go to the client. */
  budget: number;
  reset?: () => void;
}

interface Carrying {
  wire: Wire;
  from: Socket;
  to: Socket;
  window: number;
  /** Ends both sides at once. */
  drop: () => void;
  reset?: () => void;
  /** How many of the next `bytes` may pass before the connection is cut. */
  allowed: (bytes: number) => number;
  seen?: (bytes: Buffer) => void;
}

const everything = () => Number.POSITIVE_INFINITY;

/** Bytes that travel as one: short enough that connections share the wire finely, 0.13 ms at 1 Gbit/s. */
const QUANTUM = 16 * 1024;

function carry({ wire, from, to, window, drop, reset, allowed, seen }: Carrying): void {
  const lane: Lane = [];
  let underWay = 0;
  const pace = () => {
    if (underWay + to.writableLength >= window) from.pause();
    else from.resume();
  };
  from.on('data', (bytes: Buffer) => {
    seen?.(bytes);
    for (let at = 0; at < bytes.length; at += QUANTUM) {
      const piece = bytes.subarray(at, at + QUANTUM);
      underWay += piece.length;
      wire.send(lane, piece.length, () => {
        underWay -= piece.length;
        const may = allowed(piece.length);
        if (!to.destroyed && to.writable) {
          // One system call writes what arrives in one turn: the relay shares the cores with the measured programs.
          if (to.writableCorked === 0) {
            to.cork();
            process.nextTick(() => to.uncork());
          }
          to.write(may >= piece.length ? piece : piece.subarray(0, Math.max(0, may)));
        }
        if (may < piece.length) {
          to.uncork();
          reset?.();
        }
        pace();
      });
    }
    pace();
  });
  to.on('drain', pace);
  // The end travels behind the bytes.
  from.on('end', () => wire.send(lane, 0, () => to.end()));
  from.on('error', drop);
  from.on('close', () =>
    wire.send(lane, 0, () => (from.errored || !from.readableEnded ? drop() : undefined)),
  );
}

interface Parcel {
  bytes: number;
  queuedAt: number;
  deliver: () => void;
}

/** What one connection has waiting for the wire. */
type Lane = Parcel[];

/** One direction of the link. Lanes take turns at the wire; what is on it arrives in the order it left. */
class Wire {
  /** Bytes delivered. */
  carried = 0;
  readonly #bytesPerMs: number;
  /** Half a round trip, for what is put on the wire from now on; nothing overtakes. */
  delayMs: number;
  /** Lanes that have something waiting; the first one is next. */
  #waiting: Lane[] = [];
  #travelling: Array<{ arrives: number; parcel: Parcel }> = [];
  /** When the wire will have sent all that it was given. */
  #freeAt = 0;
  #timer: NodeJS.Timeout | undefined;
  #stalled = false;

  constructor(bytesPerMs: number, delayMs: number) {
    this.#bytesPerMs = bytesPerMs;
    this.delayMs = delayMs;
  }

  send(lane: Lane, bytes: number, deliver: () => void): void {
    if (lane.length === 0) this.#waiting.push(lane);
    lane.push({ bytes, queuedAt: performance.now(), deliver });
    if (this.#timer === undefined) this.#work();
  }

  get stalled(): boolean {
    return this.#stalled;
  }

  set stalled(stalled: boolean) {
    this.#stalled = stalled;
    if (!stalled && this.#timer === undefined) this.#work();
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#waiting = [];
    this.#travelling = [];
    this.#stalled = true;
  }

  #work(): void {
    this.#timer = undefined;
    if (this.#stalled) return;
    // Half a tick ahead, so that timers that fire late do not make the link slower on the whole.
    const now = performance.now() + TICK_MS / 2;
    this.#putOnWire(now);
    let delivered = 0;
    for (const { arrives, parcel } of this.#travelling) {
      if (arrives > now) break;
      delivered++;
      this.carried += parcel.bytes;
      parcel.deliver();
    }
    this.#travelling.splice(0, delivered);
    const next = this.#travelling[0]?.arrives ?? Number.POSITIVE_INFINITY;
    const free = this.#waiting.length > 0 ? this.#freeAt : Number.POSITIVE_INFINITY;
    const wait = Math.min(next, free) - now;
    if (Number.isFinite(wait) && this.#timer === undefined)
      this.#timer = setTimeout(() => this.#work(), Math.max(TICK_MS, Math.floor(wait)));
  }

  #putOnWire(now: number): void {
    while (this.#freeAt <= now) {
      const lane = this.#waiting.shift();
      const parcel = lane?.shift();
      if (lane === undefined || parcel === undefined) return;
      if (lane.length > 0) this.#waiting.push(lane);
      this.#freeAt = Math.max(this.#freeAt, parcel.queuedAt) + parcel.bytes / this.#bytesPerMs;
      this.#travelling.push({ arrives: this.#freeAt + this.delayMs, parcel });
    }
  }
}

/** The finest resolution of Node's timers. */
const TICK_MS = 1;

function listen(server: Server, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', resolve);
  });
}

/** `1G`, `100M`, `64k` or plain bits a second. */
export function parseRate(text: string): number {
  const match = /^(\d+(?:\.\d+)?)([kMG]?)$/.exec(text);
  if (match === null) throw new Error(`not a rate in bits a second: ${text}`);
  return Number(match[1]) * { '': 1, k: 1e3, M: 1e6, G: 1e9 }[match[2] as '' | 'k' | 'M' | 'G'];
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = programOptions(import.meta.filename, {
    options: {
      to: { type: 'string' },
      listen: { type: 'string', default: '0' },
      rate: { type: 'string' },
      rtt: { type: 'string', default: '0' },
    },
  });
  const [host, port] = (values.to ?? '').split(':');
  if (!host || !port) {
    console.error('usage: node ops/bench/relay.ts --to HOST:PORT [--listen PORT] [--rate 1G] [--rtt MS]');
    process.exit(2);
  }
  const relay = await startRelay({
    to: { host, port: Number(port) },
    listen: Number(values.listen),
    rttMs: Number(values.rtt),
    ...(values.rate === undefined ? {} : { rate: parseRate(values.rate) }),
  });
  console.log(relay.host);
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => {
      console.log(JSON.stringify(relay.counters()));
      void relay.stop().then(() => process.exit(0));
    });
}
