/** Directories that are taken, mounts that are in use, and engines that are stopped beneath them. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { ErrorCode } from '../../schemas/errors.ts';
import { findMount } from '../../src/kernel/mount.ts';
import { prose } from '../images/nasty.ts';
import {
  type CliResult,
  type Engine,
  errorOf,
  imageOf,
  mountImage,
  runCofa,
  startEngine,
} from '../support/engine.ts';
import { readInParallel } from '../support/readers.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { runCommand } from '../support/services.ts';
import { Cleanup, mountsBelow } from '../support/temp.ts';
import { type FaultImage, pushImage, readPieces, twoLayers } from './fault-image.ts';

const cleanup = new Cleanup();
const users: ChildProcess[] = [];
let directory = '';
let registry: RegistryServer;
let engine: Engine;
let image: FaultImage;

beforeAll(async () => {
  directory = await cleanup.tempDir('points');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  image = await pushImage(directory, registry.host, 'app', twoLayers(2000));
  engine = await startEngine({ workers: 1 });
  cleanup.defer(() => engine.stop());
  expect((await engine.cli(['index', image.ref])).code).toBe(0);
});
afterEach(async () => {
  for (const user of users.splice(0)) await end(user);
});
afterAll(() => cleanup.run());

const path = (name: string) => join(directory, name);

function refused(result: CliResult, code: ErrorCode, exit: number): void {
  expect([errorOf(result).code, result.code]).toEqual([code, exit]);
  expect(errorOf(result).message).not.toBe('');
}

/** A process whose working directory keeps the mount in use. */
async function useMount(dir: string): Promise<ChildProcess> {
  const user = spawn('sh', ['-c', 'echo ready; exec sleep 600'], {
    cwd: dir,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  users.push(user);
  await new Promise((resolve) => user.stdout?.once('data', resolve));
  return user;
}

async function end(user: ChildProcess): Promise<void> {
  if (user.exitCode !== null || user.signalCode !== null) return;
  const gone = new Promise((resolve) => user.once('exit', resolve));
  user.kill('SIGKILL');
  await gone;
}

/** Outcomes of all files, read in a process of their own. */
const readAll = (dir: string) =>
  readInParallel({ root: dir, expected: image.expected, readers: 4, copies: 1 });

describe('where an image is mounted', () => {
  it('a directory with something in it, a file, a mount point: conflict, and all of it stays', async () => {
    const full = path('full');
    mkdirSync(full);
    writeFileSync(join(full, 'mine'), 'x');
    const file = path('file');
    writeFileSync(file, 'x');
    const taken = path('taken');
    mkdirSync(taken);
    await runCommand('mount', ['-t', 'tmpfs', 'tmpfs', taken]);
    try {
      for (const dir of [full, file, taken]) {
        const result = await engine.cli(['mount', '--json', image.ref, dir]);
        refused(result, 'conflict', 7);
        expect(errorOf(result).message).toContain(dir);
      }
      expect(readdirSync(full)).toEqual(['mine']);
      expect(mountsBelow(taken)).toEqual([taken]);
    } finally {
      await runCommand('umount', ['--', taken]);
    }
    refused(await engine.cli(['mount', '--json', image.ref, join(file, 'below')]), 'conflict', 7);
    expect((await engine.status()).mounts).toEqual([]);
  });

  it('twice at one place: conflict also when both come at once, and the first goes on', async () => {
    const dir = path('twice');
    const both = await Promise.all([
      engine.cli(['mount', '--json', image.ref, dir]),
      engine.cli(['mount', '--json', image.ref, dir]),
    ]);
    expect(both.map(({ code }) => code).sort()).toEqual([0, 7]);
    refused(both.find(({ code }) => code === 7) as CliResult, 'conflict', 7);
    refused(await engine.cli(['mount', '--json', image.ref, `${dir}/../twice/`]), 'conflict', 7);
    expect(mountsBelow(dir)).toEqual([dir]);
    expect(await readAll(dir)).toMatchObject({ failures: [] });
    expect((await engine.cli(['unmount', dir])).code).toBe(0);
    expect(existsSync(dir)).toBe(false);
  });

  it('unmount of what is not mounted: not-found', async () => {
    mkdirSync(path('plain'));
    for (const dir of [path('plain'), path('nowhere'), '/proc']) {
      refused(await engine.cli(['unmount', '--json', dir]), 'not-found', 3);
    }
  });

  it('unmount while it is used: busy; it goes on working and goes when the user has gone', async () => {
    const dir = path('busy');
    await mountImage(engine, image.ref, dir);
    const user = await useMount(join(dir, 'app'));
    const result = await engine.cli(['unmount', '--json', dir]);
    refused(result, 'busy', 7);
    // Who it is it says where that is quickly found.
    expect(errorOf(result).message).toContain(`${dir} is in use`);
    expect((await engine.status()).mounts).toMatchObject([{ dir, state: 'mounted' }]);
    expect(await readAll(dir)).toMatchObject({ failures: [] });
    await end(user);
    expect((await engine.cli(['unmount', dir])).code).toBe(0);
    expect(mountsBelow(dir)).toEqual([]);
  });
});

describe('containers, which stand on overlays above a mount', () => {
  let own: Engine;
  let fresh: FaultImage;
  let dir = '';
  beforeAll(async () => {
    own = await startEngine({ workers: 1, args: ['--node', 'below'] });
    cleanup.defer(() => own.stop());
    fresh = await pushImage(path('below'), registry.host, 'below', [
      { 'app/prose': prose(3_000_000, 2502), 'app/other': prose(3_000_000, 2503) },
    ]);
    expect((await own.cli(['index', fresh.ref])).code).toBe(0);
    dir = path('below-mount');
    await mountImage(own, fresh.ref, dir);
  });

  /** An overlay on the mount, in a mount namespace of its own where the mount itself is not; returns whose it is, and its root. */
  async function contain(): Promise<{ user: ChildProcess; root: string }> {
    const root = path(`contained-${users.length}`);
    for (const name of ['upper', 'work', 'merged']) mkdirSync(join(root, name), { recursive: true });
    const layers = 'lowerdir=$0,upperdir=$1/upper,workdir=$1/work';
    const script = `mount -t overlay overlay -o "${layers}" "$1/merged" && umount "$0" && echo ready && exec sleep 600`;
    const order = ['--mount', '--propagation', 'private', 'sh', '-c', script, dir, root];
    const user = spawn('unshare', order, { stdio: ['ignore', 'pipe', 'inherit'] });
    users.push(user);
    await new Promise((resolve) => user.stdout?.once('data', resolve));
    return { user, root: `/proc/${user.pid}/root${root}/merged` };
  }

  /** Some pages of a file that no test has read yet, from `from` on. */
  const readOn = (root: string, from: number) =>
    readPieces(join(root, 'app/prose'), fresh.files.get('app/prose') as Buffer, {
      from,
      count: 2,
      exact: true,
    });

  it('down is busy and names a process of a mount namespace of its own, which reads what is absent', async () => {
    const { user, root } = await contain();
    const refusal = async () => {
      const result = await own.cli(['down', '--json']);
      refused(result, 'busy', 7);
      expect(errorOf(result).message).toContain(dir);
      return errorOf(result).message;
    };
    // It says who where that is quickly found.
    const named = new RegExp(`sleep \\(pid ${user.pid}, the mount .*/merged of its mount namespace\\)`);
    await expect.poll(refusal, { timeout: 60_000 }).toMatch(named);
    expect(await readOn(root, 100)).toEqual(['ok', 'ok']);
    expect((await own.status()).mounts).toMatchObject([{ dir, state: 'mounted' }]);
    expect(mountsBelow(dir)).toEqual([dir]);
    expect(await readOn(dir, 300)).toEqual(['ok', 'ok']);
    expect((await imageOf(own, fresh.ref)).reads.errors).toBe(0);
  });

  it('down is busy and names the overlay where that is seen, and has touched no mount', async () => {
    const root = path('seen');
    for (const name of ['upper', 'work', 'merged']) mkdirSync(join(root, name), { recursive: true });
    const merged = join(root, 'merged');
    const layers = `lowerdir=${dir},upperdir=${root}/upper,workdir=${root}/work`;
    await runCommand('mount', ['-t', 'overlay', 'overlay', '-o', layers, merged]);
    try {
      const before = findMount(dir);
      const result = await own.cli(['down', '--json']);
      refused(result, 'busy', 7);
      expect(errorOf(result).message).toContain(`${dir} by the mount ${merged}`);
      expect(findMount(dir)).toEqual(before);
      expect(await readOn(merged, 400)).toEqual(['ok', 'ok']);
    } finally {
      await runCommand('umount', ['--', merged]);
    }
  });

  it('when they have gone the engine stops', async () => {
    expect((await own.cli(['down'])).code).toBe(0);
    await own.ended;
    expect(mountsBelow(dir)).toEqual([]);
  });
});

describe('a second engine, and the end of the first', () => {
  it('a second up at the same root: conflict that names the first, which goes on', async () => {
    for (const extra of [[], ['--foreground']]) {
      const second = await engine.cli(['up', '--json', ...extra]);
      expect(second.code).toBe(7);
      expect(second.stdout + second.stderr).toContain(String(engine.pid));
    }
    expect((await engine.status()).processes[0]?.pid).toBe(engine.pid);
    refused(await runCofa(['status', '--json', '--root', path('no-root')]), 'not-running', 9);
  });

  it('down while a mount is used that is not complete: busy, nothing changed; with --force it stops and reads fail', async () => {
    const own = await startEngine({ workers: 1, args: ['--node', 'own'] });
    cleanup.defer(() => own.stop());
    const fresh = await pushImage(path('fresh'), registry.host, 'fresh', [
      { 'app/prose': prose(3_000_000, 2500), 'app/other': prose(3_000_000, 2501) },
    ]);
    expect((await own.cli(['index', fresh.ref])).code).toBe(0);
    const [used, idle] = [path('down-used'), path('down-idle')];
    await mountImage(own, fresh.ref, used);
    await mountImage(own, fresh.ref, idle);
    const content = fresh.files.get('app/prose') as Buffer;
    const read = (name = 'app/prose') => readPieces(join(used, name), content, { count: 4, exact: true });
    expect(await read()).toEqual(['ok', 'ok', 'ok', 'ok']);
    await useMount(join(used, 'app'));

    const before = await own.status();
    const result = await own.cli(['down', '--json']);
    refused(result, 'busy', 7);
    expect(errorOf(result).message).toContain(used);
    const after = await own.status();
    expect(after.mounts).toEqual(before.mounts);
    expect(after.processes.map(({ pid }) => pid)).toEqual(before.processes.map(({ pid }) => pid));
    expect(mountsBelow(idle)).toEqual([idle]);
    expect(await readPieces(join(idle, 'app/prose'), content)).not.toContain('EIO');
    expect((await imageOf(own, fresh.ref)).reads.errors).toBe(0);

    expect((await own.cli(['down', '--force', '--json'])).code).toBe(0);
    await own.ended;
    expect(mountsBelow(directory).filter((point) => [used, idle].includes(point))).toEqual([]);
    // The user sees the folder that it stands in, and an error where bytes are missing; it is not blocked.
    const user = users.at(-1) as ChildProcess;
    const tail = await runCommand('timeout', [
      '20',
      'sh',
      '-c',
      `cd /proc/${user.pid}/cwd && ls && { cat other > /dev/null && echo read || echo failed; } 2>&1`,
    ]);
    expect(tail).toMatch(/^other\nprose\n/);
    expect(tail).toMatch(/failed\n$/);
    refused(await own.cli(['status', '--json']), 'not-running', 9);
  });
});
