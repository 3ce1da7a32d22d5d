/** What the machine's files say is a secret, whichever way the engine was told of them. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { knownSecrets } from '../../src/cli/support-secrets.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

test('secrets of an engine are known that was told of them on its command line, and those of its processes', async () => {
  const root = await cleanup.tempDir('secrets');
  const write = (name: string, content: unknown) => {
    const path = join(root, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content), { mode: 0o600 });
  };
  const auth = Buffer.from('user:canary-docker').toString('base64');
  write('docker/config.json', { auths: { 'reg.example': { auth } } });
  write('hosts/reg.example/hosts.toml', '[host."https://m.example".header]\nx-mine = "canary-hosts"\n');
  write('run/engine.json', {
    users: { fetcher: { url: 'nats://127.0.0.1', user: 'fetcher', pass: 'canary-role' } },
    registry: { dockerConfig: join(root, 'docker'), hostDirs: [join(root, 'hosts')] },
  });
  const known = await knownSecrets(root);
  for (const secret of [auth, 'canary-docker', 'canary-hosts', 'canary-role'])
    expect(known).toContain(secret);
});
