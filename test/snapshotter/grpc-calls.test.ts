/** gRPC on the wire: what a client that follows the protocol gets, and one that does not. No engine. */
import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Code, ConnectError } from '@connectrpc/connect';
import { afterEach, beforeEach, expect, test } from 'vitest';
import {
  type Info,
  InfoSchema,
  Snapshots,
} from '../../src/containerd/generated/containerd/services/snapshots/v1/snapshots_pb.ts';
import { create } from '@bufbuild/protobuf';
import { type Calls, grpcCalls } from '../../src/snapshotter/grpc-calls.ts';
import { serveStreams } from '../../src/snapshotter/server.ts';
import { eventually } from '../support/engine.ts';
import { Cleanup } from '../support/temp.ts';
import { connectSnapshotter, refused, type SnapshotClient } from './test-bed.ts';

let cleanup: Cleanup;
let socket: string;
let client: SnapshotClient;
/** Messages of a list that were made, and whether it has ended. */
let listed: number;
let listEnded: boolean;

const notHere = async (): Promise<never> => {
  throw new ConnectError('not here', Code.Unimplemented);
};
const info = (name: string): Info => create(InfoSchema, { name });

const CALLS: Calls<typeof Snapshots> = {
  prepare: notHere,
  view: notHere,
  mounts: async ({ key }) => ({ mounts: [{ type: 'bind', source: key, options: ['rw'] }] }),
  commit: async () => {
    throw new ConnectError('100 % “ünï”\n', Code.FailedPrecondition);
  },
  remove: async () => {
    throw new Error('of no kind');
  },
  stat: notHere,
  update: notHere,
  usage: notHere,
  cleanup: async () => ({}),
  async *list({ filters }) {
    try {
      for (listed = 0; listed < 2_000; listed++) {
        if (filters[0] === `fails at ${listed}`) throw new ConnectError('half', Code.DataLoss);
        yield { info: [info(`${listed} ${'x'.repeat(50_000)}`)] };
      }
    } finally {
      listEnded = true;
    }
  },
};

beforeEach(async () => {
  cleanup = new Cleanup();
  listed = 0;
  listEnded = false;
  socket = join(await cleanup.tempDir('grpc'), 's.sock');
  const server = await serveStreams(socket, grpcCalls(Snapshots, CALLS, Date.now));
  cleanup.defer(() => server.close(100));
  client = connectSnapshotter(socket);
  cleanup.defer(() => client.close());
});
afterEach(() => cleanup.run());

test('calls are answered, also many at once, and errors keep their code and their words', async () => {
  const keys = Array.from({ length: 200 }, (_, n) => `key ${n}`);
  const answers = await Promise.all(keys.map((key) => client.api.mounts({ key })));
  expect(answers.map(({ mounts }) => mounts[0]?.source)).toEqual(keys);
  await client.api.cleanup({});
  const error = await refused(client.commit('name', 'key'), Code.FailedPrecondition);
  expect(error.rawMessage).toBe('100 % “ünï”\n');
  await refused(client.remove('key'), Code.Unknown);
});

test('a list comes in order; one that fails in the middle says so behind what came', async () => {
  const names: string[] = [];
  const work = async () => {
    for await (const { info: found } of client.api.list({ filters: ['fails at 100'] }))
      names.push(...found.map(({ name }) => name.split(' ')[0] ?? ''));
  };
  await refused(work(), Code.DataLoss);
  expect(names).toEqual(Array.from({ length: 100 }, (_, n) => `${n}`));
});

test('a list is made no faster than its client reads, and no further when that has gone', async () => {
  const session = raw();
  const stream = session.request({ ...POST, ':path': `/${Snapshots.typeName}/List` });
  stream.on('error', () => {});
  stream.end(frameOf(0, Buffer.alloc(0)));
  await eventually('the list begins', () => listed > 0);
  for (let before = -1; before !== listed; await sleep(100)) before = listed;
  expect(listed).toBeLessThan(1_000);
  stream.destroy();
  await eventually('the list ends', () => listEnded);
});

test('what is no message of a known method is refused, and the others are answered', async () => {
  const session = raw();
  const message = Buffer.from([0x12, 3, 0x6b, 0x65, 0x79]);
  const whole = frameOf(0, message);
  expect(await send(session, 'Mounts', whole)).toBe('0');
  expect(await send(session, 'Mounts', ...[...whole].map((byte) => Buffer.from([byte])))).toBe('0');
  expect(await send(session, 'Mount', whole)).toBe(`${Code.Unimplemented}`);
  expect(await send(session, '__proto__', whole)).toBe(`${Code.Unimplemented}`);
  expect(await send(session, 'Mounts', frameOf(1, message))).toBe(`${Code.Unimplemented}`);
  for (const bytes of [
    Buffer.alloc(0),
    whole.subarray(0, 3),
    whole.subarray(0, -1),
    Buffer.concat([whole, whole]),
    Buffer.concat([whole, Buffer.from([0])]),
    frameOf(0, Buffer.from([0x12, 9, 0x6b])),
  ])
    expect(await send(session, 'Mounts', bytes)).toBe(`${Code.InvalidArgument}`);
  const large = Buffer.alloc((16 << 20) + 1);
  expect(await send(session, 'Mounts', frameOf(0, large))).toBe(`${Code.ResourceExhausted}`);
  expect(await send(session, 'Mounts', whole)).toBe('0');
});

const POST = { ':method': 'POST', 'content-type': 'application/grpc' };

function raw(): ClientHttp2Session {
  const session = connectHttp2('http://localhost', { createConnection: () => connect(socket) });
  session.on('error', () => {});
  cleanup.defer(() => session.destroy());
  return session;
}

/** A message as gRPC sends it. */
function frameOf(flag: number, message: Buffer): Buffer {
  const head = Buffer.from([flag, 0, 0, 0, 0]);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

/** The status that bytes get which a client sends to a method. */
function send(session: ClientHttp2Session, method: string, ...pieces: Buffer[]): Promise<string | undefined> {
  return new Promise((resolve) => {
    const stream = session.request({ ...POST, ':path': `/${Snapshots.typeName}/${method}` });
    let status: string | undefined;
    stream.on('response', (headers) => (status ??= headers['grpc-status'] as string | undefined));
    stream.on('trailers', (trailers) => (status ??= trailers['grpc-status'] as string | undefined));
    stream.on('error', () => {});
    stream.on('close', () => resolve(status));
    stream.resume();
    for (const piece of pieces) stream.write(piece);
    stream.end();
  });
}
