import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { parseRate, type Relay, type RelayOptions, startRelay } from '../../ops/bench/relay.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

/** A server that answers each request `N\n` with N bytes; it does not wait for its own answers. */
async function startSource(): Promise<number> {
  const sockets = new Set<Socket>();
  const server: Server = createServer({ noDelay: true }, (socket) => {
    sockets.add(socket);
    let text = '';
    socket.on('error', () => {});
    socket.on('data', (bytes) => {
      text += bytes.toString();
      for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
        socket.write(Buffer.alloc(Number(text.slice(0, end)), 0x61));
        text = text.slice(end + 1);
      }
    });
    socket.on('end', () => socket.end());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanup.defer(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
  return (server.address() as AddressInfo).port;
}

async function startLink(options: Omit<RelayOptions, 'to'>): Promise<Relay> {
  const relay = await startRelay({ to: { host: '127.0.0.1', port: await startSource() }, ...options });
  cleanup.defer(() => relay.stop());
  return relay;
}

class Client {
  readonly socket: Socket;
  received = 0;
  failure: string | undefined;
  #waiting: Array<{ until: number; resolve: () => void; reject: (error: Error) => void }> = [];

  constructor(port: number) {
    this.socket = connect({ port, host: '127.0.0.1', noDelay: true });
    this.socket.on('data', (bytes) => {
      this.received += bytes.length;
      this.#settle();
    });
    this.socket.on('error', (error: NodeJS.ErrnoException) => (this.failure = error.code));
    this.socket.on('close', () => {
      this.failure ??= 'closed';
      this.#settle();
    });
    cleanup.defer(() => this.socket.destroy());
  }

  /** Asks for bytes and returns the milliseconds until the last one is here. */
  async ask(bytes: number): Promise<number> {
    const started = performance.now();
    const until = this.received + bytes;
    this.socket.write(`${bytes}\n`);
    await new Promise<void>((resolve, reject) => this.#waiting.push({ until, resolve, reject }));
    return performance.now() - started;
  }

  #settle(): void {
    this.#waiting = this.#waiting.filter(({ until, resolve, reject }) => {
      if (this.received >= until) resolve();
      else if (this.failure !== undefined) reject(new Error(`${this.failure} after ${this.received} bytes`));
      else return true;
      return false;
    });
  }
}

/**
 * Measures several times. How slow a link gets depends on who else uses the processors, how fast it gets does not:
 * so upper bounds are asked of the best round alone, and where none has kept to it yet there are more of them.
 */
async function repeat<T>(
  times: number,
  measure: () => Promise<T>,
  isFast: (result: T) => boolean,
): Promise<T[]> {
  const results: T[] = [];
  while (results.length < times || (results.length < MOST_ROUNDS && !results.some(isFast)))
    results.push(await measure());
  return results;
}
const MOST_ROUNDS = 40;

describe('a link', () => {
  test('of 80 Mbit/s carries 4 MB in 0.4 s, whatever the chunks', async () => {
    const relay = await startLink({ rate: 80e6, rttMs: 4 });
    const client = new Client(relay.port);
    await client.ask(1);
    const times = await repeat(
      4,
      () => client.ask(4_000_000),
      (ms) => ms < 440,
    );
    expect(Math.min(...times)).toBeGreaterThan(390);
    expect(Math.min(...times)).toBeLessThan(440);
  });

  test('shares its rate among connections', async () => {
    const relay = await startLink({ rate: 80e6, rttMs: 2 });
    const clients = [0, 1, 2, 3].map(() => new Client(relay.port));
    await Promise.all(clients.map((client) => client.ask(1)));
    const rounds = await repeat(
      3,
      () => Promise.all(clients.map((client) => client.ask(1_000_000))),
      (times) => Math.max(...times) < 440,
    );
    const slowest = rounds.map((times) => Math.max(...times));
    expect(Math.min(...slowest)).toBeGreaterThan(390);
    expect(Math.min(...slowest)).toBeLessThan(440);
    // None of them had to wait for another to be done.
    expect(Math.min(...rounds.flat())).toBeGreaterThan(300);
  });

  test('reaches 1 Gbit/s, as far as the machine does', async () => {
    const relay = await startLink({ rate: 1e9, rttMs: 5 });
    const client = new Client(relay.port);
    const unlimited = new Client((await startLink({ rttMs: 5 })).port);
    await Promise.all([client.ask(1), unlimited.ask(1)]);
    const rounds = await repeat(
      4,
      async () => ({ atBest: await unlimited.ask(20_000_000), ms: await client.ask(20_000_000) }),
      ({ atBest, ms }) => ms < Math.max(240, 2 * atBest),
    );
    expect(Math.min(...rounds.map(({ ms }) => ms))).toBeGreaterThan(158);
    expect(rounds.some(({ atBest, ms }) => ms < Math.max(240, 2 * atBest))).toBe(true);
  });

  test('of 20 ms adds 20 ms to each exchange and as much again to the first', async () => {
    const relay = await startLink({ rttMs: 20 });
    const client = new Client(relay.port);
    const first = await client.ask(1);
    expect(first).toBeGreaterThan(38);
    const times = await repeat(
      15,
      () => client.ask(100),
      (ms) => ms < 24,
    );
    expect(Math.min(...times)).toBeGreaterThan(18);
    expect(Math.min(...times)).toBeLessThan(24);
  });

  test('does not delay one connection by the opening of another', async () => {
    const relay = await startLink({ rttMs: 60, rate: 1e9 });
    const client = new Client(relay.port);
    await client.ask(1);
    const opening = new Client(relay.port);
    const later = opening.ask(1);
    const beside = await client.ask(1);
    const opened = await later;
    expect(opened).toBeGreaterThan(115);
    expect(beside).toBeLessThan(opened);
  });

  test('counts bytes and connections, and shows what was asked', async () => {
    const seen: string[] = [];
    const relay = await startLink({
      onRequestBytes: (connection, bytes) => seen.push(`${connection} ${bytes}`),
    });
    await new Client(relay.port).ask(12_345);
    await new Client(relay.port).ask(7);
    expect(relay.counters()).toEqual({ toServer: 8, toClient: 12_352, connections: 2 });
    expect(seen).toEqual(['0 12345\n', '1 7\n']);
  });
});

describe('a fault', () => {
  test('cuts each connection after so many bytes', async () => {
    const relay = await startLink({});
    const client = new Client(relay.port);
    await client.ask(10);
    relay.fail({ kind: 'cut', afterBytes: 5000 });
    await expect(client.ask(20_000)).rejects.toThrow(/after 5010 bytes/);
    const again = new Client(relay.port);
    await expect(again.ask(20_000)).rejects.toThrow(/after 5000 bytes/);
    relay.heal();
    expect(await new Client(relay.port).ask(20_000)).toBeGreaterThan(0);
  });

  test('stalls, and what was under way arrives after the healing', async () => {
    const relay = await startLink({ rttMs: 2 });
    const client = new Client(relay.port);
    await client.ask(1);
    relay.fail({ kind: 'stall' });
    const answer = client.ask(100);
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(client.received).toBe(1);
    expect(client.failure).toBeUndefined();
    relay.heal();
    expect(await answer).toBeGreaterThan(95);
  });

  test('delays from now on, also on open connections, until the healing', async () => {
    const relay = await startLink({ rttMs: 2 });
    const client = new Client(relay.port);
    await client.ask(1);
    relay.fail({ kind: 'delay', rttMs: 200 });
    expect(await client.ask(1)).toBeGreaterThan(195);
    relay.heal();
    const times = await Promise.all(Array.from({ length: 3 }, () => client.ask(1)));
    expect(Math.min(...times)).toBeLessThan(195);
  });

  test('resets open connections and refuses new ones', async () => {
    const relay = await startLink({});
    const client = new Client(relay.port);
    await client.ask(1);
    relay.fail({ kind: 'reset' });
    await expect(client.ask(1)).rejects.toThrow(/ECONNRESET|closed/);
    await expect(new Client(relay.port).ask(1)).rejects.toThrow(/ECONNRESET|closed/);
  });
});

test('rates are read as people write them', () => {
  expect(['1G', '100M', '64k', '1.5M', '9600'].map(parseRate)).toEqual([1e9, 1e8, 64_000, 1.5e6, 9600]);
  for (const wrong of ['', 'fast', '1T', '-1', '1 G']) expect(() => parseRate(wrong)).toThrow(/not a rate/);
});
