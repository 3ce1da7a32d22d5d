import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { exec } from '../../src/container/exec.ts';
import type { RunOptions } from '../../src/container/options.ts';
import { listContainers, reapContainers } from '../../src/container/reap.ts';
import { cgroupOf } from '../../src/container/cgroup.ts';
import { Cleanup, listMounts, mountsBelow } from '../support/temp.ts';
import type { DriverInput } from './driver.ts';
import { type FakeConfig, makeRootfs } from './host-rootfs.ts';
import { PLAIN } from './plain.ts';
import { unmount } from '../../src/kernel/mount.ts';

const cleanup = new Cleanup();
let directory = '';
let root = '';
let rootfs = '';
const started: ChildProcess[] = [];

/** System calls of x86-64 (asm/unistd_64.h) with their arguments. */
const DOORS: Record<string, number[]> = {
  'socket(AF_PACKET)': [41, 17, 3, 0],
  'socket(AF_INET, SOCK_RAW)': [41, 2, 3, 1],
  'socket(AF_ALG)': [41, 38, 5, 0],
  'socket(AF_VSOCK)': [41, 40, 1, 0],
  add_key: [248, 0, 0, 0, 0, -4],
  request_key: [249, 0, 0, 0, 0],
  'keyctl(GET_KEYRING_ID)': [250, 0, -4, 0],
  bpf: [321, 0, 0, 0],
  perf_event_open: [298, 0, 0, -1, -1, 0],
  userfaultfd: [323, 0],
  io_uring_setup: [425, 1, 0],
  open_by_handle_at: [304, -1, 0, 0],
  mount: [165, 0, 0, 0, 0, 0],
  umount2: [166, 0, 0],
  fsopen: [430, 0, 0],
  open_tree: [428, -1, 0, 0],
  move_mount: [429, -1, 0, -1, 0, 0],
  'unshare(CLONE_NEWUSER)': [272, 0x1000_0000],
  setns: [308, -1, 0],
  'clone(CLONE_NEWUSER)': [56, 0x1000_0000, 0, 0, 0, 0],
  kexec_load: [246, 0, 0, 0, 0],
  mbind: [237, 0, 0, 0, 0, 0, 0],
};
const EPERM = 1;
const PROBE = `print '{', join(',', ${Object.entries(DOORS)
  .map(([name, numbers]) => `'"${name}":' . (syscall(${numbers.join(',')}) < 0 ? $! + 0 : 0)`)
  .join(', ')}), '}'`;

beforeAll(async () => {
  directory = await cleanup.tempDir('ctr');
  // The marks that overlayfs needs escaped, and a blank.
  root = join(directory, 'root, a:b');
  rootfs = join(directory, 'image');
  await makeRootfs(rootfs);
});

afterEach(async () => {
  for (const child of started.splice(0)) if (child.exitCode === null) child.kill('SIGKILL');
  for (const { id } of await listContainers(root, new Date())) {
    await reapContainers({
      root,
      now: new Date(),
      only: id,
      force: true,
      unmountImage: (dir) => unmount(dir),
    });
  }
});
afterAll(() => cleanup.run());

interface Result {
  code: number | null;
  stdout: string;
  stderr: string;
}

function begin(options: Partial<RunOptions>, config: FakeConfig = {}, more: Partial<DriverInput> = {}) {
  const input: DriverInput = { directory, root, rootfs, config, options: { ...PLAIN, ...options }, ...more };
  const child = spawn(process.execPath, [join(import.meta.dirname, 'driver.ts'), JSON.stringify(input)], {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, FROM_CALLER: 'caller' },
  });
  started.push(child);
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk) => (stdout += chunk));
  child.stderr.on('data', (chunk) => (stderr += chunk));
  const result = new Promise<Result>((resolve) =>
    child.once('close', (code) => resolve({ code, stdout, stderr })),
  );
  const said = async (text: string) => {
    for (let i = 0; !`${stdout}${stderr}`.includes(text); i++) {
      if (i > 600 || child.exitCode !== null) throw new Error(`never said ${text}: ${stdout}${stderr}`);
      await sleep(50);
    }
  };
  return { child, result, said };
}

const runOnce = (options: Partial<RunOptions>, config?: FakeConfig, more?: Partial<DriverInput>) =>
  begin(options, config, more).result;

/** Everything a container leaves on the machine, which must be nothing. */
function leftovers(): string[] {
  const folders = existsSync(join(root, 'containers')) ? readdirSync(join(root, 'containers')) : [];
  const runc = existsSync(join(root, 'runc')) ? readdirSync(join(root, 'runc')) : [];
  return [...folders, ...runc, ...mountsBelow(root)];
}

describe('a container from a folder', () => {
  it('writes its output, passes its exit code on and leaves nothing behind', async () => {
    const result = await runOnce({ args: ['sh', '-c', 'echo out; echo err >&2; echo $$; exit 42'] });
    expect(result.stdout).toBe('out\n1\n');
    expect(result.stderr).toBe('err\ncalls: mount unmount\n');
    expect(result.code).toBe(42);
    expect(leftovers()).toEqual([]);
  });

  it('honours entrypoint, command, environment, folder and user of the image', async () => {
    const config: FakeConfig = {
      Entrypoint: ['sh', '-c'],
      Cmd: ['echo "$PWD|$A|$HOME|$(id -u):$(id -g):$(id -G)"'],
      Env: ['A=image', 'PATH=/bin'],
      User: 'alice',
      WorkingDir: '/data/deep',
    };
    expect((await runOnce({}, config)).stdout).toBe('/data/deep|image|/home/alice|1000:1001:1001 10 44\n');
    const changed = await runOnce(
      {
        env: ['A=run', 'FROM_CALLER'],
        user: '5:video',
        workdir: '/not/there/yet',
        args: ['echo "$PWD|$A|$FROM_CALLER|$(id -u):$(id -g)"'],
      },
      config,
    );
    expect(changed.stdout).toBe('/not/there/yet|run|caller|5:44\n');
  });

  it('is isolated but for the network: own processes, own hostname, no device of the host, few capabilities', async () => {
    const script =
      'cat /proc/sys/kernel/hostname; cat /proc/1/cmdline; echo; ls /dev; cat /proc/self/status; cat /etc/hosts';
    const { stdout } = await runOnce({ args: ['sh', '-c', script], hostname: 'inside' });
    expect(stdout).toMatch(/^inside\nsh\0-c/);
    expect(stdout).not.toMatch(/^(loop|vda|sda|fuse)/m);
    expect(stdout).toMatch(/^CapEff:\s*00000000a80405fb$/m);
    expect(stdout).toMatch(/^127\.0\.1\.1\tinside$/m);
    const alice = await runOnce({ args: ['cat', '/proc/self/status'], user: 'alice' });
    expect(alice.stdout).toMatch(/^CapEff:\s*0000000000000000$/m);
  });

  it('may not make user namespaces, unless told otherwise; its programs start all the same', async () => {
    const args = ['unshare', '--user', 'sh', '-c', 'echo made'];
    const refused = await runOnce({ args });
    expect(refused.stderr).toMatch(/unshare: .*Operation not permitted/);
    const alone = await runOnce({ args, unconfined: true });
    expect(alone.stdout).toBe('made\n');
    const status = await runOnce({ args: ['cat', '/proc/self/status'], noNewPrivileges: true });
    expect(status.stdout).toMatch(/^NoNewPrivs:\s*1$/m);
    expect(status.stdout).toMatch(/^Seccomp:\s*2$/m);
  });

  it.runIf(process.arch === 'x64')(
    'gets no raw socket, no key, and no other door into the kernel that docker closes, though it is root',
    async () => {
      const { stdout } = await runOnce({ args: ['perl', '-e', PROBE] });
      expect(JSON.parse(stdout)).toEqual(Object.fromEntries(Object.keys(DOORS).map((name) => [name, EPERM])));
    },
  );

  it('has loopback alone with --network none, and the host’s interfaces without', async () => {
    const args = ['cat', '/proc/net/dev'];
    const interfaces = (text: string) => [...text.matchAll(/^\s*([\w.@-]+):/gm)].map((match) => match[1]);
    expect(interfaces((await runOnce({ args, network: 'none' })).stdout)).toEqual(['lo']);
    const host = interfaces(readFileSync('/proc/net/dev', 'latin1'));
    expect(interfaces((await runOnce({ args })).stdout)).toEqual(host);
  });

  it('writes to the upper layer, never to the image, and renames folders of the image', async () => {
    const result = await runOnce({
      args: [
        'sh',
        '-c',
        'echo new > /data/new; echo changed > /data/deep/file; mv /data /moved; cat /moved/deep/file /moved/new',
      ],
    });
    expect(result.stdout).toBe('changed\nnew\n');
    expect(readFileSync(join(rootfs, 'data/deep/file'), 'utf8')).toBe('deep\n');
    expect(readdirSync(join(rootfs, 'data'))).toEqual(['deep']);
  });

  it('changes the owner of a file without reading its data', async () => {
    await writeFile(join(rootfs, 'data/large'), Buffer.alloc(4 << 20, 7));
    const result = await runOnce(
      { args: ['chown', '1000:1000', '/data/large'] },
      {},
      { keep: true, name: 'owner' },
    );
    expect(result.code).toBe(0);
    const upper = statSync(join(root, 'containers/owner/upper/data/large'));
    expect(upper.uid).toBe(1000);
    expect(upper.size).toBe(4 << 20);
    expect(upper.blocks * 512).toBeLessThan(65_536);
  });

  it('shows volumes, outer before inner, read-only where asked, and refuses one that is not there', async () => {
    const shared = join(directory, 'shared');
    await mkdir(join(shared, 'inner'), { recursive: true });
    await mkdir(join(directory, 'other'), { recursive: true });
    await writeFile(join(shared, 'word'), 'from the host\n');
    const volume = { readOnly: false, propagation: 'rprivate' } as const;
    const result = await runOnce({
      volumes: [
        { ...volume, source: join(directory, 'other'), target: '/v/inner' },
        { ...volume, source: shared, target: '/v', readOnly: true },
      ],
      args: ['sh', '-c', 'cat /v/word; echo deep > /v/inner/made && echo no > /v/made'],
    });
    expect(result.stdout).toBe('from the host\n');
    expect(result.stderr).toMatch(/Read-only file system/);
    expect(readFileSync(join(directory, 'other/made'), 'utf8')).toBe('deep\n');
    const missing = await runOnce({ volumes: [{ ...volume, source: join(shared, 'none'), target: '/v' }] });
    expect(missing.code).toBe(125);
    expect(missing.stderr).toMatch(/^not-found: volume: .*shared\/none is not there/);
    expect(leftovers()).toEqual([]);
  });

  it('has a read-only root with --read-only, though still a writable /dev/shm', async () => {
    const result = await runOnce({
      readOnly: true,
      args: ['sh', '-c', 'echo a > /dev/shm/a && echo ok; echo a > /a'],
    });
    expect(result.stdout).toBe('ok\n');
    expect(result.stderr).toMatch(/Read-only file system/);
  });

  it('reads the standard input with -i, and finds it empty without', async () => {
    const open = begin({ args: ['cat'], interactive: true });
    open.child.stdin?.end('through\n');
    expect((await open.result).stdout).toBe('through\n');
    const closed = begin({ args: ['cat'] });
    closed.child.stdin?.write('lost\n');
    expect((await closed.result).stdout).toBe('');
  });

  it('gives a terminal with -t, in the size of the caller’s, and its exit code', async () => {
    const input: DriverInput = {
      directory,
      root,
      rootfs,
      config: {},
      options: {
        ...PLAIN,
        tty: true,
        interactive: true,
        args: ['sh', '-c', 'tty; stty size; echo $TERM; exit 9'],
      },
    };
    const driver = [process.execPath, join(import.meta.dirname, 'driver.ts'), JSON.stringify(input)];
    const command = driver.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(' ');
    const result = await exec('script', ['-qec', `stty rows 33 cols 101; ${command}`, '/dev/null'], 60_000);
    expect(result.stdout).toMatch(/\/dev\/pts\/0\r\n33 101\r\nxterm\r\n/);
    expect(result.code).toBe(9);
    expect((await runOnce({ tty: true, args: ['sh'] })).stderr).toMatch(
      /^invalid-argument: --tty needs a terminal/,
    );
  });
});

describe('an image that stands while the engine tells the log', () => {
  it('is read meanwhile, and its container starts after the answer', async () => {
    const result = await runOnce(
      { args: ['cat', '/etc/hostname'], hostname: 'h1' },
      {},
      { standing: 'answers' },
    );
    expect(result.stdout).toBe('h1\n');
    expect(result.stderr).toBe('started before the answer: false\ncalls: mount unmount\n');
    expect(result.code).toBe(0);
    expect(leftovers()).toEqual([]);
  });

  it('fails with the log, whatever was found in it', async () => {
    const result = await runOnce({ args: ['nosuch'] }, {}, { standing: 'fails' });
    expect(result.stderr).toContain('unavailable: the log is away');
    expect(result.code).toBe(125);
    expect(leftovers()).toEqual([]);
  });

  it('is taken away where it has no such command', async () => {
    const result = await runOnce({ args: ['nosuch'] }, {}, { standing: 'answers' });
    expect(result.stderr).toMatch(/not-found: the image has no command/);
    expect(result.code).toBe(127);
    expect(leftovers()).toEqual([]);
  });
});

describe('a container that does not start', () => {
  it('127: the command is not in the image', async () => {
    for (const args of [['nosuch'], ['/bin/nosuch'], ['./sh']]) {
      const result = await runOnce({ args });
      expect(result.stderr).toMatch(/^not-found: the image has no command/);
      expect(result.code).toBe(127);
    }
    expect(leftovers()).toEqual([]);
  });

  it('126: the command cannot be executed', async () => {
    for (const args of [['/bin/plain'], ['/etc'], ['plain']]) {
      const result = await runOnce({ args });
      expect(result.stderr).toMatch(/^invalid-argument: the command .* cannot be executed/);
      expect(result.code).toBe(126);
    }
  });

  it('125 or 127 with the reason of runc where only runc can know', async () => {
    const shared = join(directory, 'empty');
    await mkdir(shared, { recursive: true });
    const result = await runOnce({
      volumes: [{ source: shared, target: '/v', readOnly: false, propagation: 'rprivate' }],
      args: ['/v/nosuch'],
    });
    expect(result.code).toBe(127);
    expect(result.stderr).toMatch(/not-found: the container did not start: exec: "\/v\/nosuch"/);
    expect(leftovers()).toEqual([]);
  });

  it('125: no such user; no command; the engine’s error; each cleaned up', async () => {
    expect((await runOnce({ args: ['sh'], user: 'nobody-here' })).stderr).toMatch(
      /^invalid-argument: the image has no user/,
    );
    expect((await runOnce({})).stderr).toMatch(/^invalid-argument: no command/);
    const gone = await runOnce({ args: ['sh'] }, {}, { rootfs: join(directory, 'no-such-image') });
    expect(gone.code).toBe(125);
    expect(leftovers()).toEqual([]);
  });

  it('conflict: a name that is taken', async () => {
    const first = begin({ args: ['sh', '-c', 'echo up; sleep 100'] }, {}, { name: 'twin' });
    await first.said('up');
    const second = await runOnce({ args: ['sh'] }, {}, { name: 'twin' });
    expect(second.stderr).toMatch(/^conflict: there is a container named twin already/);
    first.child.kill('SIGTERM');
    first.child.kill('SIGTERM');
  });
});

describe('signals', () => {
  it('SIGTERM arrives as the image’s stop signal, others as they are, each once', async () => {
    const script =
      'trap "echo stop" USR2; trap "echo usr1" USR1; trap "echo int; exit 5" INT; echo up; while :; do sleep 0.1; done';
    const { child, result, said } = begin({ args: ['sh', '-c', script] }, { StopSignal: 'SIGUSR2' });
    await said('up');
    child.kill('SIGTERM');
    await said('stop');
    child.kill('SIGUSR1');
    await said('usr1');
    child.kill('SIGINT');
    const end = await result;
    expect(end.stdout).toBe('up\nstop\nusr1\nint\n');
    expect(end.code).toBe(5);
    expect(leftovers()).toEqual([]);
  });

  it('the third request to stop kills a container that ignores the others', async () => {
    const { child, result, said } = begin({
      args: ['sh', '-c', 'trap "echo no" INT; echo up; while :; do sleep 0.1; done'],
    });
    await said('up');
    // Two signals that come before the shell's turn are one.
    for (const told of ['up\nno\n', 'up\nno\nno\n']) {
      child.kill('SIGINT');
      await said(told);
    }
    child.kill('SIGINT');
    const end = await result;
    expect(end.stdout).toBe('up\nno\nno\n');
    expect(end.code).toBe(137);
    expect(leftovers()).toEqual([]);
  });

  it('a mount that is broken off is taken back also from an engine that goes on with it for a while', async () => {
    const { child, result, said } = begin({ args: ['sh'] }, {}, { slowMount: 60_000, busyUnmounts: 3 });
    await said('mounting');
    child.kill('SIGTERM');
    const end = await result;
    expect(end.code).toBe(143);
    expect(end.stderr).toMatch(/calls: mount unmount unmount unmount unmount/);
    expect(leftovers()).toEqual([]);
  });

  it('a signal while the image is being mounted ends it, and the mount is taken back', async () => {
    const { child, result, said } = begin({ args: ['sh'] }, {}, { slowMount: 60_000 });
    await said('mounting');
    child.kill('SIGINT');
    const end = await result;
    expect(end.code).toBe(130);
    expect(end.stderr).toMatch(/calls: mount unmount/);
    expect(leftovers()).toEqual([]);
  });
});

describe('what a killed cofa run leaves', () => {
  it('the container runs on as an orphan, is not reaped, is removed by force', async () => {
    const { child, said } = begin({ args: ['sh', '-c', 'echo up; sleep 1000'] }, {}, { name: 'orphan' });
    await said('up');
    child.kill('SIGKILL');
    // Its output stays open: the container has it.
    await new Promise((resolve) => child.once('exit', resolve));
    const reap = (more: { only?: string; force?: boolean }) =>
      reapContainers({ root, now: new Date(), unmountImage: (dir) => unmount(dir), ...more });
    const [info] = await listContainers(root, new Date());
    expect(info).toMatchObject({ id: 'orphan', state: 'orphaned' });
    expect(readFileSync(`/proc/${info?.pid}/cgroup`, 'utf8')).toContain(`:${cgroupOf(root, 'orphan')}\n`);
    expect(readFileSync(`/proc/${info?.pid}/cmdline`, 'latin1')).toMatch(/^sh\0/);
    expect(await reap({})).toEqual([]);
    await expect(reap({ only: 'orphan' })).rejects.toMatchObject({ code: 'busy' });
    await expect(reap({ only: 'nobody' })).rejects.toMatchObject({ code: 'not-found' });
    expect(await reap({ only: 'orphan', force: true })).toEqual([{ id: 'orphan' }]);
    expect(leftovers()).toEqual([]);
    expect(existsSync(`/proc/${info?.pid}`)).toBe(false);
  });

  it('a container that ended after its cofa run was killed is dead and is reaped with its mounts', async () => {
    const { child, said } = begin({ args: ['sh', '-c', 'echo up; sleep 1'] });
    await said('up');
    child.kill('SIGKILL');
    for (let i = 0; (await listContainers(root, new Date()))[0]?.state !== 'dead'; i++) {
      if (i > 100) throw new Error('never dead');
      await sleep(100);
    }
    expect(mountsBelow(root).length).toBe(2);
    const reaped = await reapContainers({ root, now: new Date(), unmountImage: (dir) => unmount(dir) });
    expect(reaped.map((one) => one.error)).toEqual([undefined]);
    expect(leftovers()).toEqual([]);
  });

  it('the image of a running container cannot be unmounted, and the container does not see why', async () => {
    const { child, result, said } = begin(
      { args: ['sh', '-c', 'ls /proc/self/fd; echo up; sleep 1000'] },
      {},
      { name: 'held' },
    );
    await said('up');
    const image = join(root, 'containers/held/image');
    await expect(unmount(image)).rejects.toMatchObject({ code: 'busy' });
    child.kill('SIGKILL');
    // Its output stays open: the container has it.
    await new Promise((resolve) => child.once('exit', resolve));
    await expect(unmount(image)).rejects.toMatchObject({ code: 'busy' });
    await reapContainers({
      root,
      now: new Date(),
      only: 'held',
      force: true,
      unmountImage: (dir) => unmount(dir),
    });
    // 3 is the folder that ls reads.
    expect((await result).stdout).toBe('0\n1\n2\n3\nup\n');
    expect(leftovers()).toEqual([]);
  });

  it('a folder in which something is still mounted is not removed', async () => {
    const { child, said } = begin({ args: ['sh', '-c', 'echo up; sleep 1000'] }, {}, { name: 'stuck' });
    await said('up');
    child.kill('SIGKILL');
    const reaped = reapContainers({
      root,
      now: new Date(),
      only: 'stuck',
      force: true,
      unmountImage: () => Promise.resolve(),
    });
    await expect(reaped).rejects.toMatchObject({
      code: 'busy',
      message: expect.stringContaining('still mounted'),
    });
    expect(readFileSync(join(rootfs, 'data/deep/file'), 'utf8')).toBe('deep\n');
    await unmount(join(root, 'containers/stuck/image'));
  });

  it('a kept upper layer stays until it is removed by name', async () => {
    const result = await runOnce(
      { args: ['sh', '-c', 'echo mine > /tmp/mine; exit 3'] },
      {},
      { keep: true, name: 'kept' },
    );
    expect(result.code).toBe(3);
    expect(result.stderr).toMatch(/note: kept what kept wrote/);
    expect(readFileSync(join(root, 'containers/kept/upper/tmp/mine'), 'utf8')).toBe('mine\n');
    expect(await listContainers(root, new Date())).toMatchObject([
      { id: 'kept', state: 'kept', record: { exit: 3 } },
    ]);
    const reap = (only?: string) =>
      reapContainers({
        root,
        now: new Date(),
        unmountImage: (dir) => unmount(dir),
        ...(only ? { only } : {}),
      });
    expect(await reap()).toEqual([]);
    expect(await reap('kept')).toEqual([{ id: 'kept' }]);
    expect(leftovers()).toEqual([]);
  });
});

describe('after all tests', () => {
  it('no cgroup and no mount of theirs is left', async () => {
    expect(listMounts().filter((entry) => entry.point.startsWith(directory))).toEqual([]);
    const mine = cgroupOf(root, '*').slice(1);
    const { stdout } = await exec('find', ['/sys/fs/cgroup', '-path', `*/${mine}`, '-type', 'd']);
    expect(stdout).toBe('');
  });
});
