/** Which port the private nats-server gets, and what becomes of one that another program takes. */
import { readFile } from 'node:fs/promises';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { connectBus } from '../../src/bus/connection.ts';
import { besideOf, freePort, isTaken, type PortRange } from '../../src/process/nats-port.ts';
import { startNats } from '../../src/process/nats-server.ts';
import { realChildPorts } from '../../src/process/child.ts';
import { Layout } from '../../src/store/layout.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

/** A port that another program has. */
async function taken(): Promise<number> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => void sockets.add(socket.on('error', () => {})));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanup.defer(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  });
  return (server.address() as AddressInfo).port;
}

describe('the port', () => {
  test('is free, and none that the kernel gives to outgoing connections', async () => {
    const text = await readFile('/proc/sys/net/ipv4/ip_local_port_range', 'utf8');
    const [low = 0, high = 0] = text.trim().split(/\s+/).map(Number);
    for (let times = 0; times < 50; times++) {
      const port = await freePort();
      expect(port < low || port > high).toBe(true);
      expect(await isTaken(port)).toBe(false);
    }
    expect(await isTaken(await taken())).toBe(true);
  });

  test.each<[string, PortRange, PortRange | undefined]>([
    ['the default of the kernel', [32_768, 60_999], [61_000, 65_535]],
    ['a wider one', [10_240, 60_999], [61_000, 65_535]],
    ['one that leaves the last ones', [1_024, 64_999], [65_000, 65_535]],
    ['the last ones', [61_000, 65_535], [49_152, 60_999]],
    ['those without a service of their own', [49_152, 65_535], [20_000, 29_999]],
    ['all that the kernel could have', [32_768, 65_535], [20_000, 29_999]],
    ['almost all', [1_024, 65_100], undefined],
    ['all', [1_024, 65_535], undefined],
  ])('lies beside %s', (_, outgoing, place) => {
    expect(besideOf(outgoing)).toEqual(place);
  });
});

test('a port that another program takes before nats-server has it is exchanged for another one', async () => {
  const layout = new Layout(await cleanup.tempDir('nats-port'));
  await layout.prepare();
  const first = await taken();
  const chosen: number[] = [];
  const choosePort = async () => {
    chosen.push(chosen.length === 0 ? first : await freePort());
    return chosen.at(-1) as number;
  };
  const nats = await startNats(layout, { ...realChildPorts(), choosePort });
  cleanup.defer(() => nats.child.stop());
  expect(chosen).toHaveLength(2);
  expect(nats.address.url).toBe(`tls://127.0.0.1:${chosen[1]}`);
  const bus = await connectBus(nats.users.supervisor, { name: 'test', reconnect: false });
  await bus.close();
});

test('where each port is taken the error names the log that says so', async () => {
  const layout = new Layout(await cleanup.tempDir('nats-port'));
  await layout.prepare();
  const ports = { ...realChildPorts(), choosePort: taken };
  await expect(startNats(layout, ports)).rejects.toMatchObject({
    code: 'environment',
    message: 'nats-server does not start',
    hint: expect.stringContaining('nats-server.log'),
  });
  expect(await readFile(layout.log('nats-server'), 'utf8')).toContain('address already in use');
});
