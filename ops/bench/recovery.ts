/**
 * How long until an engine is ready again: `cofa up` after every process was killed, with the mounts still in the
 * kernel, and after a reboot, without mounts and loop devices. The images are made up on the disk, without a registry:
 * one layer each, half of its blocks present, recorded by many events.
 *
 *     node ops/bench/recovery.ts [--mounts 100] [--blocks 10000] [--events 100] [--rounds 3] [--root DIR] [--json FILE]
 *
 * Making the images hashes mounts × blocks × 64 KiB and writes half as much (33 GB by default). A root that was given
 * stays, and the next run with the same numbers uses it again.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs, promisify } from 'node:util';
import { connectBus } from '../../src/bus/connection.ts';
import { connectEngine } from '../../src/client/client.ts';
import { startNats } from '../../src/process/nats-server.ts';
import { rootId } from '../../src/supervisor/log/ownership.ts';
import { buildFlat } from '../../src/image/erofs.ts';
import { indexLayer } from '../../src/image/index-layer.ts';
import { deviceSize } from '../../src/store/device.ts';
import { EventLog } from '../../src/store/event-log.ts';
import { hexOf } from '../../schemas/digest.ts';
import { Layout, writeWhole } from '../../src/store/layout.ts';
import { subjects } from '../../schemas/subjects.ts';
import { Cleanup, mountsBelow } from '../../test/support/temp.ts';
import { runCofa } from '../../test/support/engine.ts';
import { seededRandom } from '../../test/support/readers.ts';

export interface RecoveryOptions {
  mounts: number;
  /** Of 64 KiB, in each image. */
  blocks: number;
  /** Events that tell each layer's present blocks. */
  events: number;
  rounds: number;
  root: string;
  onProgress: (line: string) => void;
}

export interface Recovery {
  /** After a kill of every process: from `cofa up` until it has ended, ms. */
  killedMs: number[];
  /** The same after a reboot. */
  rebootMs: number[];
  /** All processes of the engine together, afterwards. */
  rssBytes: number;
}

const NODE = 'recovery';
const BLOCK = 65_536;
const ZEROS = Buffer.alloc(16 * BLOCK);
const run = promisify(execFile);

export async function measureRecovery(options: RecoveryOptions): Promise<Recovery> {
  const { root, rounds, onProgress } = options;
  const made = join(root, 'made.json');
  const { mounts, blocks, events } = options;
  const wanted = JSON.stringify({ mounts, blocks, events });
  if (!existsSync(made) || readFileSync(made, 'utf8') !== wanted) {
    if (existsSync(made)) throw new Error(`${root} was made with other numbers`);
    await makeRoot(options);
    writeFileSync(made, wanted);
  }
  const result: Recovery = { killedMs: [], rebootMs: [], rssBytes: 0 };
  try {
    for (let round = 1; round <= rounds; round++) {
      result.rebootMs.push(await up(options));
      onProgress(`round ${round}: after a reboot ${Math.round(result.rebootMs.at(-1) ?? 0)} ms`);
      await killAll(root);
      result.killedMs.push(await up(options));
      onProgress(`round ${round}: after a kill ${Math.round(result.killedMs.at(-1) ?? 0)} ms`);
      result.rssBytes = await memory(root);
      if (round < rounds) {
        await killAll(root);
        await forget(root);
      }
    }
  } finally {
    await runCofa(['--root', root, 'down', '--force'], { timeoutMs: 120_000 });
  }
  return result;
}

/** `cofa up`, and a look whether everything is back. */
async function up({ root, mounts }: RecoveryOptions): Promise<number> {
  const since = performance.now();
  const result = await runCofa(['--root', root, 'up', '--node', NODE, '--trust', 'registry', '--json'], {
    timeoutMs: 300_000,
  });
  const ms = performance.now() - since;
  if (result.code !== 0) throw new Error(`cofa up: ${result.stdout}${result.stderr}`);
  const client = await connectEngine(root);
  try {
    const status = await client.call('status', {}, { timeoutMs: 60_000 });
    const back = status.mounts.filter(({ state }) => state === 'mounted').length;
    if (back !== mounts || status.degraded.length > 0)
      throw new Error(`${back} of ${mounts} mounts are back; ${status.degraded.join('; ')}`);
  } finally {
    await client.close();
  }
  return ms;
}

async function killAll(root: string): Promise<void> {
  const pids = (await processes(root)).map(({ pid }) => pid).filter((pid) => pid > 0);
  for (const pid of pids) process.kill(pid, 'SIGKILL');
  while (pids.some((pid) => readdirSync('/proc').includes(String(pid)))) await sleep(10);
}

async function processes(root: string): Promise<Array<{ pid: number; rssBytes?: number | undefined }>> {
  const client = await connectEngine(root);
  try {
    return (await client.call('status', {}, { timeoutMs: 60_000 })).processes;
  } finally {
    await client.close();
  }
}

const memory = async (root: string): Promise<number> =>
  (await processes(root)).reduce((sum, { rssBytes }) => sum + (rssBytes ?? 0), 0);

/** As a reboot does: removes mounts and loop devices. */
async function forget(root: string): Promise<void> {
  for (const point of mountsBelow(root).toReversed()) await run('umount', ['-l', '--', point]);
  for (const name of readdirSync('/sys/block')) {
    const file = name.startsWith('loop') ? backingOf(name) : '';
    if (file.startsWith(`${root}/`) || /^\/[0-9a-f]{64}$/.test(file))
      await run('losetup', ['-d', `/dev/${name}`]);
  }
}

function backingOf(name: string): string {
  try {
    return readFileSync(`/sys/block/${name}/loop/backing_file`, 'utf8').trim();
  } catch {
    return '';
  }
}

/** A root as a killed engine leaves it. */
async function makeRoot(options: RecoveryOptions): Promise<void> {
  const { root, mounts, blocks, onProgress } = options;
  const layout = new Layout(root);
  await layout.prepare();
  const { address, child } = await startNats(layout);
  const bus = await connectBus(address, { name: 'recovery' });
  try {
    await EventLog.prepare(bus, { maxBytes: 1 << 30 });
    const log = new EventLog(bus, Date.now);
    const names = subjects(NODE);
    await log.claim(names.event('engine', 'main'), {
      type: 'engine.started',
      pid: process.pid,
      version: '0',
      transport: 'kernel',
      root: await rootId(layout),
    });
    for (let number = 0; number < mounts; number++) {
      onProgress(`image ${number + 1} of ${mounts}`);
      const head = firstBlock(number, blocks);
      const { diffId, rawSize, toc, spans } = await indexLayer(layer(head, blocks));
      await writeWhole(layout.spans(diffId), spans.encode());
      await mkdir(join(layout.device(diffId), '..'), { recursive: true });
      const present = Array.from({ length: options.events }, (_, at) =>
        someBlocks(number * 1e4 + at, options.events, spans.blockCount),
      );
      await writeDevice(layout.device(diffId), head, deviceSize(rawSize), present.flat());
      const flat = buildFlat([toc], [{ diffId, size: rawSize }]).metadata;
      const [manifest, config] = [digestOf(`manifest ${number}`), digestOf(`config ${number}`)];
      await writeWhole(layout.flat(manifest), flat);
      await writeWhole(layout.config(manifest), Buffer.from('{}'));
      await writeWhole(layout.manifest(manifest), Buffer.from('{}'));
      const ref = `localhost:5000/image-${number}:1`;
      const image = names.event('image', hexOf(manifest));
      await log.append(image, {
        type: 'image.resolved',
        ref,
        registry: 'localhost:5000',
        repository: `image-${number}`,
        manifest,
        config,
        layers: [
          { diffId, blob: diffId, blobSize: rawSize, mediaType: 'application/vnd.oci.image.layer.v1.tar' },
        ],
      });
      await log.append(image, {
        type: 'image.prepared',
        origin: 'sidecar',
        flat: digestOf(flat),
        devices: [{ diffId, size: rawSize, spans: diffId }],
      });
      const { blockCount } = spans;
      const subject = names.event('layer', hexOf(diffId));
      await log.append(subject, {
        type: 'layer.opened',
        size: rawSize,
        blockSize: BLOCK,
        blockCount,
        blob: diffId,
      });
      const told = present.map((ranges) => log.append(subject, { type: 'layer.blocks', ranges }));
      await Promise.all(told);
      const id = String(number).padStart(16, '0');
      const dir = join(root, 'mnt', String(number));
      await mkdir(dir, { recursive: true });
      const mount = names.event('mount', id);
      await log.append(mount, { type: 'mount.requested', id, dir, ref, manifest, prefetch: false });
      await log.append(mount, { type: 'mount.mounted' });
    }
  } finally {
    await bus.close();
    await child.stop();
  }
}

/** Written, not allocated: a start looks for blocks of the log that lie in holes of the file. */
async function writeDevice(
  path: string,
  head: Buffer,
  size: number,
  ranges: Array<[number, number]>,
): Promise<void> {
  const file = await open(path, 'w');
  try {
    await file.truncate(size);
    for (const [first, count] of ranges) {
      const length = Math.min(count * BLOCK, size - first * BLOCK);
      await file.write(ZEROS.subarray(0, length), 0, null, first * BLOCK);
      if (first === 0) await file.write(head, 0, null, 0);
    }
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Half of the blocks by all events together, in runs of 16 or so. */
function someBlocks(seed: number, events: number, blockCount: number): Array<[number, number]> {
  const random = seededRandom(seed);
  const runs = Math.max(1, Math.round(blockCount / 2 / 16 / events));
  return Array.from({ length: runs }, (): [number, number] => {
    const first = random(blockCount);
    return [first, Math.min(16, blockCount - first)];
  });
}

/** A plain tar of one file, so many blocks in all; only its beginning is its own. */
async function* layer(head: Buffer, blocks: number): AsyncIterable<Uint8Array> {
  yield head;
  for (let left = blocks - 1; left > 0; left -= 16) yield ZEROS.subarray(0, Math.min(left, 16) * BLOCK);
}

function firstBlock(number: number, blocks: number): Buffer {
  const size = blocks * BLOCK - 512 - 1024;
  const head = Buffer.alloc(BLOCK);
  head.write('data', 0);
  head.write('0000644\x000000000\x000000000\0', 100);
  head.write(`${size.toString(8).padStart(11, '0')}\0`, 124);
  head.write('00000000000\0', 136);
  head.write('        0', 148);
  head.write('ustar\x0000', 257);
  const sum = head.subarray(0, 512).reduce((total, byte) => total + byte, 0);
  head.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  head.write(`image ${number}`, 512);
  return head;
}

const digestOf = (bytes: Uint8Array | string): string =>
  `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      mounts: { type: 'string', default: '100' },
      blocks: { type: 'string', default: '10000' },
      events: { type: 'string', default: '100' },
      rounds: { type: 'string', default: '3' },
      root: { type: 'string' },
      json: { type: 'string' },
    },
  });
  const cleanup = new Cleanup();
  try {
    const result = await measureRecovery({
      mounts: Number(values.mounts),
      blocks: Number(values.blocks),
      events: Number(values.events),
      rounds: Number(values.rounds),
      root: values.root ?? (await cleanup.tempDir('recovery')),
      onProgress: (line) => process.stderr.write(`${line}\n`),
    });
    const text = `${JSON.stringify(result, null, 2)}\n`;
    process.stdout.write(text);
    if (values.json !== undefined) writeFileSync(values.json, text);
  } finally {
    await cleanup.run();
  }
}
