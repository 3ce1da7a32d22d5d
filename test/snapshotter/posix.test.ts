/**
 * A container's writable view on a lazy image behaves as overlayfs on an unpacked one: the same calls, drawn at random,
 * give the same results and errors on both, and the same tree in the end.
 */
import { execFileSync } from 'node:child_process';
import { createHash, randomInt } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  closeSync,
  fstatSync,
  ftruncateSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FaultImage, type Files, pushImage } from '../faults/fault-image.ts';
import { noise, prose } from '../images/nasty.ts';
import { type Engine, runCofa, startEngine } from '../support/engine.ts';
import { Random } from '../support/random.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';
import { diffTrees, formatDifferences, readTree } from '../support/tree.ts';
import { untilServed } from './served.ts';
import { mountAll, type SnapshotClient, unmountAll } from './test-bed.ts';

const cleanup = new Cleanup();
let registry: RegistryServer;
let engine: Engine;
let client: SnapshotClient;
let work: string;
let image: FaultImage;

/** Files and folders that come from several layers, gone ones among them. */
const LAYERS: Files[] = [
  {
    'a/one': prose(100_000, 1),
    'a/two': prose(5_000, 2),
    'a/b/deep': noise(70_000, 3),
    'c/d/e/f': prose(3_000, 4),
    'gone/file': prose(1_000, 5),
  },
  { 'a/two': prose(9_000, 6), 'a/b/more': noise(200_000, 7), 'c/x': prose(10, 8) },
  {
    'a/.wh.one': Buffer.alloc(0),
    '.wh.gone': Buffer.alloc(0),
    'c/d/.wh..wh..opq': Buffer.alloc(0),
    'c/d/new': prose(20, 9),
  },
];

beforeAll(async () => {
  work = await cleanup.tempDir('posix');
  registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  image = await pushImage(join(work, 'image'), registry.host, 'posix', LAYERS);
  const indexed = await runCofa(['index', image.ref]);
  if (indexed.code !== 0) throw new Error(indexed.stderr);
  engine = await startEngine({ workers: 1, args: ['--snapshotter'] });
  cleanup.defer(() => engine.stop());
  client = await untilServed(join(engine.root, 'run/snapshotter.sock'));
  cleanup.defer(() => client.close());
});
afterAll(() => cleanup.run());

/** Names that collide often, at all depths. */
const NAMES = ['a', 'b', 'c', 'd', 'e', 'one', 'two', 'more', 'deep', 'new', 'gone', 'x'];

type Call = (root: string, path: string, other: string, number: number) => unknown;

const withFile = <T>(root: string, path: string, flags: string, act: (fd: number) => T): T => {
  const fd = openSync(join(root, path), flags);
  try {
    return act(fd);
  } finally {
    closeSync(fd);
  }
};
const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');

const CALLS: Record<string, Call> = {
  mkdir: (root, path) => mkdirSync(join(root, path)),
  rmdir: (root, path) => rmdirSync(join(root, path)),
  unlink: (root, path) => unlinkSync(join(root, path)),
  'rm -r': (root, path) => rmSync(join(root, path), { recursive: true }),
  rename: (root, path, other) => renameSync(join(root, path), join(root, other)),
  link: (root, path, other) => linkSync(join(root, path), join(root, other)),
  symlink: (root, path, other) => symlinkSync(other, join(root, path)),
  readlink: (root, path) => readlinkSync(join(root, path)),
  'create new': (root, path) => withFile(root, path, 'wx', (fd) => writeSync(fd, 'new')),
  write: (root, path, _, number) => writeFileSync(join(root, path), `written ${number}`),
  append: (root, path, _, number) => withFile(root, path, 'a', (fd) => writeSync(fd, `more ${number}`)),
  'write inside': (root, path, _, number) =>
    withFile(root, path, 'r+', (fd) => writeSync(fd, `in ${number}`, number * 997)),
  truncate: (root, path, _, number) => truncateSync(join(root, path), number * 800),
  read: (root, path) => sha256(readFileSync(join(root, path))),
  list: (root, path) => readdirSync(join(root, path)).toSorted(),
  stat: (root, path) => {
    const { mode, uid, gid, size, nlink } = lstatSync(join(root, path));
    // A folder's size and links are each file system's own.
    return (mode & 0o170000) === 0o040000 ? { mode, uid, gid } : { mode, uid, gid, size, nlink };
  },
  chmod: (root, path, _, number) => chmodSync(join(root, path), 0o600 + number),
  chown: (root, path, _, number) => chownSync(join(root, path), number, number + 1),
  utimes: (root, path, _, number) => {
    utimesSync(join(root, path), number, number + 1_000);
    // Of what a symbolic link names, as the call.
    return statSync(join(root, path)).mtimeMs;
  },
  // One that stayed would have a reader wait for a writer.
  mkfifo: (root, path) => {
    mknod(join(root, path), 'p');
    const isFifo = lstatSync(join(root, path)).isFIFO();
    unlinkSync(join(root, path));
    return isFifo;
  },
  mknod: (root, path) => mknod(join(root, path), 'c', '1', '3'),
  'open, unlink, read': (root, path) =>
    withFile(root, path, 'r+', (fd) => {
      unlinkSync(join(root, path));
      ftruncateSync(fd, 10);
      writeSync(fd, 'after', 20);
      const bytes = Buffer.alloc(64);
      const length = readSync(fd, bytes, 0, 64, 0);
      return [fstatSync(fd).nlink, bytes.toString('hex', 0, length)];
    }),
};

function mknod(path: string, ...rest: string[]): void {
  // mknod(1) says what is wrong in words; what matters is whether it is done.
  execFileSync('mknod', [path, ...rest], { stdio: 'ignore' });
}

/** What a call gives, or the name of its error. */
function outcome(call: () => unknown): string {
  try {
    return JSON.stringify(call()) ?? 'done';
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? 'failed';
  }
}

/** The image laid out by hand. */
function layOut(): string {
  const lower = join(work, 'lower');
  mkdirSync(lower);
  for (const files of LAYERS) {
    for (const path of Object.keys(files)) {
      const hidden = /^(.*\/)?\.wh\.(.*)$/.exec(path);
      if (hidden?.[2] === '.wh..opq') rmSync(join(lower, hidden[1] ?? ''), { recursive: true });
      else if (hidden !== null) rmSync(join(lower, hidden[1] ?? '', hidden[2] ?? ''), { recursive: true });
    }
    for (const [path, bytes] of Object.entries(files)) {
      if (path.includes('.wh.')) continue;
      mkdirSync(join(lower, dirname(path)), { recursive: true });
      writeFileSync(join(lower, path), bytes);
    }
  }
  return lower;
}

/** overlayfs with the options that the snapshotter uses. */
async function overlay(lower: string, name: string): Promise<string> {
  const [upper, inner, target] = ['upper', 'work', 'target'].map((part) => join(work, name, part)) as [
    string,
    string,
    string,
  ];
  for (const folder of [upper, inner, target]) mkdirSync(folder, { recursive: true });
  const options = [`lowerdir=${lower}`, `upperdir=${upper}`, `workdir=${inner}`];
  options.push('index=off', 'redirect_dir=on');
  const type = 'overlay';
  await mountAll([{ $typeName: 'containerd.types.Mount', type, source: type, target: '', options }], target);
  cleanup.defer(() => unmountAll(target));
  return target;
}

/** As a client does that pulls; returns the uppermost chain. */
async function pull(): Promise<string> {
  const chain = image.tars.map(sha256).map((hex) => `sha256:${hex}`);
  let parent = '';
  for (const diffId of chain) {
    const target = parent === '' ? diffId : `sha256:${sha256(Buffer.from(`${parent} ${diffId}`))}`;
    const labels = {
      'containerd.io/snapshot.ref': target,
      'containerd.io/snapshot/cri.image-ref': image.ref,
      'containerd.io/snapshot/cri.manifest-digest': image.layout.manifest.digest,
    };
    await client.prepare(`pull ${target}`, parent, labels).catch(() => {});
    parent = target;
  }
  return parent;
}

/** Paths below a folder, at most three deep. */
function pathsBelow(root: string, folder = '', depth = 1): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() && depth < 3 ? [path, ...pathsBelow(root, path, depth + 1)] : [path];
  });
}

const ROUNDS = 6;
const CALLS_A_ROUND = 400;

test('calls at random give the same as on an unpacked image', async () => {
  const seed = Number(process.env.COFA_POSIX_SEED ?? randomInt(2 ** 31));
  console.log(`seed ${seed}`);
  const random = new Random(seed);
  const lower = layOut();
  const chain = await pull();
  const seen = new Set<string>();
  for (let round = 0; round < ROUNDS; round++) {
    const truth = await overlay(lower, `reference-${round}`);
    const lazy = join(work, `lazy-${round}`);
    await mountAll(await client.prepare(`container-${round}`, chain), lazy);
    cleanup.defer(() => unmountAll(lazy));
    await compare(truth, lazy, random, seed, seen);
  }
  // The draw was wide enough to mean something.
  expect(seen.size).toBeGreaterThan(50);
}, 120_000);

async function compare(
  truth: string,
  lazy: string,
  random: Random,
  seed: number,
  seen: Set<string>,
): Promise<void> {
  // Hand-made tars and folders made by hand differ in modes.
  for (const root of [truth, lazy]) execFileSync('chmod', ['-R', 'u=rwX,go=rX', root]);

  const pick = <T>(from: readonly T[]): T => from[random.int(0, from.length - 1)] as T;
  let known: string[] = [];
  const path = () =>
    known.length > 0 && random.next() < 0.6
      ? pick(known)
      : Array.from({ length: random.int(1, 3) }, () => pick(NAMES)).join('/');
  const trail: string[] = [];
  for (let at = 0; at < CALLS_A_ROUND; at++) {
    if (at % 10 === 0) known = pathsBelow(truth);
    const name = pick(Object.keys(CALLS));
    const [first, second, number] = [path(), path(), random.int(0, 63)];
    const [wanted, found] = [truth, lazy].map((root) =>
      outcome(() => (CALLS[name] as Call)(root, first, second, number)),
    ) as [string, string];
    trail.push(`${name} ${first} ${second} ${number}: ${wanted.slice(0, 80)}`);
    seen.add(`${name} ${/^[A-Z]+$/.test(wanted) ? wanted : 'done'}`);
    if (found !== wanted)
      expect.fail(`COFA_POSIX_SEED=${seed}: ${trail.slice(-15).join('\n')}\nlazy: ${found}`);
  }
  const differences = diffTrees(await readTree(truth), await readTree(lazy), {
    ignore: ({ path: at, field }, node) =>
      field === 'mtime' || at.length === 0 || (field === 'nlink' && node.type === 'dir'),
  });
  expect(formatDifferences(differences)).toBe('');
}
