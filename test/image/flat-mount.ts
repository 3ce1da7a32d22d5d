/** Mounts flat images for tests, by other means than the engine's: losetup(8) and mount(8). */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { buildFlat, type FlatImage } from '../../src/image/erofs.ts';
import type { Cleanup } from '../support/temp.ts';
import { tocOf } from './layer-tree.ts';

export interface Mounted {
  root: string;
  unmount: () => void;
}

/** The flat image of raw tars, the lowest first. */
export function flatOf(tars: readonly Buffer[]): FlatImage {
  return buildFlat(
    tars.map((tar) => tocOf(tar)),
    tars.map((tar) => ({ diffId: digestOf(tar), size: tar.length })),
  );
}

/** Builds and mounts the flat image of raw tars in `directory/NAME`. */
export async function mountTars(
  cleanup: Cleanup,
  directory: string,
  tars: readonly Buffer[],
): Promise<Mounted> {
  await mkdir(directory, { recursive: true });
  const files: string[] = [];
  for (const [index, tar] of tars.entries()) {
    const file = join(directory, `device${index}`);
    await writeFile(file, Buffer.concat([tar, Buffer.alloc((512 - (tar.length % 512)) % 512)]));
    files.push(file);
  }
  const { metadata, devices } = flatOf(tars);
  return mountFlat(
    cleanup,
    directory,
    metadata,
    devices.map((layer) => files[layer] as string),
  );
}

/** Mounts metadata with device files, which are in the order of the slots and multiples of 512 bytes. */
export async function mountFlat(
  cleanup: Cleanup,
  directory: string,
  metadata: Buffer,
  devices: readonly string[],
): Promise<Mounted> {
  const root = join(directory, 'flat');
  await mkdir(root, { recursive: true });
  const flat = join(directory, 'flat.erofs');
  await writeFile(flat, metadata);
  const undo: Array<() => void> = [];
  const unmount = () => {
    for (let step = undo.pop(); step !== undefined; step = undo.pop()) step();
  };
  cleanup.defer(unmount);
  const attach = (file: string) => {
    const loop = run('losetup', '--read-only', '--find', '--show', file).trim();
    undo.push(() => run('losetup', '--detach', loop));
    return loop;
  };
  const primary = attach(flat);
  const options = ['ro', ...devices.map((file) => `device=${attach(file)}`)].join(',');
  run('mount', '-t', 'erofs', '-o', options, primary, root);
  undo.push(() => run('umount', root));
  return { root, unmount };
}

/** A device file that is mostly a hole: `pieces` are written where they belong. */
export async function sparseDevice(
  file: string,
  size: number,
  pieces: ReadonlyArray<readonly [offset: number, bytes: Buffer]>,
): Promise<void> {
  const handle = await open(file, 'w');
  try {
    await handle.truncate(size);
    for (const [offset, bytes] of pieces) await handle.write(bytes, 0, bytes.length, offset);
  } finally {
    await handle.close();
  }
}

export function run(program: string, ...args: string[]): string {
  return execFileSync(program, args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: 120_000,
  });
}

export function digestOf(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}
