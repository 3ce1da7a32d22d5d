/** What a home keeps on its disk, what it takes turns with, and whom TLS lets in. No engine. */
import { randomBytes, X509Certificate } from 'node:crypto';
import { readdir, readFile, rename, stat, utimes, writeFile } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { connect } from 'node:tls';
import { errors } from '@nats-io/nats-core';
import { afterAll, describe, expect, it } from 'vitest';
import { Counts } from '../../actors/counts.ts';
import { pieceKey } from '../../actors/fleet-home-protocol.ts';
import type { Member } from '../../schemas/fleet.ts';
import { fleetBroadcasts } from '../../schemas/fleet-broadcasts.ts';
import { connectBus } from '../../src/bus/connection.ts';
import { accountsText, fleetUserOn, newNodeUsers } from '../../src/bus/user-files.ts';
import { pieceServer } from '../../src/fleet/piece-server.ts';
import { PieceStore } from '../../src/fleet/piece-store.ts';
import { Pieces } from '../../src/fleet/pieces.ts';
import { readOrder } from '../../src/fleet/piece-request.ts';
import { makeServer, poolTo, shownBy } from '../../src/fleet/tls.ts';
import { Turns } from '../../src/fleet/turns.ts';
import { createLog } from '../../src/process/log.ts';
import { makeIdentity } from '../../src/process/nats-identity.ts';
import { eventually } from '../support/engine.ts';
import { startNats } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

const digest = (digit: string): string => `sha256:${digit.repeat(64)}`;
const key = (digit: string, index: number): string =>
  pieceKey({ registry: 'registry.example:5000', digest: digest(digit) }, index);

describe('the store of pieces', () => {
  it('keeps pieces over a restart, gives none that the disk has changed, and makes room', async () => {
    const dir = await cleanup.tempDir('pieces');
    const options = { dir, limitBytes: 3_000, now: () => Date.now() };
    const store = await PieceStore.open(options);
    const bytes = randomBytes(900);
    for (const index of [0, 1, 2]) await store.write(key('a', index), bytes, 'registry');
    expect(await store.read(key('a', 0), 900)).toEqual(bytes);
    expect(await store.read(key('a', 0), 899)).toBeUndefined();
    await store.write(key('b', 7), bytes, 'node-2');
    // The one that was used least lately made room.
    expect([0, 1, 2].map((index) => store.has(key('a', index)))).toEqual([false, true, true]);
    const file = join(dir, 'bb', `${'b'.repeat(64)}.7@registry.example:5000~node-2`);
    expect((await stat(file)).mode & 0o777).toBe(0o600);
    // Of an earlier cofa: it does not say who gave it.
    await writeFile(file.replace('.7@', '.8@').replace('~node-2', ''), bytes);

    const again = await PieceStore.open(options);
    expect(await again.read(key('b', 7), 900)).toEqual(bytes);
    expect([again.originOf(key('a', 1)), again.originOf(key('b', 7))]).toEqual(['registry', 'node-2']);
    const [name] = await readdir(join(dir, 'bb'));
    const path = join(dir, 'bb', name as string);
    const rotten = await readFile(path);
    rotten[400] = (rotten[400] as number) ^ 1;
    await writeFile(path, rotten);
    expect(await again.read(key('b', 7), 900)).toBeUndefined();
    expect(await readdir(join(dir, 'bb'))).toEqual([]);
    expect(again.pieces).toBe(2);
  });

  it('counts a piece once, of which an earlier process left two files, and keeps the later one', async () => {
    const dir = await cleanup.tempDir('pieces');
    const options = { dir, limitBytes: 3_000, now: () => Date.now() };
    const bytes = randomBytes(900);
    await (await PieceStore.open(options)).write(key('a', 0), bytes, 'node-2');
    await (await PieceStore.open({ ...options, dir: join(dir, 'later') })).write(
      key('a', 0),
      bytes,
      'registry',
    );
    const name = `${'a'.repeat(64)}.0@registry.example:5000~`;
    await rename(join(dir, 'later', 'aa', `${name}registry`), join(dir, 'aa', `${name}registry`));
    await utimes(join(dir, 'aa', `${name}node-2`), 1, 1);
    const store = await PieceStore.open(options);
    expect([store.pieces, store.bytes, store.originOf(key('a', 0))]).toEqual([1, 912, 'registry']);
    expect(await readdir(join(dir, 'aa'))).toEqual([`${name}registry`]);
  });
});

describe('a piece that is said to be wrong', () => {
  it('is not there again when the disk has written it; what the registry sends then takes its place', async () => {
    const store = await PieceStore.open({
      dir: await cleanup.tempDir('pieces'),
      limitBytes: 1e6,
      now: () => 0,
    });
    const busy = Promise.withResolvers<void>();
    const lost: string[] = [];
    const pieces = new Pieces({
      store: {
        read: store.read.bind(store),
        forget: store.forget.bind(store),
        has: store.has.bind(store),
        originOf: store.originOf.bind(store),
        write: async (...piece) => {
          await busy.promise;
          await store.write(...piece);
        },
      },
      onLost: (one) => lost.push(one),
      log: createLog('pieces', 'silent'),
    });
    const [lie, right] = [randomBytes(900), randomBytes(900)];
    pieces.keep(key('a', 0), { bytes: lie, from: 'liar' });
    pieces.drop(key('a', 0));
    const differs = pieces.differs(key('a', 0), right);
    busy.resolve();
    expect(await differs).toBe(true);
    pieces.keep(key('a', 0), { bytes: right, from: 'registry' });
    await expect.poll(() => store.originOf(key('a', 0))).toBe('registry');
    expect(await store.read(key('a', 0))).toEqual(right);
    expect(lost).toEqual([]);
  });
});

it('pieces that are said to be wrong are read a few at a time, however many one says it of', async () => {
  let [reads, most] = [0, 0];
  const forgotten: string[] = [];
  const pieces = new Pieces({
    store: {
      read: async () => {
        most = Math.max(most, ++reads);
        await new Promise((resolve) => setTimeout(resolve, 1));
        reads -= 1;
        return Buffer.alloc(10);
      },
      forget: async (one) => void forgotten.push(one),
      has: () => true,
      originOf: () => 'node-2',
      write: async () => {},
    },
    onLost: () => {},
    log: createLog('pieces', 'silent'),
  });
  for (let index = 0; index < 100; index++) pieces.drop(key('a', index));
  expect(await pieces.differs(key('a', 99), Buffer.alloc(11))).toBe(true);
  expect([most, forgotten.length]).toEqual([4, 100]);
});

describe('turns', () => {
  it('are given to what a reader waits for first, and refused where too much waits', async () => {
    const turns = new Turns(1, 2);
    const order: string[] = [];
    const first = await turns.take('prefetch');
    const later = (['prefetch', 'demand'] as const).map(async (urgency) => {
      const release = await turns.take(urgency);
      order.push(urgency);
      release();
    });
    await expect(turns.take('prefetch')).rejects.toThrow('enough to do');
    first();
    await Promise.all(later);
    expect(order).toEqual(['demand', 'prefetch']);
    expect(turns.running).toBe(0);
  });

  it('come at once for one that a reader comes to wait for, where the quarter of readers is free; else before prefetch', async () => {
    const turns = new Turns(4, 9);
    const held = await Promise.all([1, 2, 3].map(() => turns.take('prefetch')));
    const order: string[] = [];
    const wait = (name: string) => {
      const turn = turns.ask('prefetch');
      void turn.begun.then(() => order.push(name));
      return turn;
    };
    const [, second, third] = [wait('first'), wait('second'), wait('third')];
    second.promote();
    await second.begun;
    third.promote();
    third.promote();
    expect([order, turns.running]).toEqual([['second'], 4]);
    held[0]?.();
    await third.begun;
    expect([order, turns.running]).toEqual([['second', 'third'], 4]);
  });

  it('of one that leaves are another one’s', async () => {
    const turns = new Turns(1, 2);
    const first = await turns.take('demand');
    const leaving = new AbortController();
    const gone = turns.take('demand', leaving.signal);
    leaving.abort(new Error('left'));
    await expect(gone).rejects.toThrow('left');
    first();
    (await turns.take('demand'))();
    expect(turns.running).toBe(0);
  });
});

describe('TLS between members', () => {
  it('refuses another certificate than the announced one before anything is asked, each time', async () => {
    const [home, other, asker] = [await makeIdentity(), await makeIdentity(), await makeIdentity()];
    const seen: Array<string | undefined> = [];
    const server = makeServer(home, (request, response) => {
      seen.push(shownBy(request.socket));
      response.end('bytes');
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    cleanup.defer(async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    });
    const address = `127.0.0.1:${(server.address() as AddressInfo).port}`;
    const fingerprintOf = ({ certificate }: typeof home) => new X509Certificate(certificate).fingerprint256;
    const ask = async (pin: typeof home) => {
      const pool = poolTo({ address, fingerprint: fingerprintOf(pin) }, asker);
      try {
        const { body } = await pool.request({ path: '/', method: 'GET' });
        return await body.text();
      } finally {
        await pool.destroy();
      }
    };
    for (let time = 0; time < 2; time++) {
      await expect(ask(other)).rejects.toThrow('another certificate');
      expect(await ask(home)).toBe('bytes');
    }
    expect(seen).toEqual([fingerprintOf(asker), fingerprintOf(asker)]);
  });
});

it('a member that takes no more of a piece holds no slot for long; one that reads slowly gets it all', async () => {
  const [home, asker] = [await makeIdentity(), await makeIdentity()];
  const bytes = randomBytes(16 << 20);
  const over: string[] = [];
  const server = pieceServer({
    identity: home,
    give: async (_from, { source: { repository } }) => ({
      piece: { bytes, from: 'registry' },
      done: () => over.push(repository),
    }),
    messages: { takeDirect: () => false },
    memberOf: () => ({ id: 'asker' }) as Member,
    rate: undefined,
    stallMs: 1_500,
    counts: new Counts(),
    log: createLog('server', 'silent'),
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanup.defer(() => void server.close());
  const { port } = server.address() as AddressInfo;
  const ask = (repository: string) => {
    const socket = connect({
      port,
      key: asker.key,
      cert: asker.certificate,
      rejectUnauthorized: false,
    });
    cleanup.defer(() => void socket.destroy());
    socket.on('error', () => {});
    socket.write(
      `GET /v1/piece/${digest('c')}/0 HTTP/1.1\r\nhost: home\r\nx-cofa-registry: registry.example\r\n` +
        `x-cofa-repository: ${repository}\r\nx-cofa-size: 3000000\r\nx-cofa-class: demand\r\n\r\n`,
    );
    return socket;
  };
  ask('silent');
  const slow = ask('slow');
  let length = 0;
  slow.on('data', (chunk: Buffer) => {
    length += chunk.length;
    if (length % (1 << 20) > chunk.length) return;
    slow.pause();
    setTimeout(() => slow.resume(), 150);
  });
  await eventually('the slots are free', () => over.length === 2);
  expect(over.toSorted()).toEqual(['silent', 'slow']);
  await eventually('all came', () => length > bytes.length);
});

describe('a question for a piece', () => {
  const headers = {
    'x-cofa-registry': 'registry.example:5000',
    'x-cofa-repository': 'team/app',
    'x-cofa-size': '3000000',
    'x-cofa-class': 'demand',
  };
  const ask = (url: string, more: Record<string, string> = {}) =>
    readOrder({ url, headers: { ...headers, ...more } } as unknown as IncomingMessage);

  it('is taken as it is meant, and not at all where it is none', () => {
    const url = `/v1/piece/${digest('c')}/2`;
    expect(ask(url)).toMatchObject({ index: 2, from: 0, to: 3_000_000 - 2 * 2 ** 20, class: 'demand' });
    expect(ask(url, { range: 'bytes=10-19' })).toMatchObject({ from: 10, to: 20 });
    const wrong: Array<[string, Record<string, string>]> = [
      [`/v1/piece/${digest('c')}/3`, {}],
      [`/v1/piece/${digest('C')}/0`, {}],
      [url, { range: 'bytes=10-9' }],
      [url, { range: 'bytes=0-2000000' }],
      [url, { 'x-cofa-repository': '../../v2/other' }],
      [url, { 'x-cofa-registry': 'user@host/path' }],
      [url, { 'x-cofa-size': '1e99' }],
      [url, { 'x-cofa-class': 'urgent' }],
      [url, { 'x-cofa-token': 'two words' }],
    ];
    expect(wrong.map(([path, more]) => ask(path, more))).toEqual(wrong.map(() => undefined));
  });
});

it('NATS lets no member speak in another’s name, nor listen to what is not for it', async () => {
  const nodes = ['one', 'two'].map(newNodeUsers);
  const server = await startNats({ config: accountsText(nodes), jetstream: false });
  cleanup.defer(() => server.stop());
  const refused: string[] = [];
  const heard: string[] = [];
  const [one, two] = await Promise.all(
    nodes.map(async (node) => {
      const bus = await connectBus(fleetUserOn({ url: server.url }, node), {
        name: node.node,
        reconnect: false,
      });
      cleanup.defer(() => bus.close());
      void (async () => {
        for await (const status of bus.status())
          if (status.type === 'error' && status.error instanceof errors.PermissionViolationError)
            refused.push(`${node.node} ${status.error.operation} ${status.error.subject}`);
      })();
      return bus;
    }),
  );
  const names = { one: fleetBroadcasts('f', 'one'), two: fleetBroadcasts('f', 'two') };
  one?.subscribe(names.one.everyHere, { callback: (_, message) => void heard.push(message.subject) });
  await one?.flush();
  two?.publish(names.one.here, 'I am one');
  two?.publish('$JS.API.INFO', '', { reply: names.one.here });
  two?.publish(names.two.here, 'I am two');
  two?.subscribe('cofa.fleet.v1.f.ask.one.*');
  await two?.flush();
  await eventually('it is heard', () => heard.length > 0);
  expect(heard).toEqual([names.two.here]);
  await eventually('the rest is refused', () => refused.length >= 3);
  expect(refused.toSorted()).toEqual([
    `two publish $JS.API.INFO`,
    `two publish ${names.one.here}`,
    'two subscription cofa.fleet.v1.f.ask.one.*',
  ]);
});
