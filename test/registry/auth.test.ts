import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { serveLocal } from '../../src/bus/local-socket.ts';
import { RegistryClient } from '../../src/registry/client.ts';
import { type FaultRegistry, startFaultRegistry } from '../support/fault-registry.ts';

const BYTES = Buffer.from('layer');
const PASSWORD = 'correct horse:battery';

let registry: FaultRegistry;
let tokens: FaultRegistry;
let folder: string;
let client: RegistryClient;
let now: number;
let log: string[];
/** What the token service takes; tests change it. */
let password: string;
/** Tokens that the registry takes. */
let valid: Set<string>;
let blob: { digest: string; size: number };

const source = (repository = 'team/app') => ({ registry: registry.host, repository });
const read = (repository?: string) => client.blob(source(repository), blob);
const basic = (user: string, secret: string) =>
  `Basic ${Buffer.from(`${user}:${secret}`).toString('base64')}`;
const sent = (from: FaultRegistry) => from.requests.map(({ headers }) => headers.authorization);

const form = (index: number) => new URLSearchParams(tokens.requests[index]!.body.toString());

function login(entry: object | undefined): void {
  const auths = entry === undefined ? {} : { [registry.host]: entry };
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ auths }));
}

/** A registry that wants a token of the service. */
function wantToken(realm = `${tokens.origin}/token`): void {
  registry.fault = ({ request, response, path }) => {
    const token = /^Bearer (.+)$/.exec(request.headers.authorization ?? '')?.[1];
    if (token !== undefined && valid.has(token)) return 'pass';
    const repository = /^\/v2\/(.+)\/(?:blobs|manifests)\//.exec(path)?.[1];
    const scope = repository === undefined ? '' : `,scope="repository:${repository}:pull"`;
    response.writeHead(401, {
      'www-authenticate': `Bearer realm="${realm}",service="reg, \\"one\\""${scope}`,
    });
    response.end(JSON.stringify({ errors: [{ code: 'UNAUTHORIZED', message: 'authentication required' }] }));
    return 'handled';
  };
}

/** A registry that wants user and password. */
function wantBasic(): void {
  registry.fault = ({ request, response }) => {
    if (request.headers.authorization === basic('joe', password)) return 'pass';
    response.writeHead(401, { 'www-authenticate': 'Basic realm="test"' }).end();
    return 'handled';
  };
}

beforeEach(async () => {
  registry = await startFaultRegistry();
  tokens = await startFaultRegistry();
  blob = registry.addBlob(BYTES);
  folder = mkdtempSync(join(tmpdir(), 'cofa-auth-'));
  now = 1_000_000;
  log = [];
  password = PASSWORD;
  valid = new Set();
  tokens.fault = ({ request, response, query, seen }) => {
    const { authorization } = request.headers;
    if (authorization !== undefined && authorization !== basic('joe', password)) {
      response.writeHead(401).end(JSON.stringify({ details: 'incorrect username or password' }));
      return 'handled';
    }
    const token = `token-${seen}-${query.get('scope')}`;
    valid.add(token);
    response.end(JSON.stringify({ token, expires_in: 300 }));
    return 'handled';
  };
  client = new RegistryClient({
    dockerConfig: folder,
    environment: { PATH: process.env['PATH'] },
    retry: { attempts: 2, baseMs: 1 },
    ambient: { now: () => now, sleep: async () => {}, random: () => 0 },
    log: {
      debug: (fields, message) => void log.push(JSON.stringify(fields) + message),
      warn: (fields, message) => void log.push(JSON.stringify(fields) + message),
    },
  });
});

afterEach(async () => {
  await client.close();
  await registry.stop();
  await tokens.stop();
  rmSync(folder, { recursive: true, force: true });
});

describe('basic', () => {
  test('nothing is sent until the registry asks, then user and password', async () => {
    wantBasic();
    login({ auth: Buffer.from(`joe:${PASSWORD}`).toString('base64') });
    expect(await read()).toEqual(BYTES);
    await read();
    expect(sent(registry)).toEqual([undefined, basic('joe', PASSWORD), basic('joe', PASSWORD)]);
  });

  test('a registry that does not ask never learns who we are', async () => {
    login({ username: 'joe', password: PASSWORD });
    await read();
    expect(sent(registry)).toEqual([undefined]);
  });

  test('a password changed in the configuration works without a restart', async () => {
    wantBasic();
    login({ username: 'joe', password: PASSWORD });
    await read();
    password = 'second';
    await expect(read()).rejects.toMatchObject({ code: 'unauthorized' });
    login({ username: 'joe', password });
    expect(await read()).toEqual(BYTES);
  });

  test('a wrong password is refused once, with who and what to do, and without the secret', async () => {
    wantBasic();
    login({ username: 'joe', password: 'wrong-secret' });
    const error = await read().catch((error: unknown) => error);
    expect(error).toMatchObject({
      code: 'unauthorized',
      hint: expect.stringContaining(`docker login ${registry.host}`),
    });
    expect(String(error)).toContain('"joe"');
    expect(String(error)).toContain(join(folder, 'config.json'));
    expect(JSON.stringify([error, String((error as Error).stack), log])).not.toContain('wrong-secret');
    expect(registry.requests).toHaveLength(2);
    // The same password is not tried twice: accounts get locked for that.
    await expect(read()).rejects.toMatchObject({ code: 'unauthorized' });
    expect(registry.requests).toHaveLength(3);
  });

  test('without credentials the hint is to log in', async () => {
    wantBasic();
    await expect(read()).rejects.toMatchObject({
      code: 'unauthorized',
      message: expect.stringContaining('without credentials'),
      hint: expect.stringContaining('docker login'),
    });
  });

  test('ping answers the challenge too', async () => {
    wantBasic();
    login({ username: 'joe', password: PASSWORD });
    await client.ping(registry.host);
    login({ username: 'joe', password: 'wrong' });
    password = 'changed';
    await expect(client.ping(registry.host)).rejects.toMatchObject({ code: 'unauthorized' });
  });
});

describe('tokens', () => {
  test('without credentials a token is asked for anonymously, for pulling that repository', async () => {
    wantToken();
    expect(await read()).toEqual(BYTES);
    expect(sent(registry)).toEqual([undefined, 'Bearer token-0-repository:team/app:pull']);
    expect(sent(tokens)).toEqual([undefined]);
    const query = new URL(tokens.requests[0]!.url, 'http://x').searchParams;
    expect([...query]).toEqual([
      ['service', 'reg, "one"'],
      ['scope', 'repository:team/app:pull'],
    ]);
  });

  test('credentials go to the token service, the token alone to the registry', async () => {
    wantToken();
    login({ username: 'joe', password: PASSWORD });
    await read();
    expect(sent(tokens)).toEqual([basic('joe', PASSWORD)]);
    expect(sent(registry).join()).not.toContain('Basic');
  });

  test('a token is used again for its scope, each scope has its own, none is asked for twice', async () => {
    wantToken();
    await Promise.all(Array.from({ length: 8 }, () => read()));
    await read();
    await read('team/other');
    expect(tokens.requests.map(({ url }) => new URL(url, 'http://x').searchParams.get('scope'))).toEqual([
      'repository:team/app:pull',
      'repository:team/other:pull',
    ]);
    // The second repository's token was asked for before its first request.
    expect(sent(registry).slice(-1)).toEqual(['Bearer token-1-repository:team/other:pull']);
  });

  test('pushing asks for the right to push', async () => {
    wantToken();
    await client.pushBlob(source(), Buffer.from('new'), 'application/octet-stream');
    expect(new URL(tokens.requests[0]!.url, 'http://x').searchParams.get('scope')).toBe(
      'repository:team/app:pull,push',
    );
  });

  test('a token that expired is replaced before it is refused', async () => {
    wantToken();
    await read();
    now += 271_000;
    await read();
    expect(tokens.requests).toHaveLength(2);
    expect(registry.requests).toHaveLength(3);
  });

  test('a token that is refused before its time is replaced', async () => {
    wantToken();
    await read();
    valid.clear();
    expect(await read()).toEqual(BYTES);
    expect(tokens.requests).toHaveLength(2);
  });

  test('a registry that answers 403 to an old token gets a new one', async () => {
    wantToken();
    await read();
    const challenge = registry.fault;
    registry.fault = (call) => {
      if (call.request.headers.authorization !== 'Bearer token-0-repository:team/app:pull')
        return challenge(call);
      call.response.writeHead(403).end();
      return 'handled';
    };
    expect(await read()).toEqual(BYTES);
  });

  test('a registry that refuses every token is given up after one renewal', async () => {
    wantToken();
    tokens.fault = ({ response, seen }) => {
      response.end(JSON.stringify({ access_token: `useless-${seen}` }));
      return 'handled';
    };
    await expect(read()).rejects.toMatchObject({
      code: 'unauthorized',
      message: expect.stringContaining('UNAUTHORIZED'),
    });
    expect(registry.requests).toHaveLength(2);
  });

  test('access_token serves as well, and lives 60 s where nothing is said', async () => {
    wantToken();
    tokens.fault = ({ response, seen }) => {
      valid.add(`t${seen}`);
      response.end(JSON.stringify({ access_token: `t${seen}` }));
      return 'handled';
    };
    await read();
    now += 50_000;
    await read();
    expect(tokens.requests).toHaveLength(1);
    now += 10_000;
    await read();
    expect(tokens.requests).toHaveLength(2);
  });

  test('a wrong password is the token service refusing, named with the user', async () => {
    wantToken();
    login({ username: 'joe', password: 'wrong-secret' });
    const error = await read().catch((error: unknown) => error);
    expect(error).toMatchObject({ code: 'unauthorized' });
    expect(String(error)).toMatch(/incorrect username or password/);
    expect(String(error)).toContain('"joe"');
    expect(JSON.stringify([error, String((error as Error).stack), log])).not.toContain('wrong-secret');
    // Corrected, it works at once.
    login({ username: 'joe', password: PASSWORD });
    expect(await read()).toEqual(BYTES);
  });

  test('a token service that hiccups is asked again', async () => {
    wantToken();
    const honest = tokens.fault;
    tokens.fault = (call) => {
      if (call.seen > 0) return honest(call);
      call.response.writeHead(503).end();
      return 'handled';
    };
    expect(await read()).toEqual(BYTES);
  });

  test.each([
    ['not JSON', 'secret-abc'],
    ['no token', '{"tokens":"secret-abc"}'],
    ['a bomb of lists', `{"token":"secret-abc","more":${'['.repeat(500_000)}${']'.repeat(500_000)}}`],
    ['a token that breaks the header', '{"token":"secret-abc\\r\\nX-Evil: 1"}'],
    ['null', 'null'],
  ])('an answer with %s is refused without being shown', async (_, body) => {
    wantToken();
    tokens.fault = ({ response }) => {
      response.end(body);
      return 'handled';
    };
    const error = await read().catch((error: unknown) => error);
    expect(error).toMatchObject({ code: 'unsupported' });
    expect(JSON.stringify([error, String((error as Error).stack)])).not.toContain('secret-abc');
  });

  test('a redirect of the token service does not take the password along', async () => {
    wantToken();
    login({ username: 'joe', password: PASSWORD });
    const other = await startFaultRegistry();
    try {
      other.fault = ({ response }) => {
        valid.add('elsewhere');
        response.end('{"token":"elsewhere"}');
        return 'handled';
      };
      tokens.fault = ({ response }) => {
        response.writeHead(307, { location: `${other.origin}/t` }).end();
        return 'handled';
      };
      await read();
      expect(sent(tokens)).toEqual([basic('joe', PASSWORD)]);
      expect(sent(other)).toEqual([undefined]);
    } finally {
      await other.stop();
    }
  });

  test.each(['ftp://x/token', 'not an address', 'file:///etc/passwd'])(
    'a realm %j is refused',
    async (realm) => {
      wantToken(realm);
      await expect(read()).rejects.toMatchObject({ code: 'unsupported' });
    },
  );

  test('a caller who leaves does not take the token from those who wait', async () => {
    wantToken();
    const arrived = Promise.withResolvers<void>();
    const allowed = Promise.withResolvers<void>();
    tokens.fault = async ({ response }): Promise<'handled'> => {
      arrived.resolve();
      await allowed.promise;
      valid.add('late');
      response.end('{"token":"late"}');
      return 'handled';
    };
    const controller = new AbortController();
    const leaving = client.blob(source(), blob, controller.signal);
    const staying = read();
    await arrived.promise;
    controller.abort(new Error('gone'));
    await expect(leaving).rejects.toThrow('gone');
    allowed.resolve();
    expect(await staying).toEqual(BYTES);
    expect(tokens.requests).toHaveLength(1);
  });
});

describe('identity tokens', () => {
  test('are exchanged by POST, and a new one that comes back is used from then on', async () => {
    wantToken();
    login({ auth: Buffer.from('joe:').toString('base64'), identitytoken: 'identity-1' });
    tokens.fault = ({ response, seen }) => {
      valid.add(`t${seen}`);
      response.end(JSON.stringify({ access_token: `t${seen}`, expires_in: 10, refresh_token: 'identity-2' }));
      return 'handled';
    };
    await read();
    expect(tokens.requests[0]!.method).toBe('POST');
    expect(tokens.requests[0]!.url).toBe('/token');
    expect(Object.fromEntries(form(0))).toEqual({
      grant_type: 'refresh_token',
      refresh_token: 'identity-1',
      client_id: 'cofa',
      service: 'reg, "one"',
      scope: 'repository:team/app:pull',
    });
    now += 20_000;
    await read();
    expect(form(1).get('refresh_token')).toBe('identity-2');
    // A new login counts more than what came of the old one.
    login({ identitytoken: 'identity-3' });
    now += 20_000;
    await read();
    expect(form(2).get('refresh_token')).toBe('identity-3');
  });

  test('a service without POST gets it by GET as the password', async () => {
    wantToken();
    password = 'identity-1';
    login({ username: 'joe', identitytoken: 'identity-1' });
    const honest = tokens.fault;
    tokens.fault = (call) => {
      if (call.method !== 'POST') return honest(call);
      call.response.writeHead(404).end();
      return 'handled';
    };
    expect(await read()).toEqual(BYTES);
    expect(tokens.requests.map(({ method }) => method)).toEqual(['POST', 'GET']);
  });

  test('a redirect of the POST is not followed, since its body is the secret', async () => {
    wantToken();
    login({ identitytoken: 'identity-1' });
    tokens.fault = ({ response }) => {
      response.writeHead(307, { location: `${registry.origin}/steal` }).end();
      return 'handled';
    };
    await expect(read()).rejects.toMatchObject({ code: 'unsupported' });
    expect(registry.requests.map(({ url }) => url)).not.toContain('/steal');
  });

  test('a token for the registry itself is sent as it is', async () => {
    wantToken();
    valid.add('direct');
    login({ registrytoken: 'direct' });
    expect(await read()).toEqual(BYTES);
    expect(tokens.requests).toHaveLength(0);
  });
});

describe('several credentials, as an engine that pulls for others has them', () => {
  let known: object[];
  let asked: unknown[];
  const account = (username: string, secret: string, more: object = {}) => ({
    username,
    password: secret,
    source: 'a pull',
    repository: 'team/app',
    ...more,
  });

  beforeEach(async () => {
    known = [];
    asked = [];
    const credentialSocket = join(folder, 'desk.sock');
    await serveLocal(credentialSocket, {
      find: (question) => {
        asked.push(question);
        return known;
      },
    });
    await client.close();
    const ambient = { now: () => now, sleep: async () => {}, random: () => 0 };
    client = new RegistryClient({
      dockerConfig: folder,
      credentialSocket,
      environment: { PATH: process.env['PATH'] },
      retry: { attempts: 2, baseMs: 1 },
      ambient,
    });
  });

  test.each(['basic', 'tokens'])('are tried in turn, docker’s own last (%s)', async (scheme) => {
    if (scheme === 'basic') wantBasic();
    else wantToken();
    known = [
      account('joe', 'old'),
      account('ann', PASSWORD),
      account('joe', PASSWORD),
      account('joe', 'later'),
    ];
    login({ username: 'joe', password: 'of docker' });
    expect(await read()).toEqual(BYTES);
    const tried = sent(scheme === 'basic' ? registry : tokens).filter((one) => one !== undefined);
    expect(tried).toEqual([basic('joe', 'old'), basic('ann', PASSWORD), basic('joe', PASSWORD)]);
    known = [];
    password = 'of docker';
    valid.clear();
    expect(await read()).toEqual(BYTES);
  });

  test('one whose token opens nothing gives way to the next', async () => {
    wantToken();
    known = [account('guest', 'g'), account('joe', PASSWORD)];
    const honest = tokens.fault;
    tokens.fault = (call) => {
      if (call.request.headers.authorization !== basic('guest', 'g')) return honest(call);
      call.response.end('{"token":"of-a-guest"}');
      return 'handled';
    };
    expect(await read()).toEqual(BYTES);
    // And is not asked again while the token that was found is good.
    const requests = tokens.requests.length;
    expect(await read()).toEqual(BYTES);
    expect(tokens.requests).toHaveLength(requests);
  });

  test('what holds for a repository is not sent for another one', async () => {
    wantBasic();
    known = [account('joe', PASSWORD)];
    await read();
    known = [];
    await expect(read('team/other')).rejects.toMatchObject({ code: 'unauthorized' });
    expect(sent(registry)).toEqual([undefined, basic('joe', PASSWORD), undefined]);
    expect(asked).toMatchObject([
      { repository: 'team/app', isRefused: false },
      { repository: 'team/other', isRefused: false },
    ]);
  });

  test('a password that the registry takes no more is asked for again, and said to be refused', async () => {
    wantBasic();
    known = [account('joe', PASSWORD)];
    await read();
    password = 'changed';
    known = [account('joe', 'changed')];
    expect(await read()).toEqual(BYTES);
    expect(asked).toMatchObject([{ isRefused: false }, { isRefused: true }]);
  });

  test('an engine that does not answer is as one that knows nothing', async () => {
    wantBasic();
    login({ username: 'joe', password: PASSWORD });
    rmSync(join(folder, 'desk.sock'));
    expect(await read()).toEqual(BYTES);
  });

  test('a docker configuration that is broken does not stand in the way', async () => {
    wantBasic();
    writeFileSync(join(folder, 'config.json'), 'broken');
    await expect(read()).rejects.toMatchObject({ code: 'unauthorized' });
    known = [account('joe', PASSWORD)];
    expect(await read()).toEqual(BYTES);
  });
});
