/**
 * Attacks on the private nats-server by a process on the same network, such as a container on the host's: it takes the port
 * while nats-server is away, listens on loopback, or puts bytes into a connection.
 */
import { spawn } from 'node:child_process';
import { stat, writeFile } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { createSecureContext, TLSSocket } from 'node:tls';
import type { NatsConnection } from '@nats-io/nats-core';
import { afterEach, expect, test } from 'vitest';
import { ask, type BusAddress, connectBus, encode, serve } from '../../src/bus/connection.ts';
import { makeIdentity } from '../../src/process/nats-identity.ts';
import { type RunningNats, startNats } from '../../src/process/nats-server.ts';
import { Layout } from '../../src/store/layout.ts';
import { Cleanup } from '../support/temp.ts';
import { anything } from '../support/anything.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

async function start(): Promise<{ nats: RunningNats; layout: Layout; port: number }> {
  const layout = new Layout(await cleanup.tempDir('thief'));
  await layout.prepare();
  const nats = await startNats(layout);
  cleanup.defer(() => nats.child.stop());
  return { nats, layout, port: portOf(nats.address) };
}

const portOf = ({ url }: BusAddress): number => Number(new URL(url).port);

async function open(address: BusAddress, reconnect = false, timeoutMs = 30_000): Promise<NatsConnection> {
  const bus = await connectBus(address, { name: 'victim', reconnect, timeoutMs });
  cleanup.defer(() => bus.close());
  return bus;
}

/** Subject of a call in an engine, and a secret that travels in it. */
const SUBJECT = 'cofa.v1.n.e1.front.figures';
const SECRET = 'bearer-token-of-a-registry';

/** What a server of NATS says first. */
const info = (more: object): string =>
  `INFO ${JSON.stringify({ server_id: 'THIEF', version: '2.9.10', proto: 1, headers: true, max_payload: 8_388_608, ...more })}\r\n`;

/** A message for each of the client's first subscriptions. */
const forged = Array.from(
  { length: 20 },
  (_, sid) =>
    `MSG ${SUBJECT} ${sid + 1} ${encode('forged').length}\r\n${encode('forged').toString('latin1')}\r\n`,
).join('');

interface Thief {
  /** All that its victims sent, in clear as far as it could read them. */
  heard(): string;
  victims(): number;
  server: Server;
}

async function takePort(
  port: number,
  serve: (socket: Socket, hear: (bytes: Buffer) => void) => void,
): Promise<Thief> {
  let text = '';
  let victims = 0;
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    victims += 1;
    sockets.add(socket);
    socket.on('error', () => {});
    serve(socket, (bytes) => {
      text += bytes.toString('latin1');
    });
  });
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  cleanup.defer(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return { heard: () => text, victims: () => victims, server };
}

/** Answers as a server would, and sends what was never published. */
function beServer(socket: Socket, hear: (bytes: Buffer) => void): void {
  socket.on('data', (bytes: Buffer) => {
    hear(bytes);
    if (bytes.includes('PING')) socket.write('PONG\r\n');
    socket.write(forged, 'latin1');
  });
}

const thieves: Record<string, (port: number) => Promise<Thief>> = {
  'speaks in clear': (port) =>
    takePort(port, (socket, hear) => {
      socket.write(info({}));
      beServer(socket, hear);
    }),
  'promises TLS, and goes on in clear': (port) =>
    takePort(port, (socket, hear) => {
      socket.write(info({ tls_required: true }) + forged);
      beServer(socket, hear);
    }),
  'shows a certificate of its own, for the same name': async (port) => {
    const { key, certificate: cert } = await makeIdentity();
    const secureContext = createSecureContext({ key, cert });
    return await takePort(port, (socket, hear) => {
      socket.write(info({ tls_required: true }));
      const secure = new TLSSocket(socket, { isServer: true, secureContext });
      secure.on('error', () => {});
      beServer(secure, hear);
    });
  },
  'hangs up in the middle': (port) => takePort(port, (socket) => socket.end('INFO {"tls_requ')),
};

test.each(Object.entries(thieves))(
  'a thief that takes the port and %s gets no password, and no message of it counts',
  async (_, take) => {
    const { nats, port } = await start();
    const { supervisor } = nats.users;
    const bus = await open(supervisor, true);
    const believed: unknown[] = [];
    serve(bus, SUBJECT, anything, (request) => believed.push(request));
    await bus.flush();
    await nats.child.stop();

    const thief = await take(port);
    await expect.poll(() => thief.victims()).toBeGreaterThan(0);
    await sleep(500);
    await expect(open(supervisor, false, 2_000)).rejects.toMatchObject({ code: 'unavailable' });
    expect(thief.heard()).not.toContain(supervisor.pass);
    expect(thief.heard()).not.toContain('CONNECT');
    expect(believed).toEqual([]);
  },
);

test('bytes that come between the greeting and the handshake are nothing that the server has said', async () => {
  const { nats, port } = await start();
  const { supervisor } = nats.users;
  // It cannot read the connection, but can add to it.
  const injector = await takePort(0, (socket) => {
    const server = connect(port, '127.0.0.1');
    server.on('error', () => {});
    server.once('data', (greeting) => {
      socket.write(Buffer.concat([greeting, Buffer.from(forged, 'latin1')]));
      server.pipe(socket);
    });
    socket.pipe(server);
  });
  const through = injector.server.address() as { port: number };
  await expect(open({ ...supervisor, url: `tls://127.0.0.1:${through.port}` })).rejects.toMatchObject({
    code: 'unavailable',
    message: expect.stringContaining('before its handshake'),
  });
});

test('who listens on loopback sees no password, and nothing of what is said', async () => {
  const { nats, port } = await start();
  // As a container on the host's network with CAP_NET_RAW could.
  const sniffer = spawn('python3', ['-c', SNIFFER, String(port)], { stdio: ['pipe', 'pipe', 'inherit'] });
  cleanup.defer(() => sniffer.kill());
  let seen = Buffer.alloc(0);
  sniffer.stdout.on('data', (bytes: Buffer) => {
    seen = Buffer.concat([seen, bytes]);
  });
  await expect.poll(() => seen.length).toBeGreaterThan(0);

  const served = await open(nats.users['front-end']);
  serve(served, SUBJECT, anything, () => SECRET);
  await served.flush();
  expect(await ask(await open(nats.users.supervisor), SUBJECT, SECRET, anything)).toBe(SECRET);
  // The greeting is in clear: the sniffer works.
  await expect.poll(() => seen.includes('max_payload')).toBe(true);
  await sleep(200);
  for (const secret of [
    nats.users['front-end'].pass,
    nats.users.supervisor.pass,
    SECRET,
    SUBJECT,
    'CONNECT {',
  ])
    expect(seen.includes(secret ?? ''), secret).toBe(false);
});

/** Prints the payload of each TCP segment on loopback that comes from or goes to a port. */
const SNIFFER = `
import socket, struct, sys
port = int(sys.argv[1])
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(0x0800))
raw.bind(('lo', 0))
sys.stdout.buffer.write(b'.'); sys.stdout.buffer.flush()
while True:
    frame = raw.recv(70000)
    ip = frame[14:]
    if len(ip) < 40 or ip[9] != 6: continue
    tcp = ip[(ip[0] & 15) * 4:]
    if port not in struct.unpack('!HH', tcp[:4]): continue
    sys.stdout.buffer.write(tcp[(tcp[12] >> 4) * 4:]); sys.stdout.buffer.flush()
`;

test('the server keeps its certificate over restarts, and gets a new one where the file is damaged', async () => {
  const { nats, layout } = await start();
  const { certificate } = nats.address;
  await nats.child.stop();
  const again = await startNats(layout);
  await again.child.stop();
  expect(again.address.certificate).toBe(certificate);

  await writeFile(layout.in('run/nats.pem'), `${certificate}`);
  const repaired = await startNats(layout);
  await repaired.child.stop();
  expect(repaired.address.certificate).toContain('BEGIN CERTIFICATE');
  expect(repaired.address.certificate).not.toBe(certificate);
  expect((await stat(layout.in('run/nats.pem'))).mode & 0o777).toBe(0o600);
});
