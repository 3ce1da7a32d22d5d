/**
 * What a member does in a start, as a rehearsal (src/process/rehearsal/rehearsal.ts): two members of a fleet of their own, both of
 * this process and on loopback. A process of the one's node wants pieces; its member asks the other one, which fetches them from a
 * registry of the rehearsal and gives them over TLS. The members speak past NATS, and no one else hears of them.
 */
import { randomBytes, X509Certificate } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo, Server as NetServer } from 'node:net';
import { Counts } from '../../actors/counts.ts';
import { Peers } from '../../actors/fleet-peers.ts';
import type { BlobSource } from '../../schemas/fetch.ts';
import type { FleetHold, Member } from '../../schemas/fleet.ts';
import { createLog } from '../process/log.ts';
import type { Clock } from '../process/ports.ts';
import { type Rehearsal, repeat } from '../process/rehearsal/rounds.ts';
import { RegistryClient } from '../registry/client.ts';
import { Pool } from '../registry/undici-parts.ts';
import type { Layout } from '../store/layout.ts';
import { openDoor } from './door.ts';
import { assemble, type Parts } from './member.ts';
import { asRequest } from './piece-request.ts';
import { pieceServer } from './piece-server.ts';
import { Pools } from './pools.ts';
import type { Identity } from './tls.ts';

/** Of a round, each of a blob of its own: large ones would cost time for their bytes, which native code moves. */
const PIECES = 8;
const BYTES = 64 << 10;
/** The rehearsal's pieces on the disk, bytes. */
const CACHE = 2 << 20;
const LIMIT_MS = 10_000;

export interface MemberRehearsal {
  /** Of this process's member; both of the rehearsal show it. */
  identity: Identity;
  clock: Clock;
}

/** Throws what is wrong in it. */
export async function rehearseMember(rehearsal: Rehearsal, given: MemberRehearsal): Promise<void> {
  let pair: Pair | undefined;
  try {
    await repeat(rehearsal, async (layout) => {
      pair ??= await openPair(layout, given);
      await start(pair);
    });
  } finally {
    await pair?.close();
  }
}

interface Pair {
  registry: string;
  /** To the door of the one that asks. */
  door: InstanceType<typeof Pool>;
  close(): Promise<void>;
}

/** The pieces of an image come, are verified, and are told to the home. */
async function start({ registry, door }: Pair): Promise<void> {
  const one = async (): Promise<void> => {
    const digest = `sha256:${randomBytes(32).toString('hex')}`;
    const source: BlobSource = { registry, repository: 'rehearsal', digest, size: BYTES };
    const signal = AbortSignal.timeout(LIMIT_MS);
    const asked = {
      source,
      index: 0,
      class: 'demand',
      token: undefined,
      noToken: false,
      tried: [],
      forHome: false,
    } as const;
    const { statusCode, body } = await door.request({ ...asRequest(asked), signal });
    const { byteLength } = await body.arrayBuffer();
    if (statusCode !== 200 || byteLength !== BYTES)
      throw new Error(`the rehearsal got ${byteLength} bytes of a piece, with ${statusCode}`);
    const right: FleetHold = { v: 1, source, pieces: [0] };
    const told = await door.request({
      path: '/v1/right',
      method: 'POST',
      body: JSON.stringify(right),
      signal,
    });
    await told.body.dump();
  };
  await Promise.all(Array.from({ length: PIECES }, one));
}

async function openPair(layout: Layout, given: MemberRehearsal): Promise<Pair> {
  await mkdir(layout.root, { recursive: true, mode: 0o700 });
  const ends: Array<() => unknown> = [];
  const close = async () => {
    for (const end of ends.toReversed()) await end();
  };
  try {
    const blobs = serveBlobs();
    ends.push(() => closed(blobs));
    const registry = await listening(blobs);
    const client = new RegistryClient({
      dockerConfig: '/dev/null',
      certDirs: [],
      hostDirs: [],
      environment: {},
    });
    ends.push(() => client.close());
    const members = new Map<string, Member>();
    const open = (name: string) => openOne(name, members, client, layout, given, ends);
    const [asker] = [await open('asker'), await open('home')];
    const socket = layout.in('door');
    const door = await openDoor({
      socket,
      self: 'asker',
      asking: asker.asking,
      proofs: asker.proofs,
      find: (id) => members.get(id),
      onUse: () => {},
      onWrong: asker.wrong,
      onRight: ({ source, pieces }) => asker.asking.verified(source, pieces),
      counts: new Counts(),
      log: createLog('rehearsal', 'silent'),
    });
    ends.push(() => closed(door));
    const pool = new Pool('http://member', { socketPath: socket, connections: PIECES });
    ends.push(() => pool.destroy());
    return { registry, door: pool, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** A member of the rehearsal, which `home` is the only home for. */
async function openOne(
  self: string,
  members: Map<string, Member>,
  registry: RegistryClient,
  layout: Layout,
  { identity, clock }: MemberRehearsal,
  ends: Array<() => unknown>,
): Promise<Parts> {
  const find = (id: string) => (id === self ? undefined : members.get(id));
  const pools = new Pools({ identity, find });
  ends.push(() => pools.close());
  const log = createLog('rehearsal', 'silent');
  const counts = new Counts();
  const parts = await assemble({
    fleet: 'rehearsal',
    self,
    dir: layout.in(self),
    cacheBytes: CACHE,
    uploadBytes: undefined,
    members: {
      cell: () => undefined,
      homes: () => ['home'],
      standIns: () => [],
      find,
      stateOf: () => 'live',
    },
    peers: new Peers(Math.random),
    pools,
    registry,
    onLiar: () => {},
    ledger: { nodes: () => [], prove: async () => [], random: Math.random, newNonce: () => '' },
    clock,
    counts,
    log,
  });
  ends.push(() => parts.close());
  const server = pieceServer({
    identity,
    give: (from, asked, signal) => parts.giving.give(from, asked, signal),
    messages: parts.messages,
    // There are two of them.
    memberOf: () => [...members.values()].find(({ id }) => id !== self),
    rate: undefined,
    counts,
    log,
  });
  ends.push(() => closed(server));
  const address = await listening(server);
  const { fingerprint256: fingerprint } = new X509Certificate(identity.certificate);
  members.set(self, {
    v: 2,
    fleet: 'rehearsal',
    id: self,
    zone: 'rehearsal',
    address,
    fingerprint,
    role: 'node',
    weight: 1,
    version: '',
    life: '',
    since: 0,
    everyMs: 60_000,
  });
  return parts;
}

/** A registry in which each blob has the same bytes. */
function serveBlobs(): Server {
  const blob = randomBytes(BYTES);
  return createServer((request, response) => {
    const [, from = '0', to = String(BYTES - 1)] =
      /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
    const part = blob.subarray(Number(from), Number(to) + 1);
    response
      .writeHead(206, {
        'content-type': 'application/octet-stream',
        'content-length': part.length,
        'content-range': `bytes ${from}-${Number(from) + part.length - 1}/${BYTES}`,
      })
      .end(part);
  });
}

async function listening(server: NetServer): Promise<string> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function closed(server: NetServer & { closeAllConnections(): void }): Promise<void> {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
}
