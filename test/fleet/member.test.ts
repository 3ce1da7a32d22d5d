/** The parts of one member around its actors, with a registry that the test holds. No engine, no NATS. */
import { createHash, randomBytes } from 'node:crypto';
import { afterAll, expect, it } from 'vitest';
import { Counts } from '../../actors/counts.ts';
import { pieceKey } from '../../actors/fleet-home-protocol.ts';
import { Peers } from '../../actors/fleet-peers.ts';
import { FleetRights } from '../../actors/fleet-rights.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { BlobSource } from '../../schemas/fetch.ts';
import { type FleetChallenge, type Member, PIECE_BYTES } from '../../schemas/fleet.ts';
import { Getting } from '../../src/fleet/getting.ts';
import { assemble, type Parts, type PartsOptions } from '../../src/fleet/member.ts';
import { PieceStore } from '../../src/fleet/piece-store.ts';
import type { PieceAsk, PieceOrder } from '../../src/fleet/piece-request.ts';
import { Pools } from '../../src/fleet/pools.ts';
import { Proofs } from '../../src/fleet/proofs.ts';
import { encode } from '../../src/bus/connection.ts';
import { createLog } from '../../src/process/log.ts';
import { realPorts } from '../../src/process/ports.ts';
import type { RegistryClient } from '../../src/registry/client.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

const source: BlobSource = {
  registry: 'registry.example',
  repository: 'app',
  digest: `sha256:${'e'.repeat(64)}`,
  size: 4 * PIECE_BYTES,
};
const asked = (index: number, more: Partial<PieceAsk> = {}): PieceAsk => ({
  source,
  index,
  class: 'demand',
  token: undefined,
  noToken: false,
  tried: [],
  forHome: false,
  ...more,
});
const order = (index: number): PieceOrder => ({
  source,
  index,
  class: 'demand',
  token: undefined,
  noToken: false,
  from: 0,
  to: PIECE_BYTES,
});

type Registry = Pick<RegistryClient, 'part' | 'isBlobGiven'>;

/** A member that is the only home; the test speaks for others. */
async function newMember(
  registry: Registry,
  dir: string,
  onLiar: PartsOptions['onLiar'] = () => {},
  more: Partial<PartsOptions> = {},
) {
  let ahead = 0;
  const { clock } = realPorts();
  const member = { id: 'other' } as Member;
  const find = (id: string) => (id === 'home' ? undefined : { ...member, id });
  const parts = await assemble({
    fleet: 'test',
    self: 'home',
    dir,
    cacheBytes: 1e9,
    uploadBytes: undefined,
    members: {
      cell: () => undefined,
      homes: () => ['home'],
      standIns: () => [],
      find,
      stateOf: () => 'live',
    },
    peers: new Peers(() => 0),
    pools: new Pools({ identity: { key: '', certificate: '' }, find: () => undefined }),
    registry,
    onLiar,
    ledger: { nodes: () => [], prove: async () => [], random: () => 0, newNonce: () => '0'.repeat(32) },
    clock: { ...clock, now: () => clock.now() + ahead },
    counts: new Counts(),
    log: createLog('member', 'silent'),
    ...more,
  });
  cleanup.defer(() => parts.close());
  return { parts, turn: (ms: number) => (ahead += ms) };
}

/** The bytes, or the state of the answer. One that is told to wait comes again. */
async function come({ giving }: Parts, from: string, one: PieceAsk): Promise<Buffer | string> {
  for (;;) {
    const given = await giving.give(from, one, AbortSignal.timeout(60_000));
    if (given.answer === undefined) {
      given.done();
      return given.piece.bytes;
    }
    if (given.answer.state !== 'coming') return given.answer.state;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

it('the registry is asked once for a piece, however many ask, at whatever moment, members and processes of the node', async () => {
  let requests = 0;
  const bytes = randomBytes(PIECE_BYTES);
  const { parts } = await newMember(
    {
      part: async () => {
        requests += 1;
        await new Promise((resolve) => setTimeout(resolve, 5));
        return bytes;
      },
      isBlobGiven: async () => true,
    },
    await cleanup.tempDir('member'),
  );
  const askers: Array<Promise<Buffer | string>> = [];
  for (let steps = 0; steps < 60; steps++) {
    const process = async () => (await parts.asking.piece(order(0), AbortSignal.timeout(60_000))).bytes;
    askers.push(steps % 3 === 0 ? process() : come(parts, `member-${steps % 7}`, asked(0)));
    await (steps % 2 === 0 ? Promise.resolve() : new Promise(setImmediate));
  }
  for (const got of await Promise.all(askers)) expect(bytes.equals(got as Buffer)).toBe(true);
  expect(requests).toBe(1);
});

it('a member that has the home fetch a digest from a registry of its own spoils it for no one, nor over a restart', async () => {
  const [right, evil] = [randomBytes(PIECE_BYTES), randomBytes(PIECE_BYTES)];
  const registry: Registry = {
    part: async ({ registry: host }) => (host === 'evil.example' ? evil : right),
    isBlobGiven: async () => true,
  };
  const dir = await cleanup.tempDir('member');
  const spoilt = asked(0, { source: { ...source, registry: 'evil.example' } });
  for (const life of [1, 2]) {
    const { parts } = await newMember(registry, dir);
    expect(evil.equals((await come(parts, 'evil', spoilt)) as Buffer)).toBe(true);
    expect(right.equals((await come(parts, 'asker', asked(0))) as Buffer)).toBe(true);
    const { bytes } = await parts.asking.piece(order(0), AbortSignal.timeout(60_000));
    expect(right.equals(bytes)).toBe(true);
    await expect.poll(() => parts.store.pieces).toBe(2);
    if (life === 1) parts.close();
  }
});

it('a process gets nothing by the right of another one that reads the same blob of another repository at that moment', async () => {
  const tokens: unknown[] = [];
  const bytes = randomBytes(PIECE_BYTES);
  const given = Promise.withResolvers<void>();
  const { parts } = await newMember(
    {
      part: async ({ repository }, _blob, _range, right) => {
        if (right === 'everyone') throw new CofaError('unauthorized', 'not to everyone');
        tokens.push([repository, right.token]);
        await given.promise;
        return bytes;
      },
      isBlobGiven: async ({ repository }, _digest, right) => right !== 'everyone' && repository === 'app',
    },
    await cleanup.tempDir('member'),
  );
  const want = (more: Partial<PieceOrder>) =>
    parts.asking.piece({ ...order(0), ...more }, AbortSignal.timeout(60_000));
  const stranger = { ...source, repository: 'stranger/image' };
  await expect(want({})).rejects.toMatchObject({ state: 'bring' });
  const mine = want({ token: 'mine' });
  const theirs = want({ source: stranger, token: 'theirs' }).catch((error: unknown) => error);
  setTimeout(given.resolve, 50);
  expect((await mine).bytes.equals(bytes)).toBe(true);
  expect(await theirs).toMatchObject({ state: 'none' });
  expect(tokens).toEqual([['app', 'mine']]);
});

it('who is named for bytes is the member that they came from, also where another one has sent the same piece since', async () => {
  const [right, lie] = [randomBytes(PIECE_BYTES), randomBytes(PIECE_BYTES)];
  const find = (id: string) => ({ id }) as Member;
  const request = async (bytes: Buffer) => ({ statusCode: 200, headers: {}, body: [bytes] });
  const { parts } = await newMember(
    { part: () => Promise.reject(new Error('away')), isBlobGiven: async () => true },
    await cleanup.tempDir('member'),
    () => {},
    {
      members: {
        cell: () => undefined,
        homes: () => ['honest'],
        standIns: () => [],
        find,
        stateOf: () => 'live',
      },
      pools: { to: (id: string) => ({ request: () => request(id === 'liar' ? lie : right) }) } as never,
    },
  );
  const want = async (from: string, of: BlobSource, part: number) => {
    const order_ = { ...order(0), source: of, from: part, to: part + 100 };
    const coming = parts.asking.piece(order_, AbortSignal.timeout(60_000));
    parts.asking.answered('honest', of, { index: 0, state: 'have', at: from });
    return await coming;
  };
  const other = { ...source, repository: 'other' };
  expect((await want('honest', source, 0)).from).toBe('honest');
  expect((await want('liar', other, 0)).from).toBe('liar');
  for (const part of [100, 200]) {
    const { bytes, from } = await want('honest', source, part);
    expect([from, bytes.equals(right.subarray(part, part + 100))]).toEqual(['honest', true]);
  }
});

it('nothing is given to a member that has shown no right, whatever lies on the disk, nor while the registry is silent', async () => {
  const answers = new Map<string, boolean | Error>([
    ['everyone', false],
    ['good', true],
  ]);
  const { parts, turn } = await newMember(
    {
      part: async (_source, _blob, _range, right) => {
        if (right === 'everyone') throw new CofaError('unauthorized', 'not to everyone');
        return randomBytes(PIECE_BYTES);
      },
      isBlobGiven: async (_source, _digest, right) => {
        const answer = answers.get(right === 'everyone' ? right : right.token) ?? false;
        if (answer instanceof Error) throw answer;
        return answer;
      },
    },
    await cleanup.tempDir('member'),
  );
  const ask = async (member: string, token?: string) => {
    const got = await come(parts, member, asked(0, { token }));
    return typeof got === 'string' ? got : 'bytes';
  };
  expect(await ask('one', 'good')).toBe('bytes');
  expect(await ask('two')).toBe('bring');
  expect(await ask('two', 'bad')).toBe('none');
  // What one has shown serves no other, and ends.
  answers.set('good', false);
  expect(await ask('one', 'good')).toBe('bytes');
  turn(2_001);
  expect(await ask('two', 'good')).toBe('none');
  turn(60_001);
  expect(await ask('one', 'good')).toBe('none');
  turn(2_001);
  answers.set('good', new Error('away'));
  expect(await ask('one', 'good')).toBe('none');
  expect(await ask('two')).toBe('bring');
});

it('who gave a piece is known after a restart: a wrong one names its liar, and all that came from there is dropped', async () => {
  const dir = await cleanup.tempDir('member');
  const [right, lie] = [randomBytes(PIECE_BYTES), randomBytes(PIECE_BYTES)];
  const before = await PieceStore.open({ dir, limitBytes: 1e9, now: () => 0 });
  for (const index of [0, 1]) await before.write(pieceKey(source, index), lie, 'liar');
  await before.write(pieceKey(source, 2), right, 'honest');
  const blamed: unknown[] = [];
  const { parts } = await newMember(
    { part: async () => right, isBlobGiven: async () => true },
    dir,
    (member, from, piece) => blamed.push([member, from, piece]),
  );
  parts.uses(source.registry);
  const given = await parts.asking.piece(order(0), AbortSignal.timeout(60_000));
  expect(given.bytes.equals(lie)).toBe(true);
  parts.wrong({ v: 1, source, index: 0, member: given.from });
  expect(blamed).toEqual([['liar', undefined, { digest: source.digest, index: 0 }]]);
  for (const index of [0, 1])
    expect(right.equals((await come(parts, 'asker', asked(index))) as Buffer)).toBe(true);
  expect(parts.store.originOf(pieceKey(source, 2))).toBe('honest');
});

it('what a registry sends that no one here uses names no member a liar, however often one has it asked', async () => {
  const peers = new Peers(() => 0);
  const named: string[] = [];
  const dir = await cleanup.tempDir('member');
  const evil = { ...source, registry: 'evil.example' };
  const before = await PieceStore.open({ dir, limitBytes: 1e9, now: () => 0 });
  for (const index of [0, 1, 2, 3])
    await before.write(pieceKey(evil, index), randomBytes(PIECE_BYTES), 'honest');
  const { parts } = await newMember(
    { part: async () => randomBytes(PIECE_BYTES), isBlobGiven: async () => true },
    dir,
    (member) => named.push(member),
    { peers },
  );
  for (const index of [0, 1, 2, 3]) {
    await come(parts, 'accuser', asked(index, { source: evil }));
    parts.messages.takeDirect('wrong', 'accuser', encode({ v: 1, source: evil, index, member: 'home' }));
    await expect.poll(() => parts.store.originOf(pieceKey(evil, index))).toBe('registry');
  }
  const [{ reason, until } = { reason: '', until: 0 }] = peers.leftOut(performance.now());
  expect([named, reason, until < performance.now() + 10_001]).toEqual([[], 'cheated', true]);
});

it('one that asks for proofs without end has a home read a few pieces at once, and is told that it is busy', async () => {
  let [reads, most] = [0, 0];
  const proofs = new Proofs({
    self: 'home',
    rights: new FleetRights(),
    pieces: {
      // Of a run of zeros nothing is asked: the next question has the next piece read.
      read: async () => {
        most = Math.max(most, ++reads);
        await new Promise((resolve) => setTimeout(resolve, 1));
        reads -= 1;
        return { bytes: Buffer.alloc(PIECE_BYTES), from: 'registry' };
      },
    },
    now: () => 0,
  });
  const answers = await Promise.all(
    Array.from({ length: 500 }, (_, turn) => proofs.ask('spy', source, turn % 4)),
  );
  expect(most).toBe(4);
  expect(new Set(answers.map(({ state }) => state))).toEqual(new Set(['none', 'busy']));
});

it('from whom a member had a piece is a name, or nothing', async () => {
  let from = '';
  const headers = () => ({ 'x-cofa-from': from });
  const request = async () => ({ statusCode: 200, headers: headers(), body: [Buffer.alloc(PIECE_BYTES)] });
  const getting = new Getting({
    pools: { to: () => ({ request }) as never },
    peers: new Peers(() => 0),
    now: () => 0,
  });
  const said: unknown[] = [];
  for (from of ['node-2', 'registry', 'x'.repeat(8_000), 'two words']) {
    await getting.get('member', asked(0), () => {});
    said.push(getting.viaOf('member', pieceKey(source, 0)));
  }
  expect(said).toEqual(['node-2', undefined, undefined, undefined]);
});

it('what a liar gave is dropped without being read, however much it is', async () => {
  const dir = await cleanup.tempDir('member');
  const before = await PieceStore.open({ dir, limitBytes: 1e9, now: () => 0 });
  const lie = randomBytes(PIECE_BYTES);
  for (const index of [0, 1, 2, 3]) await before.write(pieceKey(source, index), lie, 'liar');
  const { parts } = await newMember({ part: async () => lie, isBlobGiven: async () => true }, dir);
  const reads: string[] = [];
  const { read } = parts.store;
  parts.store.read = (key, length) => {
    reads.push(key);
    return read.call(parts.store, key, length);
  };
  parts.uses(source.registry);
  parts.wrong({ v: 1, source, index: 0, member: 'home' });
  parts.dropFrom('liar');
  await expect.poll(() => parts.store.pieces).toBe(0);
  expect(reads).toEqual([pieceKey(source, 0)]);
});

it('without tokens a process of the node reads a piece for all, and each other asker proves that the registry gives it the blob', async () => {
  const bytes = randomBytes(PIECE_BYTES);
  const { parts, turn } = await newMember(
    {
      part: () => Promise.reject(new CofaError('unauthorized', 'not to everyone')),
      isBlobGiven: async () => false,
    },
    await cleanup.tempDir('member'),
  );
  const want = (index: number) =>
    parts.asking.piece({ ...order(index), noToken: true }, AbortSignal.timeout(60_000));
  // Two processes want it: one is told to read it, and both have it then.
  const both = [want(0), want(0)];
  const [reader, other] = both as [Promise<unknown>, (typeof both)[0]];
  await expect(reader).rejects.toMatchObject({ state: 'fetch' });
  parts.asking.offered(source, 0, bytes);
  expect((await other).bytes.equals(bytes)).toBe(true);
  // One that could not read it says so, and the others go to the registry by themselves.
  const failed = [want(1), want(1)] as const;
  await expect(failed[0]).rejects.toMatchObject({ state: 'fetch' });
  parts.asking.offered(source, 1, undefined);
  await expect(failed[1]).rejects.toMatchObject({ state: 'none' });

  const noToken = { noToken: true };
  const ask = async (from: string, more: Partial<PieceAsk> = {}) => {
    for (;;) {
      const given = await parts.giving.give(
        from,
        asked(0, { ...noToken, ...more }),
        AbortSignal.timeout(60_000),
      );
      if (given.answer?.state !== 'coming') return given;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  };
  const proofOf = (from: string, { nonce, ...range }: FleetChallenge, of = bytes) => {
    const part = of.subarray(range.from, range.to);
    return { nonce, hash: createHash('sha256').update(`${nonce}\n${from}\n`).update(part).digest('hex') };
  };
  const challengeFor = async (from: string) => {
    const { answer } = await ask(from);
    expect(answer?.state).toBe('prove');
    return answer?.challenge as FleetChallenge;
  };
  const mine = await challengeFor('friend');
  const theirs = await challengeFor('spy');
  expect(theirs.nonce).not.toBe(mine.nonce);
  // Neither a guess, nor the friend's answer, nor a second try before the challenge has ended.
  for (const proof of [
    proofOf('spy', theirs, randomBytes(PIECE_BYTES)),
    proofOf('friend', mine),
    proofOf('spy', theirs),
  ])
    expect((await ask('spy', { proof })).answer?.state).toBe('prove');
  expect(await challengeFor('spy')).toEqual(theirs);
  const given = await ask('friend', { proof: proofOf('friend', mine) });
  expect(given.answer === undefined && given.piece.bytes.equals(bytes)).toBe(true);
  // What it has shown ends.
  turn(60_001);
  expect((await ask('friend')).answer?.state).toBe('prove');
  // The node's own processes are askers like any others.
  await expect(want(0)).rejects.toMatchObject({ state: 'prove' });
});
