/** The engine as a service of systemd: what it tells the service manager, and when. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { eventually, startEngine } from '../support/engine.ts';
import { Cleanup } from '../support/temp.ts';
import { connectSnapshotter } from '../snapshotter/test-bed.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

/** Node has no datagrams on unix sockets. */
const LISTENER = `
import socket, sys
listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind(sys.argv[1])
print("listening", flush=True)
while True: print(listener.recv(4096).decode(), flush=True)
`;

test.each(['a path', 'an abstract name'])('says that it is ready, and that it lives: %s', async (kind) => {
  const directory = await cleanup.tempDir('notify');
  const path = join(directory, 'socket');
  const address = kind === 'a path' ? path : `\0${path}`;
  const listener = spawn('python3', ['-c', LISTENER.replace('sys.argv[1]', JSON.stringify(address))]);
  cleanup.defer(() => listener.kill());
  let heard = '';
  listener.stdout.on('data', (chunk: Buffer) => (heard += chunk.toString()));
  await eventually('a listener', () => heard.includes('listening'));

  const engine = await startEngine({
    workers: 1,
    args: ['--snapshotter'],
    env: { NOTIFY_SOCKET: address.replace('\0', '@'), WATCHDOG_USEC: '600000' },
  });
  cleanup.defer(() => engine.stop());
  await eventually('READY=1', () => heard.includes('READY=1'));
  const client = connectSnapshotter(join(engine.root, 'run/snapshotter.sock'));
  expect(await client.walk()).toEqual([]);
  client.close();
  await eventually('WATCHDOG=1 again and again', () => heard.split('WATCHDOG=1').length > 3);
  // The first sign starts systemd's clock: a slow start would be killed by it.
  expect(heard.indexOf('WATCHDOG=1')).toBeGreaterThan(heard.indexOf('READY=1'));
});
