import { connect, createServer, type Server, type Socket } from 'node:net';
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { RegistryClient, type RegistryClientOptions } from '../../src/registry/client.ts';
import { proxyFor } from '../../src/registry/transport.ts';
import {
  type FaultRegistry,
  type FaultRegistryOptions,
  startFaultRegistry,
} from '../support/fault-registry.ts';
import { makeCertificates } from '../support/registry-server.ts';

const BYTES = Buffer.from('layer');
const BLOB = { digest: 'sha256:', size: BYTES.length };

let folder: string;
let certificates: string;
let running: Array<{ stop(): Promise<void> }>;
let clients: RegistryClient[];

async function start(options: FaultRegistryOptions = {}): Promise<FaultRegistry> {
  const registry = await startFaultRegistry(options);
  running.push(registry);
  BLOB.digest = registry.addBlob(BYTES).digest;
  return registry;
}

function open(options: RegistryClientOptions = {}): RegistryClient {
  const client = new RegistryClient({
    dockerConfig: join(folder, 'docker'),
    certDirs: [join(folder, 'certs.d')],
    environment: {},
    retry: { attempts: 2, baseMs: 1, maxMs: 1 },
    ...options,
  });
  clients.push(client);
  return client;
}

/** Puts files of the test's CA where the client looks for those of a registry. */
function trust(host: string, ...files: string[]): void {
  mkdirSync(join(folder, 'certs.d', host), { recursive: true });
  for (const file of files) cpSync(join(certificates, file), join(folder, 'certs.d', host, file));
}

const read = (client: RegistryClient, host: string) => client.blob({ registry: host, repository: 'a' }, BLOB);
const redirect = (registry: FaultRegistry, status: number, location: string) => {
  registry.fault = ({ response, path }) => {
    if (!path.includes('/blobs/')) return 'pass';
    response.writeHead(status, { location }).end('moved');
    return 'handled';
  };
};

beforeAll(async () => {
  certificates = mkdtempSync(join(tmpdir(), 'cofa-ca-'));
  await makeCertificates(certificates);
});
afterAll(() => rmSync(certificates, { recursive: true, force: true }));

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'cofa-transport-'));
  running = [];
  clients = [];
});

afterEach(async () => {
  for (const client of clients) await client.close();
  for (const one of running) await one.stop();
  rmSync(folder, { recursive: true, force: true });
});

describe('redirects', () => {
  test.each([301, 302, 303, 307, 308])(
    '%d to another host is followed, without Authorization',
    async (status) => {
      const [registry, storage] = [await start(), await start()];
      mkdirSync(join(folder, 'docker'));
      writeFileSync(
        join(folder, 'docker', 'config.json'),
        JSON.stringify({ auths: { [registry.host]: { username: 'joe', password: 'p' } } }),
      );
      registry.fault = ({ request, response }) => {
        if (request.headers.authorization === undefined) {
          response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
        } else {
          response.writeHead(status, { location: `${storage.origin}/v2/s/blobs/${BLOB.digest}` }).end();
        }
        return 'handled';
      };
      expect(await read(open(), registry.host)).toEqual(BYTES);
      expect(registry.requests.map(({ headers }) => headers.authorization)).toEqual([
        undefined,
        expect.stringMatching(/^Basic /),
      ]);
      expect(storage.requests).toHaveLength(1);
      expect(storage.requests[0]!.headers.authorization).toBeUndefined();
    },
  );

  test('within the host Authorization stays; once away it does not come back', async () => {
    const [registry, other] = [await start(), await start()];
    mkdirSync(join(folder, 'docker'));
    writeFileSync(
      join(folder, 'docker', 'config.json'),
      JSON.stringify({ auths: { [registry.host]: { username: 'joe', password: 'p' } } }),
    );
    const seen: Array<[string, boolean]> = [];
    registry.fault = ({ request, response, path }) => {
      const isKnown = request.headers.authorization !== undefined;
      seen.push([path, isKnown]);
      if (path.startsWith('/v2/a/') && !isKnown) {
        response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
      } else if (path.startsWith('/v2/a/')) {
        response.writeHead(307, { location: '/inside' }).end();
      } else if (path === '/inside') {
        response.writeHead(307, { location: `${other.origin}/outside` }).end();
      } else {
        response.end(BYTES);
      }
      return 'handled';
    };
    other.fault = ({ request, response }) => {
      seen.push(['outside', request.headers.authorization !== undefined]);
      response.writeHead(307, { location: `${registry.origin}/back` }).end();
      return 'handled';
    };
    expect(await read(open(), registry.host)).toEqual(BYTES);
    expect(seen.slice(1)).toEqual([
      [`/v2/a/blobs/${BLOB.digest}`, true],
      ['/inside', true],
      ['outside', false],
      ['/back', false],
    ]);
  });

  test('a user name and password in a Location are not used', async () => {
    const [registry, storage] = [await start(), await start()];
    redirect(registry, 307, `http://evil:secret@${storage.host}/v2/s/blobs/${BLOB.digest}`);
    expect(await read(open(), registry.host)).toEqual(BYTES);
    expect(storage.requests[0]!.headers.authorization).toBeUndefined();
  });

  test('a circle ends', async () => {
    const registry = await start();
    redirect(registry, 307, '?again');
    await expect(read(open(), registry.host)).rejects.toMatchObject({
      code: 'unavailable',
      message: expect.stringContaining('circle'),
    });
    expect(registry.requests).toHaveLength(11);
  });

  test.each(['ftp://127.0.0.1/x', 'file:///etc/passwd', 'http://[', 'javascript:1'])(
    'a Location %s is refused',
    async (location) => {
      const registry = await start();
      redirect(registry, 302, location);
      await expect(read(open(), registry.host)).rejects.toMatchObject({ code: 'unsupported' });
    },
  );

  test('a redirect without a Location is an unexpected answer', async () => {
    const registry = await start();
    registry.fault = ({ response }) => {
      response.writeHead(307).end();
      return 'handled';
    };
    await expect(read(open(), registry.host)).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringContaining('307'),
    });
  });

  test('https never leads to http, not even on this machine', async () => {
    const [registry, storage] = [await start({ certificates }), await start()];
    trust(registry.host, 'ca.crt');
    redirect(registry, 307, `${storage.origin}/v2/s/blobs/${BLOB.digest}`);
    await expect(read(open(), registry.host)).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringContaining('https to http'),
    });
    expect(storage.requests).toHaveLength(0);
  });

  test('http may lead to https, which is checked like any other', async () => {
    const [registry, storage] = [await start(), await start({ certificates })];
    redirect(registry, 307, `${storage.origin}/v2/s/blobs/${BLOB.digest}`);
    await expect(read(open(), registry.host)).rejects.toMatchObject({
      message: expect.stringContaining('certificate'),
    });
    trust(storage.host, 'ca.crt');
    expect(await read(open(), registry.host)).toEqual(BYTES);
  });
});

describe('TLS', () => {
  test('a registry under a CA of its own: refused without it, with the place to put it', async () => {
    const registry = await start({ certificates });
    // Something of its own in certs.d makes a loopback registry one of https.
    trust(registry.host, 'client.cert', 'client.key');
    await expect(read(open(), registry.host)).rejects.toMatchObject({
      code: 'unavailable',
      message: expect.stringContaining('not trusted'),
      hint: expect.stringContaining(`certs.d/${registry.host}/ca.crt`),
    });
    expect(registry.requests).toHaveLength(0);
  });

  test('a CA that is put in place works without a restart', async () => {
    const registry = await start({ certificates });
    trust(registry.host, 'client.cert', 'client.key');
    const client = open();
    await expect(read(client, registry.host)).rejects.toMatchObject({ code: 'unavailable' });
    trust(registry.host, 'ca.crt');
    expect(await read(client, registry.host)).toEqual(BYTES);
  });

  test('a client certificate is shown where the registry wants one', async () => {
    const registry = await start({ certificates, clientCertificates: true });
    trust(registry.host, 'ca.crt');
    await expect(read(open(), registry.host)).rejects.toMatchObject({
      hint: expect.stringContaining('client.cert'),
    });
    trust(registry.host, 'client.cert', 'client.key');
    expect(await read(open(), registry.host)).toEqual(BYTES);
  });

  test('a client certificate without its key is named', async () => {
    const registry = await start({ certificates });
    trust(registry.host, 'ca.crt', 'client.cert');
    await expect(read(open(), registry.host)).rejects.toMatchObject({
      code: 'environment',
      message: expect.stringContaining('client.cert has no key'),
    });
  });

  test('a file that is no certificate is named as such', async () => {
    const registry = await start({ certificates });
    trust(registry.host, 'ca.crt');
    writeFileSync(join(folder, 'certs.d', registry.host, 'bad.cert'), 'nonsense');
    writeFileSync(join(folder, 'certs.d', registry.host, 'bad.key'), 'nonsense');
    await expect(read(open(), registry.host)).rejects.toMatchObject({ code: 'environment' });
  });

  test('a loopback registry with certificates that speaks plain http is read as such', async () => {
    const registry = await start();
    trust(registry.host, 'ca.crt');
    expect(await read(open(), registry.host)).toEqual(BYTES);
  });

  test('an insecure registry is read whatever its certificate, and over http where it has none', async () => {
    const [secure, plain] = [await start({ certificates }), await start()];
    expect(await read(open({ insecure: [secure.host] }), secure.host)).toEqual(BYTES);
    expect(await read(open({ insecure: [plain.host] }), plain.host)).toEqual(BYTES);
  });

  test('the password does not go to a token service on http when the registry is on https', async () => {
    const [registry, tokens] = [await start({ certificates }), await start()];
    trust(registry.host, 'ca.crt');
    registry.fault = ({ response }) => {
      response.writeHead(401, { 'www-authenticate': 'Bearer realm="http://tokens.example/t"' }).end();
      return 'handled';
    };
    await expect(read(open(), registry.host)).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringContaining('tokens.example'),
    });
    expect(tokens.requests).toHaveLength(0);
  });

  test('a name that is not of this machine is asked over https', async () => {
    // Nothing there speaks TLS, so the error tells what was tried.
    const registry = await start();
    const client = open({
      environment: { https_proxy: `http://127.0.0.1:${await tunnelTo(registry.port)}` },
    });
    await expect(read(client, 'registry.example:5000')).rejects.toMatchObject({
      message: expect.stringContaining('does not speak HTTPS'),
      hint: expect.stringMatching(
        /: cofa up --insecure-registry registry\.example:5000, and the same of cofa index/,
      ),
    });
    expect(registry.requests).toHaveLength(0);
  });
});

describe('proxies', () => {
  test('a registry is reached through the proxy of the environment, and its certificate is still checked', async () => {
    const registry = await start({ certificates });
    const port = await tunnelTo(registry.port);
    const client = open({ environment: { HTTPS_PROXY: `http://joe:secret@127.0.0.1:${port}` } });
    await expect(read(client, 'localhost.example:5000')).rejects.toMatchObject({
      message: expect.stringContaining('certificate'),
    });
    expect(tunnels[0]).toMatch(/^CONNECT localhost\.example:5000 /);
    expect(tunnels[0]).toMatch(new RegExp(`^proxy-authorization: Basic ${btoa('joe:secret')}`, 'im'));
  });

  test.each([
    ['https://r.io/v2/', {}, undefined],
    ['https://r.io/v2/', { HTTPS_PROXY: 'http://p:1' }, 'http://p:1'],
    ['https://r.io/v2/', { https_proxy: 'p:1', HTTPS_PROXY: 'http://q:1' }, 'http://p:1'],
    ['http://r.io/v2/', { HTTPS_PROXY: 'http://p:1' }, undefined],
    ['http://r.io/v2/', { http_proxy: 'http://p:1' }, 'http://p:1'],
    ['http://127.0.0.1:5000/', { http_proxy: 'http://p:1' }, undefined],
    ['https://a.r.io/', { HTTPS_PROXY: 'http://p:1', NO_PROXY: 'x, .r.io' }, undefined],
    ['https://r.io/', { HTTPS_PROXY: 'http://p:1', no_proxy: 'r.io' }, undefined],
    ['https://xr.io/', { HTTPS_PROXY: 'http://p:1', NO_PROXY: 'r.io' }, 'http://p:1'],
    ['https://r.io/', { HTTPS_PROXY: 'http://p:1', NO_PROXY: 'r.io:444' }, 'http://p:1'],
    ['https://r.io/', { HTTPS_PROXY: 'http://p:1', NO_PROXY: '*' }, undefined],
  ])('%s with %j goes by %s', (url, environment, expected) => {
    expect(proxyFor(new URL(url), environment)).toBe(expected);
  });
});

let tunnels: string[] = [];

/** A proxy that connects every CONNECT to one port of this machine, whatever host it names. */
async function tunnelTo(port: number): Promise<number> {
  tunnels = [];
  const sockets = new Set<Socket>();
  const server: Server = createServer((client) => {
    sockets.add(client);
    client.on('error', () => {});
    client.once('data', (head) => {
      tunnels.push(head.toString());
      const upstream = connect(port, '127.0.0.1', () => {
        client.write('HTTP/1.1 200 OK\r\n\r\n');
        client.pipe(upstream).pipe(client);
      });
      sockets.add(upstream);
      upstream.on('error', () => {});
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  running.push({
    stop: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}
