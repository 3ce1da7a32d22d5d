/** Images of a few MB for the fault scenarios, and readers that say what they got piece by piece. */
import { spawn } from 'node:child_process';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type ImageLayout, layoutLayers, pushLayout } from '../../ops/images/layout.ts';
import { SpanTable } from '../../src/image/span-table.ts';
import { Layout } from '../../src/store/layout.ts';
import { buildImage, noise, prose, type Variant } from '../images/nasty.ts';
import { TarBytes } from '../images/tar-bytes.ts';
import { readTree, type Tree } from '../support/tree.ts';

export interface FaultImage {
  /** `HOST/REPOSITORY:1` */
  ref: string;
  repository: string;
  layout: ImageLayout;
  /** The layers' descriptors, lowest first. */
  blobs: Array<{ digest: string; size: number }>;
  /** The layers' tars, lowest first. */
  tars: Buffer[];
  files: Map<string, Buffer>;
  /** The files laid out in a folder, for readInParallel. */
  expected: Tree;
}

/** One layer: path → content. */
export type Files = Record<string, Buffer>;

/** Two layers, some 14 MiB raw: `app/prose`, `app/noise`, `lib/prose`, `lib/small-0` … */
export function twoLayers(seed: number): Files[] {
  const small = Object.fromEntries(
    Array.from({ length: 20 }, (_, i) => [`lib/small-${i}`, prose(1000 + 700 * i, seed + 10 + i)]),
  );
  return [
    { 'app/prose': prose(4_000_001, seed), 'app/noise': noise(4_194_304, seed + 1) },
    { 'lib/prose': prose(3_000_000, seed + 2), ...small, 'lib/noise': noise(2_500_000, seed + 3) },
  ];
}

/** Builds an image of the given files in `directory`. */
export async function makeImage(
  directory: string,
  layers: Files[],
  variant: Variant = 'gzip',
): Promise<Omit<FaultImage, 'ref' | 'repository'>> {
  const tars = layers.map((layer) => {
    const tar = new TarBytes();
    for (const folder of new Set(Object.keys(layer).map((path) => dirname(path)))) tar.dir(`${folder}/`);
    for (const [path, bytes] of Object.entries(layer)) tar.file(path, bytes);
    return tar.bytes();
  });
  const layout = await buildImage(join(directory, 'image'), tars, variant);
  const files = new Map(layers.flatMap((layer) => Object.entries(layer)));
  const truth = join(directory, 'truth');
  for (const [path, bytes] of files) {
    await mkdir(dirname(join(truth, path)), { recursive: true });
    await writeFile(join(truth, path), bytes);
  }
  const expected = await readTree(truth, { content: false });
  return { layout, blobs: await layoutLayers(layout), tars, files, expected };
}

/** Builds and pushes it as `HOST/REPOSITORY:1`. */
export async function pushImage(
  directory: string,
  registry: string,
  repository: string,
  layers: Files[],
  variant: Variant = 'gzip',
): Promise<FaultImage> {
  const image = await makeImage(directory, layers, variant);
  await pushLayout(image.layout, registry, repository, '1');
  return { ...image, ref: `${registry}/${repository}:1`, repository };
}

/** Where a file's data begin in the tar that holds it, bytes. */
export function offsetInTar(tar: Buffer, content: Buffer): number {
  const at = tar.indexOf(content);
  if (at < 0) throw new Error('the file is not in this tar');
  return at;
}

/** The span table that an engine took for a blob. */
export async function spanTableOf(root: string, blob: string): Promise<SpanTable> {
  const folder = new Layout(root).in('spans');
  for (const name of await readdir(folder)) {
    const table = SpanTable.decode(await readFile(join(folder, name)));
    if (table.blobDigest === blob) return table;
  }
  throw new Error(`no span table of ${blob}`);
}

/** What one reader saw of each piece: `ok`, `wrong`, `short` or the errno's name. */
export type PieceOutcome = string;

/**
 * Reads a file piece by piece in order, past the page cache, in a process of its own that can be ended should it hang,
 * and compares each piece with `content`.
 */
export async function readPieces(
  path: string,
  content: Buffer,
  options: {
    pieceSize?: number;
    from?: number;
    count?: number;
    timeoutMs?: number;
    /**
     * Each read asks the kernel for its own pages alone (POSIX_FADV_RANDOM). Otherwise pages are read and fail in
     * groups, as large as the kernel's read-ahead makes them.
     */
    exact?: boolean;
  } = {},
): Promise<PieceOutcome[]> {
  const pieceSize = options.pieceSize ?? 4096;
  const from = options.from ?? 0;
  const count = options.count ?? Math.ceil(content.length / pieceSize) - from;
  const child = spawn(
    process.execPath,
    ['-e', READ_PIECES, path, String(pieceSize), String(from), String(count), String(options.exact === true)],
    { stdio: ['ignore', 'pipe', 'inherit'], cwd: import.meta.dirname },
  );
  const timer = setTimeout(() => child.kill('SIGKILL'), options.timeoutMs ?? 60_000);
  const chunks: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  clearTimeout(timer);
  if (code !== 0) throw new Error(`the reader of ${path} ended with ${code}`);
  const output = Buffer.concat(chunks);
  const outcomes: PieceOutcome[] = [];
  for (let at = 0, piece = from; at < output.length; piece++) {
    const length = output.readInt32LE(at);
    at += 4;
    if (length < 0) {
      outcomes.push(ERRNO.get(-length) ?? `errno ${-length}`);
      continue;
    }
    const got = output.subarray(at, at + length);
    at += length;
    const want = content.subarray(piece * pieceSize, (piece + 1) * pieceSize);
    outcomes.push(got.equals(want) ? 'ok' : length < want.length ? 'short' : 'wrong');
  }
  return outcomes;
}

const ERRNO = new Map([
  [5, 'EIO'],
  [28, 'ENOSPC'],
  [2, 'ENOENT'],
]);

/** For each piece its length as int32 and its bytes, or the negative errno. */
const READ_PIECES = `
  const fs = require('node:fs');
  const [path, size, from, count, exact] = process.argv.slice(1);
  const fd = fs.openSync(path, 'r');
  const koffi = require('koffi');
  const advise = koffi.load('libc.so.6').func('int posix_fadvise(int fd, long offset, long length, int advice)');
  const [RANDOM, DONTNEED] = [1, 4];
  // What was read before is not to be found in the page cache: it has to come through the mount again.
  if (advise(fd, 0, 0, DONTNEED) !== 0) throw new Error('posix_fadvise');
  if (exact === 'true' && advise(fd, 0, 0, RANDOM) !== 0) throw new Error('posix_fadvise');
  const head = Buffer.alloc(4);
  for (let i = 0; i < count; i++) {
    const bytes = Buffer.alloc(+size);
    try {
      const n = fs.readSync(fd, bytes, 0, +size, (+from + i) * +size);
      head.writeInt32LE(n);
      fs.writeSync(1, Buffer.concat([head, bytes.subarray(0, n)]));
    } catch (error) {
      head.writeInt32LE(error.errno);
      fs.writeSync(1, head);
    }
  }`;
