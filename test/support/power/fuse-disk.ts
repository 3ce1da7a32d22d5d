/**
 * An ext4 of this machine on a disk whose power can be cut (fuse-file.ts, cached-disk.ts). Root; a second or less for a cut and the
 * mount after it, where a virtual machine takes minutes.
 *
 * A process that waits for this disk can only be killed when the disk answers or is aborted. So everything here has a limit of time,
 * and `close` aborts first.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, rmdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { abortConnection } from '../../../src/fuse/connection.ts';
import { runCommand } from '../services.ts';
import { listMounts, mountsBelow } from '../temp.ts';
import type { Cut } from './cached-disk.ts';
import type { Answer, Look, Order } from './fuse-file.ts';

export interface FuseDiskOptions {
  /** An empty folder on another disk, for the disk's own files; its contents stay with the caller. */
  folder: string;
  bytes: number;
}

const FILE_NAME = 'disk';
/** A command, or an answer of the server, takes no longer, ms. */
const LIMIT_MS = 30_000;
/** The file system of a disk without power may have users for so long, ms, before the next one is made. */
const USERS_MS = 2_000;

export class FuseDisk {
  /** Where the file system is mounted. */
  readonly path: string;
  readonly #folder: string;
  readonly #child: ChildProcess;
  /** Numbers the mounts of the disk's file. */
  #count = 0;
  #served: { target: string; connection: number } | undefined;
  #loop: string | undefined;
  #isOff = false;

  /** Makes the file system and mounts it. */
  static async make({ folder, bytes }: FuseDiskOptions): Promise<FuseDisk> {
    const base = join(folder, 'base');
    writeFileSync(base, '');
    truncateSync(base, bytes);
    await run('mkfs.ext4', '-q', '-m', '0', '-F', base);
    const disk = new FuseDisk(folder);
    try {
      await disk.on();
      return disk;
    } catch (error) {
      await disk.close();
      throw error;
    }
  }

  private constructor(folder: string) {
    this.#folder = folder;
    this.path = join(folder, 'disk');
    mkdirSync(this.path);
    const program = join(import.meta.dirname, 'fuse-file.ts');
    this.#child = fork(program, [join(folder, 'base'), join(folder, 'own'), FILE_NAME], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      execArgv: [],
    });
  }

  /**
   * The power is there again: the kernel mounts what is left, and e2fsck finds no fault in it. `options`: of mount(8). Throws what
   * they say, which would be a fault of this disk and no engine's.
   */
  async on(options = 'rw'): Promise<void> {
    const target = join(this.#folder, `file-${++this.#count}`);
    mkdirSync(target);
    await this.#order({ order: 'serve', target });
    const device = listMounts()
      .find(({ point }) => point === target)
      ?.device.split(':')[1];
    this.#served = { target, connection: Number(device) };
    this.#isOff = false;
    const losetup = ['--find', '--show', '--direct-io=on', join(target, FILE_NAME)];
    this.#loop = (await run('losetup', ...losetup)).trim();
    if (this.#count > 1) {
      // The mount brings the journal into place, without which e2fsck would complain.
      await run('mount', '-t', 'ext4', this.#loop, this.path);
      await run('umount', '--', this.path);
      await run('e2fsck', '-f', '-n', this.#loop);
    }
    await run('mount', '-t', 'ext4', '-o', options, this.#loop, this.path);
  }

  /** The moment of the cut: from now on the disk does nothing and says nothing. */
  async stop(): Promise<void> {
    this.#isOff = true;
    await this.#order({ order: 'stop' });
  }

  /**
   * After `stop`, when those who use the disk have been killed: what waits for it fails, its mount is detached, and of what was not
   * flushed is left what the seed says. `users`: ends what these left in the kernel. The kernel sends nothing more through a
   * connection that was aborted, whatever still uses the old mount.
   */
  async cut(seed: number, users: () => Promise<void>): Promise<Cut> {
    this.#abort();
    await users();
    await this.#detach();
    const { cut } = await this.#order({ order: 'cut', seed });
    if (cut === undefined) throw new Error('the disk does not say what it has lost');
    return cut;
  }

  async look(): Promise<Look> {
    const { look } = await this.#order({ order: 'look' });
    if (look === undefined) throw new Error('the disk does not say what it has');
    return look;
  }

  /** Leaves nothing behind, whatever state it is in. What uses it has ended. */
  async close(): Promise<void> {
    // What is whole ends in order; of what hangs the abort makes an end.
    const alarm = setTimeout(() => this.#abort(), LIMIT_MS);
    try {
      if (this.#isOff) this.#abort();
      for (const point of mountsBelow(this.path).toReversed())
        await run('umount', '--', point).catch(() => {});
      this.#abort();
      await this.#detach();
    } finally {
      clearTimeout(alarm);
      this.#child.kill('SIGKILL');
      if (this.#child.exitCode === null && this.#child.signalCode === null) await once(this.#child, 'exit');
    }
  }

  #abort(): void {
    if (this.#served !== undefined) abortConnection(this.#served.connection);
  }

  async #detach(): Promise<void> {
    for (const point of mountsBelow(this.path).toReversed()) await run('umount', '-l', '--', point);
    const loop = this.#loop;
    this.#loop = undefined;
    if (loop !== undefined) {
      const backing = `/sys/block/${loop.slice('/dev/'.length)}/loop/backing_file`;
      await run('losetup', '-d', loop).catch((error: unknown) => {
        if (existsSync(backing)) throw error;
      });
      // The kernel detaches it with the last user of the file system. A mount namespace that was made meanwhile may have a copy of
      // the mount for as long as it lives; through the aborted connection it reaches nothing.
      for (const end = performance.now() + USERS_MS; existsSync(backing) && performance.now() < end; )
        await sleep(20);
    }
    const served = this.#served;
    this.#served = undefined;
    if (served === undefined) return;
    for (const point of mountsBelow(served.target)) await run('umount', '-l', '--', point);
    rmdirSync(served.target);
  }

  async #order(order: Order): Promise<Answer> {
    const signal = AbortSignal.timeout(LIMIT_MS);
    const answered = once(this.#child, 'message', { signal }) as Promise<[Answer]>;
    this.#child.send(order);
    const [answer] = await answered;
    if (answer.error !== undefined) throw new Error(`the server of the disk: ${answer.error}`);
    return answer;
  }
}

const run = (command: string, ...args: string[]): Promise<string> =>
  runCommand(command, args, { timeoutMs: LIMIT_MS });
