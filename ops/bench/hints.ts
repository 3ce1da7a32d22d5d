/**
 * What hints know of a start, by counting: no engine runs and no clock counts, so a busy machine does as well.
 *
 *     node ops/bench/hints.ts record NAME…   indexes images, starts each once, and keeps what the start read in DIR
 *     node ops/bench/hints.ts NAME…          gathers hints of images that were recorded, and compares
 *
 *     --dir DIR     where recordings lie (default /var/cache/cofa/hints)
 *     --files       also lists the files for which readers wait, those that hints miss, and those that they name in vain, largest first
 *
 * Without names: all strangers that are not held out, as far as they were recorded.
 */
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { piecesIn } from '../../actors/start-files.ts';
import type { StartSet } from '../../actors/start-set.ts';
import { startRegistry } from '../../test/support/registry-server.ts';
import { commandOf } from '../../src/index/image-hints.ts';
import { indexImage } from '../../src/index/index-image.ts';
import { SpanFiles } from '../../src/index/span-files.ts';
import { extentsOf } from '../../src/image/file-paths.ts';
import { gatherHints } from '../../src/image/hints/gather.ts';
import { hintsOf, startOf } from '../../src/image/hints/hints.ts';
import { BLOCK_SIZE, SpanTable } from '../../src/image/span-table.ts';
import { RegistryClient } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { realImage } from '../images/debian.ts';
import { blobPath, pushLayout } from '../images/layout.ts';
import { STRANGERS } from '../images/strangers.ts';
import { programOptions } from '../program-options.ts';
import { type Counted, countHints } from './hint-count.ts';
import { COFA, interrupt, textTable, timed } from './measure.ts';
import { startOfPack } from './start-set.ts';
import { pushPack } from './ways.ts';

/** An image that was indexed, and what a start of it read. */
interface Recorded {
  flat: Buffer;
  config: Buffer;
  /** Of the flat image's devices. */
  tables: SpanTable[];
  /** Digests of their blobs. */
  blobs: string[];
  start: StartSet;
}

const { values, positionals } = programOptions(import.meta.filename, {
  allowPositionals: true,
  options: {
    dir: { type: 'string', default: '/var/cache/cofa/hints' },
    files: { type: 'boolean', default: false },
  },
});
const [first] = positionals;
const isRecording = first === 'record';
const given = isRecording ? positionals.slice(1) : positionals;
const seen = STRANGERS.filter(({ heldOut }) => !heldOut).map(({ name }) => name);

function folderOf(name: string): string {
  return join(values.dir, name);
}

async function record(names: readonly string[]): Promise<void> {
  const registry = await startRegistry();
  const client = new RegistryClient({});
  try {
    for (const name of names) {
      process.stderr.write(`${name} is indexed and started\n`);
      const layout = await realImage(name);
      await pushLayout(layout, registry.host, name, 'latest');
      const ref = `${registry.host}/${name}:latest`;
      const image = await client.resolve(parseReference(ref));
      const { flat, layers, devices } = await indexImage({ image });
      // Of an image that the node indexes by itself the kernel answers the reads.
      await timed(COFA, ['index', ref]);
      await pushPack(ref);
      const start = await startOfPack(client, image);
      const folder = folderOf(name);
      await mkdir(folder, { recursive: true });
      const of = devices.map((device) => layers[device]).filter((layer) => layer !== undefined);
      for (const [index, { spans }] of of.entries()) await writeFile(join(folder, `spans-${index}`), spans);
      await writeFile(join(folder, 'flat'), flat);
      await writeFile(join(folder, 'config'), image.config);
      const blobs = of.map(({ blobDigest }) => blobDigest);
      await writeFile(join(folder, 'start.json'), JSON.stringify({ blobs, ...start }));
    }
  } finally {
    await client.close();
    await registry.stop();
  }
}

async function recorded(name: string): Promise<Recorded> {
  const folder = folderOf(name);
  const { blobs, devices, runs } = JSON.parse(
    await readFile(join(folder, 'start.json'), 'utf8'),
  ) as StartSet & { blobs: string[] };
  const spans = blobs.map((_, index) => readFile(join(folder, `spans-${index}`)));
  return {
    flat: await readFile(join(folder, 'flat')),
    config: await readFile(join(folder, 'config')),
    tables: (await Promise.all(spans)).map((bytes) => SpanTable.decode(bytes)),
    blobs,
    start: { devices, runs },
  };
}

async function count(names: readonly string[]): Promise<void> {
  const rows: string[][] = [];
  for (const name of names) {
    const { directory } = await realImage(name);
    const { flat, config, tables, blobs, start } = await recorded(name);
    const bodies = await Promise.all(blobs.map((digest) => readFile(blobPath(directory, digest))));
    const fetch = async function* (device: number, from: number, to: number) {
      yield (bodies[device] as Buffer).subarray(from, to);
    };
    const files = new SpanFiles(flat, tables, fetch);
    const command = commandOf(config);
    const before = process.cpuUsage();
    const hints = hintsOf(await gatherHints(files, command), files.flat, command.entrypoint);
    const { user, system } = process.cpuUsage(before);
    const layers = new Map(tables.map((table) => [table.diffId, table]));
    const named = startOf(hints, 'default', new Set(layers.keys()));
    const counted = countHints(named, start, layers);
    rows.push([name, ...cellsOf(counted), ((user + system) / 1e6).toFixed(1)]);
    if (values.files) await tellFiles(flat, counted);
  }
  const head = [
    'image',
    'read',
    'MB',
    'named',
    'MB',
    'in vain MB',
    'missed',
    'MB',
    'asked for',
    'MB',
    'fetched MB',
    'of read',
    'processor s',
  ];
  process.stdout.write(`${textTable([head, ...rows])}\n`);
}

const mb = (bytes: number) => (bytes / 1e6).toFixed(1);

function cellsOf({ read, named, vain, missed, asked, fetchedBytes }: Counted): string[] {
  return [
    `${read.blocks.length}`,
    mb(read.bytes),
    `${named.blocks.length}`,
    mb(named.bytes),
    mb(vain.bytes),
    `${missed.blocks.length}`,
    mb(missed.bytes),
    `${asked.blocks.length}`,
    mb(asked.bytes),
    mb(fetchedBytes),
    `${(fetchedBytes / read.bytes).toFixed(2)}x`,
  ];
}

/** Blocks that hold parts of several files count for each. */
async function tellFiles(flat: Buffer, { asked, missed, vain }: Counted): Promise<void> {
  const extents = extentsOf(flat);
  for (const [title, blocks] of [
    ['asked for', asked.blocks],
    ['missed', missed.blocks],
    ['in vain', vain.blocks],
  ] as const) {
    const byFile = new Map<string, number>();
    for (const { diffId, block } of blocks) {
      const at = block * BLOCK_SIZE;
      const paths = new Set(
        [...piecesIn(extents.get(diffId) ?? [], at, at + BLOCK_SIZE)].map(({ path }) => path),
      );
      const [one = '(no file)'] = paths;
      const label = paths.size > 1 ? `${one} and ${paths.size - 1} more` : one;
      byFile.set(label, (byFile.get(label) ?? 0) + 1);
    }
    const sorted = [...byFile].toSorted((a, b) => b[1] - a[1]);
    process.stdout.write(`${title}: ${blocks.length} blocks of ${sorted.length} files\n`);
    for (const [path, number] of sorted.slice(0, 60))
      process.stdout.write(`  ${String(number).padStart(5)} ${path}\n`);
  }
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, interrupt);
if (isRecording) await record(given.length > 0 ? given : seen);
else
  await count(
    given.length > 0 ? given : seen.filter((name) => existsSync(join(folderOf(name), 'start.json'))),
  );
