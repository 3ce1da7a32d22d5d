/** The commands against a real engine, registry and containers, each started as a user would. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { Status } from '../../schemas/api.ts';
import { connectEngine } from '../../src/client/client.ts';
import { identify } from '../../src/container/host.ts';
import { makeRootfs } from '../container/host-rootfs.ts';
import { halfRandom, pushSmallImage, type SmallImage } from '../index/small-image.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup, mountsBelow } from '../support/temp.ts';

const LAUNCHER = join(import.meta.dirname, '../../ops/cofa');
const cleanup = new Cleanup();
const started: ChildProcess[] = [];
let directory = '';
let root = '';
let registry: RegistryServer;
/** With a sidecar, and without one. */
let prepared: SmallImage;
let plain: SmallImage;
const large = halfRandom(8 << 20);

beforeAll(async () => {
  directory = await cleanup.tempDir('cli-engine');
  root = join(directory, 'root');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const config = { Entrypoint: ['/bin/sh', '-c'], Cmd: ['echo hello'], Env: ['PATH=/bin', 'FROM=image'] };
  const make = async (name: string) => {
    const tree = join(directory, name, 'rootfs');
    await makeRootfs(tree);
    return pushSmallImage(
      join(directory, name),
      registry.host,
      name,
      [
        { compression: 'gzip', files: {}, tree },
        { compression: 'gzip', files: { 'data/large': large, 'etc/name': `${name}\n` } },
      ],
      config,
    );
  };
  prepared = await make('prepared');
  plain = await make('plain');
  await cofa(['index', prepared.ref]);
  cleanup.defer(() => cofa(['down', '--force']));
  expect(await cofa(['up', '--node', 'cli-test', '--trust', 'registry'])).toMatchObject({ code: 0 });
});
afterEach(() => {
  for (const child of started.splice(0)) if (child.exitCode === null) child.kill('SIGKILL');
});
afterAll(() => cleanup.run());

interface Result {
  code: number | null;
  out: string;
  err: string;
}

function begin(args: string[], at: string = root) {
  const child = spawn(LAUNCHER, args, {
    env: { ...process.env, COFA_ROOT: at },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  started.push(child);
  const result: Result = { code: null, out: '', err: '' };
  child.stdout.on('data', (chunk) => (result.out += chunk));
  child.stderr.on('data', (chunk) => (result.err += chunk));
  const end = new Promise<Result>((resolve) => child.once('close', (code) => resolve({ ...result, code })));
  const said = async (text: string) => {
    for (let i = 0; !result.out.includes(text); i++) {
      if (i > 600 || child.exitCode !== null)
        throw new Error(`never said ${text}: ${result.out}${result.err}`);
      await sleep(50);
    }
  };
  return { child, end, said };
}

const cofa = (args: string[], at?: string) => begin(args, at).end;
const json = async <T>(...args: string[]): Promise<T> =>
  JSON.parse((await cofa([...args, '--json'])).out) as T;

describe('the engine from the command line', () => {
  it('a second up is a conflict that names the pid of the first, which goes on', async () => {
    const status = await json<Status>('status');
    const second = await cofa(['up']);
    expect(second.code).toBe(7);
    expect(second.err).toMatch(/^cofa: .*\n {2}hint: /);
    expect(second.err).toContain(`${status.processes[0]?.pid}`);
    expect(second.err).toContain(root);
    expect((await cofa(['status'])).out).toMatch(/^engine .*node cli-test/);
  });

  it('an up that fails says why, and leaves no process', async () => {
    const other = join(directory, 'other');
    const failed = await cofa(['up', '--nats', 'nats://127.0.0.1:1'], other);
    expect(failed.code).toBe(5);
    expect(failed.err).toMatch(/^cofa: .*127\.0\.0\.1:1.*\n {2}hint: /);
    expect((await cofa(['status'], other)).code).toBe(9);
    expect(mountsBelow(other)).toEqual([]);
  });

  it('run: output, exit code, options, and nothing left', async () => {
    expect(await cofa(['run', prepared.ref])).toEqual({ code: 0, out: 'hello\n', err: '' });
    const second = await cofa([
      'run',
      '-e',
      'FROM=call',
      '-u',
      'alice',
      prepared.ref,
      'echo $FROM; id -u; cat /etc/name; exit 33',
    ]);
    expect(second).toEqual({ code: 33, out: 'call\n1000\nprepared\n', err: '' });
    expect(readdirSync(join(root, 'containers'))).toEqual([]);
    expect(mountsBelow(join(root, 'containers'))).toEqual([]);
    expect((await cofa(['run', '--entrypoint', '/bin/nosuch', prepared.ref])).code).toBe(127);
    const missing = await cofa(['run', `${prepared.ref}-none`]);
    expect(missing.code).toBe(125);
    expect(missing.err).toMatch(/^cofa: .+\n {2}hint: .+\n$/);
  });

  it('run: its name, and the image, are free for the next one at once, and nothing lies about for long', async () => {
    for (let turn = 0; turn < 3; turn++)
      expect(await cofa(['run', '--name', 'same', prepared.ref])).toMatchObject({ code: 0, err: '' });
    expect((await json<{ containers: unknown[] }>('ps')).containers).toEqual([]);
    const other = await cofa([
      'run',
      plain.ref,
      'echo x > /tmp/x; seq 100 | while read n; do mkdir /tmp/$n; done',
    ]);
    expect(other).toMatchObject({ code: 0 });
    // It is unused: the removal waits until it is detached.
    expect(await cofa(['rmi', plain.ref])).toMatchObject({ code: 0 });
    await expect.poll(() => readdirSync(join(root, 'discarded'))).toEqual([]);
  });

  it('run: the registry is asked for the tag once, before and for the mount', async () => {
    const before = registry.requests().length;
    expect((await cofa(['run', prepared.ref])).code).toBe(0);
    const asked = registry.requests().slice(before);
    expect(asked.filter(({ path }) => /manifests\/(?!sha256)/.test(path))).toHaveLength(1);
    expect(readFileSync(join(root, 'log/supervisor.log'), 'utf8')).not.toContain('"operation":"expect"');
  });

  it('mount, read, status, unmount: every byte right, and status says where the index came from', async () => {
    const dir = join(directory, 'mnt');
    const mount = await json<{ ref: string; origin: string }>('mount', prepared.ref, dir);
    expect(mount).toMatchObject({ ref: prepared.ref, origin: 'sidecar' });
    expect(readFileSync(join(dir, 'data/large')).equals(large)).toBe(true);
    const again = await cofa(['mount', prepared.ref, dir]);
    expect(again.code).toBe(7);
    const status = await json<Status>('status');
    const image = status.images.find((one) => one.ref === prepared.ref);
    expect(image).toMatchObject({ origin: 'sidecar', state: 'ready', reads: { errors: 0 } });
    expect(image?.bytes.present).toBeGreaterThanOrEqual(large.length);
    expect((await cofa(['ps'])).out).toMatch(new RegExp(`^${dir} +mounted +\\d`, 'm'));
    expect((await cofa(['unmount', dir])).out).toBe(`${dir} is unmounted\n`);
    expect(mountsBelow(dir)).toEqual([]);
    expect((await cofa(['unmount', dir])).code).toBe(3);
  });

  it('an image without a sidecar runs too, and nothing is pushed', async () => {
    const before = registry.requests().length;
    expect(
      await cofa([
        'run',
        '-q',
        plain.ref,
        'cat /etc/name; cat /data/large | sha256sum >/dev/null 2>&1; exit 4',
      ]),
    ).toMatchObject({
      code: 4,
      out: 'plain\n',
    });
    const status = await json<Status>('status');
    expect(status.images.find((one) => one.ref === plain.ref)).toMatchObject({ origin: 'node' });
    const writes = registry
      .requests()
      .slice(before)
      .filter((line) => !['GET', 'HEAD'].includes(line.method));
    expect(writes).toEqual([]);
  });

  it('unmount while something uses it is busy, and changes nothing', async () => {
    const dir = join(directory, 'busy');
    await cofa(['mount', prepared.ref, dir]);
    const user = spawn('sleep', ['60'], { cwd: join(dir, 'data') });
    started.push(user);
    try {
      await sleep(200);
      const refused = await cofa(['unmount', dir]);
      expect(refused.code).toBe(7);
      expect(refused.err).toMatch(/^cofa: .*in use/);
      expect(existsSync(join(dir, 'etc/name'))).toBe(true);
    } finally {
      const gone = new Promise((resolve) => user.once('exit', resolve));
      user.kill('SIGKILL');
      await gone;
    }
    expect((await cofa(['unmount', dir])).code).toBe(0);
  });

  it('the engine mounts the root of a container on its image, and unmounts both; no other caller gets an overlay', async () => {
    const engine = await connectEngine(root);
    const folder = join(root, 'containers/by-hand');
    const dir = join(folder, 'image');
    for (const name of ['upper', 'work', 'rootfs']) await mkdir(join(folder, name), { recursive: true });
    const request = { ref: prepared.ref, container: 'by-hand', prefetch: true, start: 'default' } as const;
    try {
      const elsewhere = engine.call('mount', { ...request, dir: '/mnt', overlay: 'temporary' });
      await expect(elsewhere).rejects.toMatchObject({ code: 'invalid-argument' });
      const mount = await engine.call('mount', { ...request, dir, overlay: 'temporary' });
      expect(mount.overlay).toBe(true);
      expect(await readFile(join(folder, 'rootfs/etc/name'), 'utf8')).toBe('prepared\n');
      await writeFile(join(folder, 'rootfs/etc/name'), 'mine\n');
      expect(await readFile(join(folder, 'upper/etc/name'), 'utf8')).toBe('mine\n');
      await engine.call('unmount', { dir, overlay: true });
      expect(mountsBelow(folder)).toEqual([]);
    } finally {
      await engine.close();
      if (mountsBelow(folder).length === 0) await rm(folder, { recursive: true, force: true });
    }
  });

  it('ps shows a running container, rm refuses it, a killed run leaves an orphan that rm --force removes', async () => {
    const { child, said } = begin(['run', '--name', 'long', prepared.ref, 'echo up; sleep 1000']);
    await said('up');
    expect((await cofa(['ps'])).out).toMatch(/^long +running /m);
    const refused = await cofa(['rm', 'long']);
    expect(refused.code).toBe(7);
    child.kill('SIGKILL');
    // Its output stays open: the container has it.
    await new Promise((resolve) => child.once('exit', resolve));
    expect((await cofa(['ps'])).out).toMatch(/^long +orphaned /m);
    expect((await cofa(['rm', '--force', 'long'])).out).toBe('long\n');
    expect((await json<{ containers: unknown[] }>('ps')).containers).toEqual([]);
    expect(mountsBelow(join(root, 'containers'))).toEqual([]);
  });

  it('events: what happened is in the log, in order, as lines and as JSON', async () => {
    const all = await cofa(['events', '--since-start', '--no-follow', '--json']);
    const events = all.out
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as { seq: number; type: string });
    expect(events[0]?.type).toBe('engine.started');
    const seqs = events.map((event) => event.seq);
    expect(seqs).toEqual([...seqs].sort((a, b) => a - b));
    const some = await cofa(['events', '--from', String(seqs[1]), '--count', '2']);
    expect(some.out.trimEnd().split('\n')).toHaveLength(2);
    expect(some.out).toMatch(new RegExp(`^ +${seqs[1]}  `));
    const follower = begin(['events']);
    // The test cannot see when it listens; it receives one of them.
    const heard = follower.said('mount.').then(() => true);
    do await cofa(['run', prepared.ref]);
    while (!(await Promise.race([heard, sleep(200, false)])));
    follower.child.kill('SIGINT');
    expect((await follower.end).code).toBe(0);
  });

  it('a Ctrl-C during run ends the container and cleans up', async () => {
    const { child, said, end } = begin([
      'run',
      prepared.ref,
      'trap "exit 9" INT; echo up; while :; do sleep 0.1; done',
    ]);
    await said('up');
    child.kill('SIGINT');
    expect((await end).code).toBe(9);
    expect(readdirSync(join(root, 'containers'))).toEqual([]);
  });

  it('env files, volumes and kept layers work through the command line', async () => {
    const shared = join(directory, 'shared');
    await mkdir(shared);
    await writeFile(join(shared, 'vars'), 'A=1\n# no\nB=two words\n');
    const result = await cofa([
      'run',
      '--name',
      'kept',
      '--keep',
      '--env-file',
      join(shared, 'vars'),
      '-v',
      `${shared}:/shared:ro`,
      '-w',
      '/shared',
      '--hostname',
      'inside',
      prepared.ref,
      'echo $A $B; ls; cat /proc/sys/kernel/hostname; echo mine > /tmp/mine',
    ]);
    expect(result.out).toBe('1 two words\nvars\ninside\n');
    expect(result.err).toContain('cofa rm kept');
    expect(readFileSync(join(root, 'containers/kept/upper/tmp/mine'), 'utf8')).toBe('mine\n');
    expect((await cofa(['run', '--name', 'kept', prepared.ref])).code).toBe(125);
    expect((await cofa(['rm', 'kept'])).code).toBe(0);
  });

  it('down stops every process and leaves no mount; up comes back with what is known', async () => {
    const status = await json<Status>('status');
    expect((await cofa(['down'])).out).toBe('the engine has stopped\n');
    for (const { pid } of status.processes) expect([pid, identify(pid)]).toEqual([pid, undefined]);
    expect(mountsBelow(root)).toEqual([]);
    expect((await cofa(['down'])).code).toBe(9);
    const before = registry.requests().length;
    expect((await cofa(['up', '--node', 'cli-test', '--trust', 'registry'])).code).toBe(0);
    expect(await cofa(['run', '-q', plain.ref])).toEqual({ code: 0, out: 'hello\n', err: '' });
    // All of it lies on the node already.
    const blobs = plain.layers.map((layer) => layer.digest);
    const fetched = registry
      .requests()
      .slice(before)
      // Whether this repository has a layer that another one shares is asked, by HEAD.
      .filter(({ method, path }) => method === 'GET' && blobs.some((blob) => path.includes(blob)));
    expect(fetched).toEqual([]);
  });
});
