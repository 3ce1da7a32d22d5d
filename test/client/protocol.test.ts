import { mkdir, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { type Operation, OPERATIONS } from '../../schemas/api.ts';
import { ADDITIONS, OLDEST_PROTOCOL, PROTOCOL } from '../../schemas/protocol.ts';
import { Context } from '../../src/cli/context.ts';
import { withEngine } from '../../src/cli/engine.ts';
import { connectEngine } from '../../src/client/client.ts';
import { otherProtocol, requestFor, type Spoken } from '../../src/client/protocol.ts';
import { version } from '../../src/client/version.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

const first: Spoken = { version: '0.1.0', protocol: 1, oldestProtocol: 1 };
const VERSION = version();
const own: Spoken = { version: VERSION, protocol: PROTOCOL, oldestProtocol: OLDEST_PROTOCOL };
const later: Spoken = { version: '9.0.0', protocol: PROTOCOL + 1, oldestProtocol: OLDEST_PROTOCOL };

/**
 * A root with the endpoint of an engine that says `said` of itself, and answers every call with what it was asked.
 */
async function rootOf(said: Partial<Spoken>): Promise<{ root: string; asked: string[] }> {
  const root = await cleanup.tempDir('protocol');
  await mkdir(join(root, 'run'));
  const endpoint = { v: 1, ...said, node: 'n', pid: 1, nats: { url: 'nats://127.0.0.1:1' } };
  await writeFile(join(root, 'run/endpoint.json'), JSON.stringify(endpoint));
  const asked: string[] = [];
  const server: Server = createServer((socket) => {
    socket.once('data', (line) => {
      asked.push(String(line).trim());
      socket.end('{"ok":true,"result":{}}');
    });
  });
  await new Promise<void>((resolve) => server.listen(join(root, 'run/supervisor.sock'), resolve));
  cleanup.defer(() => void server.close());
  return { root, asked };
}

describe('an engine of the same protocol', () => {
  test('gets every word, and nothing is said', async () => {
    const request = { ref: 'r', dir: '/d', overlay: 'kept', program: 'sh' } as const;
    expect(await requestFor(own, 'mount', request)).toEqual(request);
    expect(await otherProtocol(own)).toBeUndefined();
  });
});

describe('an engine of cofa 0.1.0, which does not say what it speaks', () => {
  test('is called without the words that it does not know', async () => {
    const { root, asked } = await rootOf({});
    const engine = await connectEngine(root);
    await engine.call('mount', {
      ref: 'r',
      dir: '/d',
      overlay: 'temporary',
      program: 'sh',
      start: 'default',
    });
    await engine.call('unmount', { dir: '/d', discard: true });
    expect(asked).toEqual(['mount {"ref":"r","dir":"/d","start":"default"}', 'unmount {"dir":"/d"}']);
    await engine.close();
  });

  test('is not asked for what makes no sense without such a word', async () => {
    const { root, asked } = await rootOf({});
    const engine = await connectEngine(root);
    await expect(engine.call('unmount', { dir: '/d', overlay: true })).rejects.toMatchObject({
      code: 'unsupported',
      message: `the engine does not know unmount.overlay: the engine is cofa 0.1.0 and speaks protocol 1, this is cofa ${VERSION} with protocol ${PROTOCOL}`,
      hint: 'cofa down and cofa up start the engine of this cofa; its mounts come back',
    });
    await expect(engine.call('expect', { ref: 'r' })).rejects.toMatchObject({ code: 'unsupported' });
    await engine.tell('expect', { ref: 'r' });
    expect(asked).toEqual([]);
    await engine.close();
  });

  test('is named to the user of every command, who hears what to do', async () => {
    const { root } = await rootOf({});
    let said = '';
    const context = new Context({ out: () => {}, err: (text) => (said += text), errIsTerminal: false });
    context.configure({ root });
    await withEngine(context, async ({ call }) => await call('scrub-stop', {}));
    expect(said).toBe(
      `cofa: the engine is cofa 0.1.0 and speaks protocol 1, this is cofa ${VERSION} with protocol ${PROTOCOL}; cofa down and cofa up start the engine of this cofa; its mounts come back\n`,
    );
    expect(await otherProtocol(first)).toBeDefined();
  });
});

describe('an engine of a later cofa', () => {
  test('that still serves this protocol is called, and named', async () => {
    const { root, asked } = await rootOf(later);
    const engine = await connectEngine(root);
    await engine.call('scrub-stop', {});
    expect(asked).toEqual(['scrub-stop {}']);
    expect(await otherProtocol(engine.endpoint)).toMatch(/^the engine is cofa 9\.0\.0 .*; install /);
    await engine.close();
  });

  test('that does not serve it any more is not called', async () => {
    const { root } = await rootOf({ ...later, oldestProtocol: PROTOCOL + 1 });
    await expect(connectEngine(root)).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringMatching(/cofa 9\.0\.0 .* do not understand each other$/),
      hint: 'install the version of cofa that the engine has',
    });
  });
});

test('an engine whose protocol this cofa has given up is not called', async () => {
  const { root } = await rootOf({ ...first, protocol: OLDEST_PROTOCOL - 1 });
  await expect(connectEngine(root)).rejects.toMatchObject({ code: 'unsupported' });
});

test('every addition names an operation or a word of its request, and came after the oldest protocol', () => {
  for (const [name, { since }] of Object.entries(ADDITIONS)) {
    const [operation, word] = name.split('.') as [Operation, string | undefined];
    expect(OPERATIONS).toHaveProperty(operation);
    if (word !== undefined) expect(OPERATIONS[operation].request.shape).toHaveProperty(word);
    expect(since).toBeGreaterThan(OLDEST_PROTOCOL);
    expect(since).toBeLessThanOrEqual(PROTOCOL);
  }
});
