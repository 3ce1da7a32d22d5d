/** A registry that answers by a byte at a time, for ever: it must hold no call. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { RegistryClient } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { readBody, readText, Transport } from '../../src/registry/transport.ts';

let server: Server;
let host: string;
/** Answers that are under way. */
let open = 0;
const transport = new Transport({
  certDirs: [],
  insecure: [],
  connections: 4,
  connectTimeoutMs: 5_000,
  headersTimeoutMs: 5_000,
  bodyTimeoutMs: 5_000,
  environment: {},
});

beforeAll(async () => {
  server = createServer((_, response) => {
    open += 1;
    response.writeHead(200, { 'content-type': 'application/vnd.oci.image.manifest.v1+json' });
    const drip = setInterval(() => response.write(' '), 1_000);
    const fast = setInterval(() => response.write(' '), 20);
    if (_.url !== '/fast') clearInterval(fast);
    response.on('close', () => {
      open -= 1;
      clearInterval(drip);
      clearInterval(fast);
    });
    response.write('{');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(async () => {
  await transport.close();
  server.closeAllConnections();
  server.close();
});

const get = () => transport.send({ method: 'GET', url: new URL(`http://${host}/fast`) });
const pace = { graceMs: 300, bytesPerSecond: 1_000 };

test('a body that is slower than its pace is given up, and its connection closed', async () => {
  await expect(readBody(await get(), 1 << 20, 'the manifest', undefined, pace)).rejects.toMatchObject({
    code: 'timeout',
    message: expect.stringContaining(`the manifest of ${host} comes too slowly`),
  });
  await expect.poll(() => open).toBe(0);
});

test('so is the text of an error', async () => {
  expect(await readText(await get(), 16 * 1024, pace)).toMatch(/^\{ +$/);
});

test('a name is resolved, or given up, in time', { timeout: 60_000 }, async () => {
  const client = new RegistryClient({ dockerConfig: '/nonexistent', certDirs: [] });
  const begun = performance.now();
  await expect(client.resolve(parseReference(`${host}/app:1`), {})).rejects.toMatchObject({
    code: 'timeout',
  });
  expect(performance.now() - begun).toBeLessThan(40_000);
  await client.close();
  await expect.poll(() => open).toBe(0);
});
