/** The operator's NATS over TLS: who vouches for it, and for which host. Real nats-servers. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { type BusAddress, connectBus } from '../../src/bus/connection.ts';
import { makeIdentity } from '../../src/process/nats-identity.ts';
import { runCommand, startNats } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

/** A server whose certificate is for these names; `ca` vouches for it. */
async function start(names: string): Promise<{ port: string; ca: string }> {
  const folder = await cleanup.tempDir('tls');
  const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
  const subject = ['-subj', '/CN=server', '-addext', `subjectAltName=${names}`];
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];
  await runCommand('openssl', ['req', '-x509', ...kind, ...subject, '-keyout', key, '-out', cert]);
  const server = await startNats({
    jetstream: false,
    config: `tls { cert_file: "${cert}", key_file: "${key}" }\n`,
  });
  cleanup.defer(() => server.stop());
  return { port: new URL(server.url).port, ca: await readFile(cert, 'utf8') };
}

const open = async (address: BusAddress) => {
  const bus = await connectBus(address, { name: 'test', reconnect: false });
  await bus.flush();
  await bus.close();
};

test('a server is taken by name and by address where its certificate is for both', async () => {
  const { port, ca } = await start('DNS:localhost,IP:127.0.0.1');
  await open({ url: `tls://127.0.0.1:${port}`, ca });
  await open({ url: `tls://localhost:${port}`, ca });
  // The authority says enough.
  await open({ url: `nats://localhost:${port}`, ca });
});

test('a certificate for another name, or of an authority that was not named, is refused', async () => {
  const { port, ca } = await start('DNS:localhost');
  const refused = (address: BusAddress) =>
    expect(open(address)).rejects.toMatchObject({ code: 'unavailable' });
  await refused({ url: `tls://127.0.0.1:${port}`, ca });
  await refused({ url: `tls://localhost:${port}` });
  await refused({ url: `tls://localhost:${port}`, ca: (await makeIdentity()).certificate });
});

test('tls:// means TLS: a server without it is refused', async () => {
  const server = await startNats({ jetstream: false });
  cleanup.defer(() => server.stop());
  const url = server.url.replace('nats:', 'tls:');
  await expect(open({ url, user: 'u', pass: 'p' })).rejects.toMatchObject({ code: 'unavailable' });
});
