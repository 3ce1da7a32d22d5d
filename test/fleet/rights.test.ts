/**
 * A private image in a fleet: who asks with what, and gets what. A real engine holds it; the registry wants tokens, or a
 * password (spegel issue 1432: a peer that has the bytes gave them to all).
 */
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, expect, it } from 'vitest';
import { PROOF_BYTES } from '../../actors/fleet-rights.ts';
import { PIECE_HEADERS, PIECE_STATUS } from '../../schemas/fleet.ts';
import { poolTo } from '../../src/fleet/tls.ts';
import { makeIdentity } from '../../src/process/nats-identity.ts';
import { type FaultImage, pushImage } from '../faults/fault-image.ts';
import { prose } from '../images/nasty.ts';
import { errorOf, eventually, mountImage, runCofa } from '../support/engine.ts';
import { type FaultRegistry, startFaultRegistry } from '../support/fault-registry.ts';
import { readInParallel } from '../support/readers.ts';
import { Cleanup } from '../support/temp.ts';
import { startMadeUp } from './made-up-member.ts';
import { fleetOf, startFleetNats, startMember, untilMet } from './support.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

const PASSWORD = 'a-password-that-no-file-may-hold';
const LOGIN = `Basic ${Buffer.from(`joe:${PASSWORD}`).toString('base64')}`;
const tokens = new Set<string>();

/** It is read with joe's password each time. */
function lock(registry: FaultRegistry): void {
  registry.fault = ({ request, response }) => {
    if (request.headers.authorization === LOGIN) return 'pass';
    response.writeHead(401, { 'www-authenticate': 'Basic realm="test"' }).end();
    return 'handled';
  };
}

/** `secret` is read with a token that joe gets, `public` by everyone. */
function guard(registry: FaultRegistry): void {
  registry.fault = ({ request, response, path, query }) => {
    const { authorization } = request.headers;
    if (path === '/token') {
      if (authorization !== LOGIN && query.get('scope')?.includes('secret') === true) {
        response.writeHead(401).end('{}');
        return 'handled';
      }
      const token = `token-${tokens.size}-${query.get('scope') ?? ''}`.replaceAll(/[^\w-]/g, '-');
      tokens.add(token);
      response.end(JSON.stringify({ token, expires_in: 300 }));
      return 'handled';
    }
    if (!path.startsWith('/v2/secret/')) return 'pass';
    const token = /^Bearer (.+)$/.exec(authorization ?? '')?.[1];
    if (token !== undefined && tokens.has(token)) return 'pass';
    const challenge = `Bearer realm="${registry.origin}/token",service="test",scope="repository:secret:pull"`;
    response.writeHead(401, { 'www-authenticate': challenge }).end();
    return 'handled';
  };
}

it('the registry decides for each asker: with a token of its own pull it gets the bytes of a peer, without nothing', async () => {
  const directory = await cleanup.tempDir('fleet-rights');
  const [registry, locked] = [await startFaultRegistry(), await startFaultRegistry()];
  for (const one of [registry, locked]) cleanup.defer(() => one.stop());
  const images: FaultImage[] = [];
  for (const [name, { host }] of [['secret', registry] as const, ['closed', locked] as const])
    images.push(
      await pushImage(join(directory, name), host, name, [
        { 'app/file': prose(6_000_000, name.codePointAt(0) as number) },
      ]),
    );
  const [secret, closed] = images as [FaultImage, FaultImage];
  for (const { ref } of images) expect((await runCofa(['index', ref])).code).toBe(0);
  guard(registry);
  lock(locked);
  const login = join(directory, 'docker');
  await mkdir(login);
  const auth = { auth: LOGIN.slice('Basic '.length) };
  const auths = { [registry.host]: auth, [locked.host]: auth };
  await writeFile(join(login, 'config.json'), JSON.stringify({ auths }));

  const names = ['one', 'two', 'poor', 'spy'];
  const fleet = await startFleetNats(cleanup, names);
  const has = { args: ['--docker-config', login] };
  const one = await startMember(cleanup, fleet, 'one', has);
  const two = await startMember(cleanup, fleet, 'two', { args: [...has.args, '--fleet-cache', '0'] });
  const poor = await startMember(cleanup, fleet, 'poor', { args: ['--fleet-cache', '0'] });
  await untilMet([one, two, poor]);
  const read = async (engine: typeof one, image: FaultImage, dir: string) => {
    await mountImage(engine, image.ref, join(directory, dir));
    const options = { root: join(directory, dir), expected: image.expected, readers: 2, copies: 1 };
    expect((await readInParallel(options)).failures).toEqual([]);
  };
  const gets = ({ blobs: [blob] }: FaultImage) =>
    registry.requests.filter(({ method, url }) => method === 'GET' && url.includes(blob?.digest ?? '?'))
      .length;

  // A piece is offered when a process has said that it is right, and it is on the disk: some moments after the read.
  const untilOffered = async () => {
    let last = -1;
    await eventually('all that it has read is kept', async () => {
      const before = last;
      await sleep(500);
      last = (await fleetOf(one)).cache.usedBytes;
      return last === before;
    });
  };

  // The first one's bytes came with its token; the second one shows its own, and the registry sends no byte again.
  await read(one, secret, 'secret-one');
  expect((await fleetOf(one)).bytes.origin).toBeGreaterThan(0);
  await untilOffered();
  const before = gets(secret);
  await read(two, secret, 'secret-two');
  expect(gets(secret)).toBe(before);
  expect((await fleetOf(two)).asked.node).toBeGreaterThan(0);

  // A password is handed to no member. The first node reads the blob by its own right, and offers it; the second one proves that
  // the registry gives it to it as well, by some bytes of it.
  const sentFor = (image: FaultImage) =>
    locked.requests
      .filter(({ method, url }) => method === 'GET' && url.includes(image.blobs[0]?.digest ?? '?'))
      .map(({ headers }) =>
        /^bytes=(\d+)-(\d+)$/
          .exec(headers.range ?? '')
          ?.slice(1)
          .map(Number),
      )
      .reduce((sum, range) => sum + (range === undefined ? 1e9 : (range[1] ?? 0) - (range[0] ?? 0) + 1), 0);
  await read(one, closed, 'closed-one');
  await untilOffered();
  const offered = sentFor(closed);
  expect(offered).toBeGreaterThan(0);
  const { asked } = await fleetOf(two);
  await read(two, closed, 'closed-two');
  expect((await fleetOf(two)).asked.node).toBeGreaterThan(asked.node);
  const proofs = sentFor(closed) - offered;
  expect(proofs).toBeGreaterThan(0);
  expect(proofs).toBeLessThanOrEqual(8 * PROOF_BYTES);

  // A node without the secret gets no image.
  const refused = await poor.cli(['mount', '--json', secret.ref, join(directory, 'poor')]);
  expect(errorOf(refused).code).toBe('unauthorized');

  // Nor does a member that knows the digest, whatever it comes with; a stranger is not even answered.
  const address = (await fleetOf(one)).members.find(({ name }) => name === 'one')?.address ?? '';
  const { identity, members } = await startMadeUp(cleanup, fleet, 'spy', {
    weight: 0,
    give: () => Promise.reject(new Error('it gives nothing')),
    heard: () => {},
  });
  const strange = await makeIdentity();
  const { fingerprint } = await eventually('the spy hears the others', () => members.find('one'));
  await eventually('the spy is heard', async () =>
    (await fleetOf(one)).members.some(({ name }) => name === 'spy'),
  );
  const ask = async (who: typeof identity, image: FaultImage, headers: Record<string, string>) => {
    const pool = poolTo({ address, fingerprint }, who);
    const [blob] = image.blobs as [{ digest: string; size: number }];
    const once = async () => {
      const { statusCode, body } = await pool.request({
        path: `/v1/piece/${blob.digest}/0`,
        method: 'GET',
        headers: {
          [PIECE_HEADERS.registry]: image === closed ? locked.host : registry.host,
          [PIECE_HEADERS.repository]: image.repository,
          [PIECE_HEADERS.size]: String(blob.size),
          [PIECE_HEADERS.class]: 'demand',
          ...headers,
        },
      });
      const bytes = await body.arrayBuffer();
      return [statusCode, bytes.byteLength > 1_000];
    };
    try {
      // A member is told when what it waits for has come; this one asks again.
      return await eventually('there is an answer', async () => {
        const answer = await once();
        return answer[0] === PIECE_STATUS.coming ? undefined : answer;
      });
    } finally {
      await pool.destroy();
    }
  };
  const [token] = [...tokens].toReversed();
  const noToken = { [PIECE_HEADERS.noToken]: '1' };
  const answers = {
    'a member without a token': await ask(identity, secret, {}),
    'a member with a token of its own making': await ask(identity, secret, {
      [PIECE_HEADERS.token]: 'made-up',
    }),
    'a member that names a public repository': await ask(
      identity,
      { ...secret, repository: 'public' } as FaultImage,
      {},
    ),
    'a member, for what takes a password': await ask(identity, closed, {}),
    'a member without the password, that says it has no token': await ask(identity, closed, noToken),
    'the same, with a proof of its own making': await ask(identity, closed, {
      ...noToken,
      [PIECE_HEADERS.proof]: `${'0'.repeat(32)} ${'0'.repeat(64)}`,
    }),
    'the same, with the password in the place of a token': await ask(identity, closed, {
      [PIECE_HEADERS.token]: PASSWORD,
    }),
    'a member with a token of the registry': await eventually('the refusal has ended', async () => {
      const answer = await ask(identity, secret, { [PIECE_HEADERS.token]: String(token) });
      return answer[0] === PIECE_STATUS.none ? undefined : answer;
    }),
    'a stranger with that token': await ask(strange, secret, { [PIECE_HEADERS.token]: String(token) }),
  };
  expect(answers).toEqual({
    'a member without a token': [401, false],
    'a member with a token of its own making': [404, false],
    'a member that names a public repository': [200, true],
    'a member, for what takes a password': [401, false],
    'a member without the password, that says it has no token': [403, false],
    'the same, with a proof of its own making': [403, false],
    'the same, with the password in the place of a token': [404, false],
    'a member with a token of the registry': [200, true],
    'a stranger with that token': [403, false],
  });

  // No token and no password is in any file of the engines.
  const secrets = [PASSWORD, LOGIN.slice('Basic '.length), ...tokens];
  for (const { root } of [one, two])
    for (const folder of ['run', 'log', 'fleet']) {
      const entries = await readdir(join(root, folder), { recursive: true, withFileTypes: true });
      for (const entry of entries.filter((file_) => file_.isFile())) {
        const bytes = await readFile(join(entry.parentPath, entry.name));
        for (const one_ of secrets) expect(bytes.includes(one_), `${entry.name} holds a secret`).toBe(false);
      }
    }
});
