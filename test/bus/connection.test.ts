/** Connections to what takes them and is no NATS. */
import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { connectBus } from '../../src/bus/connection.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

/** The URL of a server that does so to each connection, and the connections that it has. */
async function listen(answer: (socket: Socket) => void): Promise<{ url: string; open: Set<Socket> }> {
  const open = new Set<Socket>();
  const server = createServer((socket) => {
    open.add(socket);
    socket.on('error', () => {}).on('close', () => open.delete(socket));
    socket.resume();
    answer(socket);
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  cleanup.defer(() => void server.close());
  cleanup.defer(() => open.forEach((socket) => socket.destroy()));
  return { url: `nats://127.0.0.1:${(server.address() as AddressInfo).port}`, open };
}

test.each([
  ['says nothing', () => {}],
  ['begins to greet', (socket: Socket) => void socket.write('INFO {"server_id":')],
])('a server that %s costs a try, and no descriptor', async (_, answer) => {
  const { url, open } = await listen(answer);
  for (let tries = 0; tries < 3; tries++) {
    const connecting = connectBus({ url }, { name: 'test', reconnect: false, timeoutMs: 100 });
    await expect(connecting).rejects.toMatchObject({ code: 'unavailable' });
  }
  await expect.poll(() => open.size).toBe(0);
});
