/**
 * The users of a nats-server, the engine's private one and a foreign one with the accounts that cofa makes for it: what
 * each has to be able to do, and what it must not. Real nats-servers.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { errors, type NatsConnection } from '@nats-io/nats-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { PACK_BUCKET, SNAPSHOT_STREAM, STREAM, subjects } from '../../schemas/subjects.ts';
import { ask, connectBus, encode, serve } from '../../src/bus/connection.ts';
import { BUS_ROLES, type BusRole, type BusUsers } from '../../src/bus/roles.ts';
import { accountsText, newNodeUsers, type NodeUsers, usersOn } from '../../src/bus/user-files.ts';
import { startNats } from '../../src/process/nats-server.ts';
import { DEFAULT_START, PackStore } from '../../src/pack/pack-store.ts';
import { EventLog } from '../../src/store/event-log.ts';
import { Layout } from '../../src/store/layout.ts';
import { LogFiles } from '../../src/store/log-files.ts';
import { streamFolder } from '../../src/store/nats-files.ts';
import { loadNode, prepareSnapshots, writeSnapshot } from '../../src/store/snapshots.ts';
import { startNats as startForeign } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';
import { anything } from '../support/anything.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

/** Starts a private one. */
async function start(layout: Layout, own: Cleanup): Promise<BusUsers> {
  const { users, child } = await startNats(layout);
  own.defer(() => child.stop());
  return users;
}

async function connect(users: BusUsers, role: BusRole, own: Cleanup): Promise<NatsConnection> {
  const bus = await connectBus(users[role], { name: role, reconnect: false });
  own.defer(() => bus.close());
  return bus;
}

const own = new Cleanup();
const names = subjects('roles', 1);
const layerEvent = { type: 'layer.blocks', ranges: [[0, 1]] } as const;
const layer = (): string => names.event('layer', randomBytes(32).toString('hex'));
const servers: Record<string, () => Promise<BusUsers>> = {
  'the private nats-server': async () => {
    const layout = new Layout(await own.tempDir('roles'));
    await layout.prepare();
    return await start(layout, own);
  },
  'a foreign nats-server': async () => {
    const nodes = ['other', 'roles'].map(newNodeUsers);
    const server = await startForeign({ config: `${accountsText(nodes)}max_payload: 8MB\n` });
    own.defer(() => server.stop());
    return usersOn({ url: server.url }, 'roles', nodes[1] as NodeUsers);
  },
};

describe.each(Object.entries(servers))('%s', (_, startServer) => {
  const buses = {} as Record<BusRole, NatsConnection>;
  /** Refusals of nats-server, by role. */
  const refusals = {} as Record<BusRole, string[]>;

  beforeAll(async () => {
    const users = await startServer();
    for (const role of BUS_ROLES) {
      const bus = await connect(users, role, own);
      buses[role] = bus;
      const refused: string[] = [];
      refusals[role] = refused;
      void (async () => {
        for await (const status of bus.status())
          if (status.type === 'error' && status.error instanceof errors.PermissionViolationError)
            refused.push(`${status.error.operation} ${status.error.subject}`);
      })();
    }
    await EventLog.prepare(buses.supervisor, { maxBytes: 16 << 20 });
    await prepareSnapshots(buses.supervisor);
    await new PackStore(async () => buses.packs).list();
    await new EventLog(buses.supervisor, Date.now).claim(names.event('engine', 'main'), {
      type: 'engine.started',
      pid: 1,
      version: 'test',
      transport: 'kernel',
    });
  });
  afterAll(() => own.run());

  const packs = (role: BusRole) => new PackStore(async () => buses[role]);
  const digest = (): string => `sha256:${randomBytes(32).toString('hex')}`;
  const heard = async (role: BusRole, subject: string): Promise<string[]> => {
    const subjectsHeard: string[] = [];
    buses[role].subscribe(subject, {
      callback: (error, message) => void (error ?? subjectsHeard.push(message.subject)),
    });
    await buses[role].flush();
    return subjectsHeard;
  };
  /** What the server has taken of a connection, and given to another one. */
  const settle = async (...roles: BusRole[]): Promise<void> => {
    for (const role of roles) await buses[role].flush();
  };

  describe('each has what its work takes', () => {
    test('front end and snapshotter read the log and append to their parts of it', async () => {
      for (const [role, subject, event] of [
        ['front-end', layer(), layerEvent],
        ['snapshotter', names.event('snapshot', 'a1'), { type: 'snapshot.removed' }],
      ] as const) {
        const { fold } = await loadNode(buses[role], names);
        const log = new EventLog(buses[role], Date.now, { epoch: fold.epoch });
        const { seq } = await log.append(subject, event as never);
        expect(seq).toBeGreaterThan(fold.seq);
        expect(refusals[role]).toEqual([]);
      }
    });

    test('front end and supervisor, front end and fetcher, everybody and the API', async () => {
      serve(buses['front-end'], names.front('status'), anything, () => 'served');
      serve(buses.supervisor, names.room, anything, () => 'room');
      const notices = await heard('supervisor', names.notice);
      const jobs = await heard('fetcher', names.job('fetcher-0'));
      const asked = await heard('fetcher', names.whoIsThere);
      const hellos = await heard('front-end', names.hello);
      const ends = await heard('front-end', names.completion);
      buses.supervisor.subscribe(names.api('status'), {
        callback: (_, call) => void call.respond('{"ok":true}'),
      });
      await settle('front-end', 'supervisor');
      expect(await ask(buses.supervisor, names.front('status'), {}, anything)).toBe('served');
      for (const role of ['front-end', 'snapshotter'] as const)
        expect(await ask(buses[role], names.room, {}, anything)).toBe('room');
      for (const role of ['api', 'snapshotter'] as const)
        expect((await buses[role].request(names.api('status'), '{}')).string()).toBe('{"ok":true}');
      buses['front-end'].publish(names.notice);
      buses['front-end'].publish(names.job('fetcher-0'));
      buses['front-end'].publish(names.whoIsThere);
      buses.fetcher.publish(names.hello);
      buses.fetcher.publish(names.completion);
      await settle('front-end', 'fetcher', 'front-end', 'supervisor');
      expect([notices, jobs, asked, hellos, ends].map(({ length }) => length)).toEqual([1, 1, 1, 1, 1]);
    });

    test('users watch events and progress as they come; readers read all of the log and its snapshots', async () => {
      const events = await heard('api', names.allEvents);
      const progress = await heard('api', names.progress('mine'));
      await new EventLog(buses.supervisor, Date.now, { epoch: 1 }).append(layer(), layerEvent as never);
      buses.supervisor.publish(names.progress('mine'), '{}');
      await settle('supervisor', 'api');
      expect([events.length, progress.length]).toEqual([1, 1]);
      const { fold } = await loadNode(buses.supervisor, names);
      await writeSnapshot(buses.supervisor, names, fold);
      const read = await loadNode(buses.reader, names);
      expect(read.problems).toEqual([]);
      expect(read.fold.snapshot.seq).toBe(fold.seq);
      expect(refusals.reader).toEqual([]);
    });

    test('packs are stored, found, read and removed', async () => {
      const manifest = digest();
      const bytes = randomBytes(500_000);
      const put = (body: Buffer) =>
        packs('packs').put(
          manifest,
          DEFAULT_START,
          (async function* () {
            yield body;
          })(),
        );
      await put(randomBytes(1000));
      const { name } = await put(bytes);
      expect(await packs('packs').find(manifest, DEFAULT_START)).toEqual({ name, size: bytes.length });
      const pieces = [];
      for await (const piece of packs('packs').read(name)) pieces.push(piece);
      expect(Buffer.concat(pieces).equals(bytes)).toBe(true);
      expect((await packs('packs').list()).map((one) => one.name)).toEqual([name]);
      await packs('packs').remove(manifest, DEFAULT_START);
      expect(refusals.packs).toEqual([]);
    });
  });

  describe('and no more', () => {
    const lastSeq = async (stream: string) =>
      (await (await jetstreamManager(buses.supervisor)).streams.info(stream)).state.last_seq;
    const untrusted: BusRole[] = ['fetcher', 'api', 'packs'];

    test.each(untrusted)('nothing that %s publishes comes into the log', async (role) => {
      const before = await Promise.all([STREAM, SNAPSHOT_STREAM].map(lastSeq));
      const tried = [
        layer(),
        names.event('mount', 'x'),
        names.event('engine', 'main'),
        names.fold(1, 0),
        // Where an epoch stands in other subjects.
        'cofa.v1.roles.event.worker.hello',
        'cofa.v1.roles.event.worker.completion',
        'cofa.v1.roles.fold.worker.completion',
        'cofa.v1.roles.event.api.status',
      ];
      for (const subject of tried) buses[role].publish(subject, encode({ v: 1, at: 1, ...layerEvent }));
      await settle(role, 'supervisor');
      expect(await Promise.all([STREAM, SNAPSHOT_STREAM].map(lastSeq))).toEqual(before);
      expect(refusals[role]).toEqual(tried.map((subject) => `publish ${subject}`));
    });

    test('a front end adds to layers only, a snapshotter to snapshots only', async () => {
      for (const [role, tried] of [
        [
          'front-end',
          [
            names.event('mount', 'x'),
            names.event('engine', 'main'),
            names.fold(1, 0),
            'cofa.v1.roles.event.front.notice',
            'cofa.v1.roles.event.worker.job.x',
          ],
        ],
        ['snapshotter', [names.event('mount', 'x'), layer()]],
      ] as const) {
        const before = await lastSeq(STREAM);
        for (const subject of tried) buses[role].publish(subject, encode({ v: 1, at: 1, ...layerEvent }));
        await settle(role, 'supervisor');
        expect(await lastSeq(STREAM)).toBe(before);
        expect(refusals[role]).toEqual(tried.map((subject) => `publish ${subject}`));
      }
    });

    test.each(untrusted)(
      '%s cannot speak as a front end or a supervisor, nor listen to them',
      async (role) => {
        const jobs = await heard('supervisor', names.job('fetcher-0'));
        const orders = await heard('supervisor', names.front('open'));
        const notices = await heard('supervisor', names.notice);
        for (const subject of [names.job('fetcher-0'), names.front('open'), names.notice])
          buses[role].publish(subject, encode({ v: 1 }));
        const overheard: string[] = [];
        const listens = [
          names.front('open'),
          names.completion,
          '_INBOX_supervisor.>',
          '_INBOX_reader.>',
          '>',
        ];
        for (const subject of listens)
          buses[role].subscribe(subject, { callback: (error) => void (error ?? overheard.push(subject)) });
        await settle(role);
        for (const subject of [names.front('open'), names.completion]) buses.supervisor.publish(subject);
        await settle('supervisor', role);
        expect([jobs.length, orders.length - 1, notices.length]).toEqual([0, 0, 0]);
        expect(overheard).toEqual([]);
      },
    );

    test.each([...untrusted, 'reader', 'front-end', 'snapshotter'] as const)(
      '%s cannot administer streams',
      async (role) => {
        const manager = await jetstreamManager(buses[role], { checkAPI: false, timeout: 2_000 });
        for (const name of [STREAM, SNAPSHOT_STREAM, `OBJ_${PACK_BUCKET}`]) {
          await expect(manager.streams.delete(name)).rejects.toThrow();
          await expect(manager.streams.update(name, { max_bytes: 1 << 20 })).rejects.toThrow();
          if (name !== `OBJ_${PACK_BUCKET}` || role !== 'packs')
            await expect(manager.streams.purge(name)).rejects.toThrow();
        }
        await expect(manager.streams.add({ name: 'mine', subjects: ['cofa.v1.roles.>'] })).rejects.toThrow();
        for (const name of [STREAM, SNAPSHOT_STREAM]) expect(await lastSeq(name)).toBeGreaterThan(0);
        expect(await packs('packs').list()).toEqual([]);
      },
    );

    // The creator of a consumer names its delivery subject, and a client that asks names the reply subject.
    test('the packs’ user cannot have a pack delivered into the log', async () => {
      const subject = names.event('mount', 'smuggled');
      // A consumer begins when a subscription on just that subject exists.
      const smuggled = await heard('supervisor', subject);
      const before = await lastSeq(STREAM);
      const event = encode({ v: 1, at: 1, type: 'mount.unmounted' });
      const manifest = digest();
      await packs('packs').put(
        manifest,
        DEFAULT_START,
        (async function* () {
          yield event;
        })(),
      );
      const config = {
        name: 'smuggler',
        deliver_subject: subject,
        ack_policy: 'none',
        deliver_policy: 'all',
      };
      const created = await buses.packs.request(
        `$JS.API.CONSUMER.CREATE.OBJ_${PACK_BUCKET}.smuggler`,
        JSON.stringify({ stream_name: `OBJ_${PACK_BUCKET}`, config }),
      );
      expect(created.json()).toMatchObject({ name: 'smuggler' });
      // It delivers: in its own account.
      await settle('packs', 'supervisor', 'packs', 'supervisor');
      expect(await lastSeq(STREAM)).toBe(before);
      expect(smuggled).toEqual([]);
      await packs('packs').remove(manifest, DEFAULT_START);
    });

    test.each(untrusted)('%s cannot have an answer of JetStream put into the log', async (role) => {
      const before = await lastSeq(STREAM);
      const reply = names.event('mount', 'smuggled');
      for (const call of [
        'INFO',
        `STREAM.INFO.${STREAM}`,
        `STREAM.MSG.GET.${STREAM}`,
        `STREAM.INFO.OBJ_${PACK_BUCKET}`,
      ])
        buses[role].publish(`$JS.API.${call}`, '{"seq":1}', { reply });
      await settle(role, 'supervisor', role, 'supervisor');
      expect(await lastSeq(STREAM)).toBe(before);
    });
  });
});

test('what an engine wrote before there were accounts is found again', async () => {
  const layout = new Layout(await cleanup.tempDir('roles-old'));
  await layout.prepare();
  const store = layout.in('nats');
  const first = await startNats(layout);
  const bus = await connectBus(first.users.supervisor, { name: 'test', reconnect: false });
  await EventLog.prepare(bus, { maxBytes: 16 << 20 });
  const { seq } = await new EventLog(bus, Date.now).append(layer(), layerEvent as never);
  await bus.close();
  await first.child.stop();
  // As it was: everything in the global account.
  const old = join(store, 'jetstream/$G/streams');
  await mkdir(old, { recursive: true });
  await rename(streamFolder(store, STREAM), join(old, STREAM));
  // A program of today below an engine of then: it syncs the files that are there.
  await new LogFiles(store).sync();

  const users = await start(layout, cleanup);
  const again = await connect(users, 'supervisor', cleanup);
  const { state } = await (await jetstreamManager(again)).streams.info(STREAM);
  expect(state).toMatchObject({ messages: 1, last_seq: seq });
  expect((await jetstream(again).publish(layer(), encode({ v: 1, at: 2, ...layerEvent }))).seq).toBe(seq + 1);
});
