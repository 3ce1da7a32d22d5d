/** What root of a container without a system call filter finds of the credentials that pulls have brought. */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterAll, expect, test } from 'vitest';
import { askLocal } from '../../src/bus/local-socket.ts';
import { openCredentials } from '../../src/supervisor/start/credentials.ts';
import { Layout } from '../../src/store/layout.ts';
import { startServiceManager } from '../support/service-manager.ts';
import { Cleanup } from '../support/temp.ts';
import type { DriverInput } from './driver.ts';
import { makeRootfs } from './host-rootfs.ts';
import { PLAIN } from './plain.ts';
import type { Shape } from '../../schemas/shapes.ts';
import { anything } from '../support/anything.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

/** keyctl(2) by number: links root's keyring to the process, so as to possess it, and reads all that hangs from it. */
const SEARCH = `
  sub keyctl { return syscall(${process.arch === 'arm64' ? 219 : 250}, @_) }
  sub look {
    my ($id, $depth) = @_;
    my $bytes = "\\0" x 40000;
    my $length = keyctl(11, $id, $bytes, 40000);
    return if $length < 0;
    my $content = substr($bytes, 0, $length);
    print "$content\\n";
    if ($depth > 0 && $length % 4 == 0) { look($_, $depth - 1) for unpack("l*", $content) }
  }
  keyctl(8, -4, -2) >= 0 or print "refused: $!\\n";
  look($_, 3) for (-4, -5, -3);
  print "looked\\n";`;

test('a root container in its own namespaces, without a filter, finds none in the keys of root', async () => {
  const directory = await cleanup.tempDir('secrets');
  const root = join(directory, 'root');
  mkdirSync(join(root, 'run'), { recursive: true });
  const password = `password-${randomBytes(6).toString('hex')}`;
  const layout = new Layout(root);
  process.env.NOTIFY_SOCKET = (await startServiceManager(cleanup)).socket;
  await openCredentials({
    options: {
      registry: {},
      snapshotter: { socket: '', imageService: { socket: '', containerd: '' }, prepare: 'containerd' },
      credentialProviders: undefined,
    },
    layout,
    label: `cofa:test-${randomBytes(6).toString('hex')}`,
    log: pino({ level: 'silent' }),
    end: { at: (_, close) => cleanup.defer(async () => typeof close === 'function' && close()) },
    ports: { clock: { wallMs: () => Date.now() } },
  });
  const ask = <Result>(name: string, request: object) =>
    askLocal(layout.socket('credentials'), name, 10_000, anything as Shape<Result>, { request });
  const place = { registry: 'r.io', repository: 'team/app' };
  const { pull } = await ask<{ pull: number }>('offer', {
    ...place,
    credentials: { username: 'joe', password },
  });
  await ask('settle', { pull, isPulled: true });
  expect(JSON.stringify(await ask('find', { ...place, isRefused: false }))).toContain(password);

  const rootfs = join(directory, 'image');
  await makeRootfs(rootfs);
  const options = { ...PLAIN, args: ['perl', '-e', SEARCH], unconfined: true };
  const input: DriverInput = { directory, root, rootfs, config: {}, options };
  const driver = [join(import.meta.dirname, 'driver.ts'), JSON.stringify(input)];
  const found = execFileSync(process.execPath, driver, {
    encoding: 'latin1',
    stdio: ['ignore', 'pipe', 'ignore'],
    timeout: 60_000,
    // runc would wait for a word of the container to the service manager.
    env: { ...process.env, NOTIFY_SOCKET: '' },
  });
  expect(found).toMatch(/looked\n$/);
  expect(found).not.toContain('refused');
  expect(found).not.toContain(password);
});
