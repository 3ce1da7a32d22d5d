/** A client of the snapshotter's socket as containerd is one, and what it does with the mounts that it gets. */
import { execFile } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import { type Client, Code, ConnectError, createClient } from '@connectrpc/connect';
import { createGrpcTransport, Http2SessionManager } from '@connectrpc/connect-node';
import { expect } from 'vitest';
import {
  type Info,
  Kind,
  Snapshots,
} from '../../src/containerd/generated/containerd/services/snapshots/v1/snapshots_pb.ts';
import type { Mount } from '../../src/containerd/generated/containerd/types/mount_pb.ts';
import { diffTrees, formatDifferences, readTree } from '../support/tree.ts';

export interface SnapshotClient {
  api: Client<typeof Snapshots>;
  prepare(key: string, parent?: string, labels?: Record<string, string>): Promise<Mount[]>;
  view(key: string, parent?: string, labels?: Record<string, string>): Promise<Mount[]>;
  commit(name: string, key: string, labels?: Record<string, string>): Promise<void>;
  remove(key: string): Promise<void>;
  stat(key: string): Promise<Info>;
  walk(...filters: string[]): Promise<Info[]>;
  close(): void;
}

const ROOT_LABEL = { 'containerd.io/gc.root': '2026-01-01T00:00:00Z' };

export function connectSnapshotter(socket: string): SnapshotClient {
  const nodeOptions = { createConnection: () => connect(socket) };
  const sessionManager = new Http2SessionManager('http://localhost', {}, nodeOptions);
  const api = createClient(
    Snapshots,
    createGrpcTransport({ baseUrl: 'http://localhost', sessionManager, defaultTimeoutMs: 60_000 }),
  );
  const snapshotter = 'cofa';
  return {
    api,
    prepare: async (key, parent = '', labels = ROOT_LABEL) =>
      (await api.prepare({ snapshotter, key, parent, labels })).mounts,
    view: async (key, parent = '', labels = ROOT_LABEL) =>
      (await api.view({ snapshotter, key, parent, labels })).mounts,
    commit: async (name, key, labels = ROOT_LABEL) => {
      await api.commit({ snapshotter, name, key, labels });
    },
    remove: async (key) => {
      await api.remove({ snapshotter, key });
    },
    stat: async (key) => (await api.stat({ snapshotter, key })).info as Info,
    walk: async (...filters) => {
      const found: Info[] = [];
      for await (const { info } of api.list({ snapshotter, filters })) found.push(...info);
      return found;
    },
    close: () => sessionManager.abort(),
  };
}

/** The call is refused with this code. */
export async function refused(call: Promise<unknown>, code: Code): Promise<ConnectError> {
  const error = await call.then(
    () => undefined,
    (error: unknown) => ConnectError.from(error),
  );
  expect(error === undefined ? 'it was done' : Code[error.code]).toBe(Code[code]);
  return error as ConnectError;
}

export const kindOf = (info: Info): string =>
  Object.entries(Kind).find(([, value]) => value === info.kind)?.[0] ?? `kind ${info.kind}`;
export const msOf = (time: Timestamp | undefined): number =>
  time === undefined ? Number.NaN : Number(time.seconds) * 1000 + time.nanos / 1e6;

/** Folders are named below their common parent: mount(2) takes 4095 bytes of options, as containerd knows too. */
export async function mountAll(mounts: readonly Mount[], target: string): Promise<void> {
  mkdirSync(target, { recursive: true });
  for (const { type, source, options } of mounts) {
    const lower = options.find((option) => option.startsWith('lowerdir='))?.slice('lowerdir='.length);
    const cwd = lower === undefined ? '/' : commonFolder(lower.split(':'));
    const short = options.map((option) =>
      option.startsWith('lowerdir=') ? `lowerdir=${(lower ?? '').replaceAll(`${cwd}/`, '')}` : option,
    );
    // By mount(2), as containerd does: with newer calls mount(8) of Debian 13 hands over no list as long as that of 128 layers.
    const env = { ...process.env, LIBMOUNT_FORCE_MOUNT2: 'always' };
    const args = ['-t', type, '-o', short.join(','), '--', source, target];
    await promisify(execFile)('mount', args, { cwd, env });
    // A bind mount is read-only only after a second call.
    if (type === 'bind' && options.includes('ro')) {
      await promisify(execFile)('mount', ['-o', 'remount,bind,ro', '--', target]);
    }
  }
}

export async function unmountAll(target: string): Promise<void> {
  await promisify(execFile)('umount', ['--', target]);
}

/** Mounts, works inside, unmounts. */
export async function inside<T>(
  mounts: readonly Mount[],
  work: string,
  act: (root: string) => T | Promise<T>,
): Promise<T> {
  const target = mkdtempSync(join(work, 'm-'));
  await mountAll(mounts, target);
  try {
    return await act(target);
  } finally {
    await unmountAll(target);
    rmdirSync(target);
  }
}

/** One change of a tree; the same is done to a plain folder to see what must come out. */
export type Change = (root: string) => void;

export const file =
  (path: string, content: string, mode: number): Change =>
  (root) => {
    writeFileSync(join(root, path), content);
    chmodSync(join(root, path), mode);
  };
export const folder =
  (path: string, mode: number): Change =>
  (root) => {
    mkdirSync(join(root, path));
    chmodSync(join(root, path), mode);
  };
export const gone =
  (path: string): Change =>
  (root) =>
    rmSync(join(root, path), { recursive: true, force: true });
export const renamed =
  (from: string, to: string): Change =>
  (root) =>
    renameSync(join(root, from), join(root, to));
export const linked =
  (from: string, to: string): Change =>
  (root) =>
    linkSync(join(root, from), join(root, to));
export const owned =
  (path: string, uid: number, gid: number): Change =>
  (root) =>
    chownSync(join(root, path), uid, gid);
export const all =
  (...changes: Change[]): Change =>
  (root) => {
    for (const change of changes) change(root);
  };

/** Both folders show the same, times left out: they were made one after the other. */
export async function expectSameTree(expected: string, actual: string): Promise<void> {
  const differences = diffTrees(await readTree(expected), await readTree(actual), {
    ignore: ({ path, field }, node) =>
      field === 'mtime' || path.length === 0 || (field === 'nlink' && node.type === 'dir'),
  });
  expect(formatDifferences(differences)).toBe('');
}

/** Makes a committed snapshot a change; each is compared with a folder to which the same was done. */
export async function checkSnapshots(
  client: SnapshotClient,
  work: string,
  name: string,
  ...changes: Change[]
): Promise<void> {
  const flat = mkdtempSync(join(work, 'flat-'));
  let parent = '';
  for (const [at, change] of changes.entries()) {
    const committed = `${name}-${at}`;
    await inside(await client.prepare(`${committed}-prepare`, parent), work, change);
    await client.commit(committed, `${committed}-prepare`);
    change(flat);
    await inside(await client.view(`${committed}-view`, committed), work, (root) =>
      expectSameTree(flat, root),
    );
    await client.remove(`${committed}-view`);
    parent = committed;
  }
}

function commonFolder(paths: readonly string[]): string {
  let common = dirname(paths[0] as string);
  while (!paths.every((path) => path.startsWith(`${common}/`))) common = dirname(common);
  return common;
}
