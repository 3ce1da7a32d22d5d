/** Who answers as the kubelet's image service while cofa does not. */
import { existsSync, lstatSync } from 'node:fs';
import { connect as connectHttp2, type ServerHttp2Stream } from 'node:http2';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { serveStreams } from '../../src/snapshotter/server.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

const saying = (word: string) => (stream: ServerHttp2Stream) => {
  stream.respond({ ':status': 200 });
  stream.end(word);
};

async function ask(path: string): Promise<string> {
  const session = connectHttp2('http://localhost', { createConnection: () => connect(path) });
  try {
    const stream = session.request({ ':path': '/' });
    session.on('error', (error) => stream.destroy(error));
    let said = '';
    for await (const chunk of stream as AsyncIterable<Buffer>) said += chunk.toString();
    return said;
  } finally {
    session.close();
  }
}

test('a server that closes leaves its path to its heir, and the next one takes it back', async () => {
  const directory = await cleanup.tempDir('heir');
  const [path, heir] = [join(directory, 'images'), join(directory, 'containerd')];
  const containerd = await serveStreams(heir, saying('containerd'));
  for (const name of ['first', 'second']) {
    const server = await serveStreams(path, saying(name), { heir });
    expect(await ask(path)).toBe(name);
    expect(lstatSync(path).isSocket()).toBe(true);
    await server.close(1000);
    expect(await ask(path)).toBe('containerd');
  }
  // Also where the heir has gone meanwhile.
  await containerd.close(1000);
  const third = await serveStreams(path, saying('third'), { heir });
  expect(await ask(path)).toBe('third');
  await third.close(1000);
  expect(existsSync(path)).toBe(false);
  expect(lstatSync(path).isSymbolicLink()).toBe(true);
});
