/**
 * A root as a killed engine leaves it: images made up on the disk and told by the log, without a registry. Each has
 * layers of its own, plain tars of one file of zeros.
 */
import { createHash } from 'node:crypto';
import { mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import { connectBus } from '../../src/bus/connection.ts';
import { hexOf } from '../../schemas/digest.ts';
import type { NewEvent } from '../../schemas/events.ts';
import { subjects } from '../../schemas/subjects.ts';
import { buildFlat } from '../../src/image/erofs.ts';
import { indexLayer, type LayerIndex } from '../../src/image/index-layer.ts';
import { startNats } from '../../src/process/nats-server.ts';
import { deviceSize } from '../../src/store/device.ts';
import { EventLog } from '../../src/store/event-log.ts';
import { Layout, writeWhole } from '../../src/store/layout.ts';
import { rootId } from '../../src/supervisor/log/ownership.ts';
import { seededRandom } from '../../test/support/readers.ts';

export interface MadeUp {
  root: string;
  node: string;
  images: number;
  /** Of these, the first so many are mounted. */
  mounts: number;
  /** Of each image. */
  layers: number;
  /** Of 64 KiB, in each layer; half of them are present. */
  blocks: number;
  /** Events that tell each layer's present blocks. */
  events: number;
  onProgress: (line: string) => void;
}

const BLOCK = 65_536;
const ZEROS = Buffer.alloc(16 * BLOCK);
/** Layers that are opened side by side. */
const AT_ONCE = 64;

export async function makeRoot(options: MadeUp): Promise<void> {
  const { root, node, images, mounts, onProgress } = options;
  const layout = new Layout(root);
  await layout.prepare();
  const { address, child } = await startNats(layout);
  const bus = await connectBus(address, { name: 'recovery' });
  try {
    await EventLog.prepare(bus, { maxBytes: 1 << 30 });
    const log = new EventLog(bus, Date.now);
    const names = subjects(node);
    await log.claim(names.event('engine', 'main'), {
      type: 'engine.started',
      pid: process.pid,
      version: '0',
      transport: 'kernel',
      root: await rootId(layout),
    });
    for (let number = 0; number < images; number++) {
      if (images < AT_ONCE || number % AT_ONCE === 0) onProgress(`image ${number + 1} of ${images}`);
      const manifest = digestOf(`manifest ${number}`);
      const ref = `localhost:5000/image-${number}:1`;
      const { events, blocks } = await makeImage(layout, { ...options, number, manifest, ref });
      const image = names.event('image', hexOf(manifest));
      for (const event of events) await log.append(image, event);
      await Promise.all(
        blocks.map(async ({ id, told }) => {
          for (const event of told) await log.append(names.event('layer', hexOf(id)), event);
        }),
      );
      if (number >= mounts) continue;
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

interface Made {
  /** Of the image. */
  events: NewEvent[];
  /** By layer. */
  blocks: Array<{ id: string; told: NewEvent[] }>;
}

async function makeImage(
  layout: Layout,
  options: MadeUp & { number: number; manifest: string; ref: string },
): Promise<Made> {
  const { number, manifest, ref, layers, events } = options;
  const made: LayerIndex[] = [];
  const blocks: Made['blocks'] = [];
  for (let at = 0; at < layers; at++) {
    const head = firstBlock(number, at, options.blocks);
    const index = await indexLayer(layer(head, options.blocks));
    const { diffId, rawSize, spans } = index;
    made.push(index);
    await writeWhole(layout.spans(diffId), spans.encode());
    await mkdir(join(layout.device(diffId), '..'), { recursive: true });
    const present = Array.from({ length: events }, (_, event) =>
      someBlocks((number * layers + at) * 1e4 + event, events, spans.blockCount),
    );
    await writeDevice(layout.device(diffId), head, deviceSize(rawSize), present.flat());
    const { blockCount } = spans;
    blocks.push({
      id: diffId,
      told: [
        { type: 'layer.opened', size: rawSize, blockSize: BLOCK, blockCount, blob: diffId },
        ...present.map((ranges): NewEvent => ({ type: 'layer.blocks', ranges })),
      ],
    });
  }
  const devices = made.map(({ diffId, rawSize: size }) => ({ diffId, size }));
  const flat = buildFlat(
    made.map(({ toc }) => toc),
    devices,
  ).metadata;
  await writeWhole(layout.flat(manifest), flat);
  await writeWhole(layout.config(manifest), Buffer.from('{}'));
  await writeWhole(layout.manifest(manifest), Buffer.from('{}'));
  return {
    blocks,
    events: [
      {
        type: 'image.resolved',
        ref,
        registry: 'localhost:5000',
        repository: `image-${number}`,
        manifest,
        config: digestOf(`config ${number}`),
        layers: devices.map(({ diffId, size }) => ({
          diffId,
          blob: diffId,
          blobSize: size,
          mediaType: 'application/vnd.oci.image.layer.v1.tar',
        })),
      },
      {
        type: 'image.prepared',
        origin: 'sidecar',
        flat: digestOf(flat),
        devices: devices.map((device) => ({ ...device, spans: device.diffId })),
      },
    ],
  };
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
    return [first, Math.min(16, Math.ceil(blockCount / 8), blockCount - first)];
  });
}

/** A plain tar of one file, so many blocks in all; only its beginning is its own. */
async function* layer(head: Buffer, blocks: number): AsyncIterable<Uint8Array> {
  yield head;
  for (let left = blocks - 1; left > 0; left -= 16) yield ZEROS.subarray(0, Math.min(left, 16) * BLOCK);
}

function firstBlock(image: number, at: number, blocks: number): Buffer {
  const size = blocks * BLOCK - 512 - 1024;
  const head = Buffer.alloc(BLOCK);
  head.write(`data${at}`, 0);
  head.write('0000644\x000000000\x000000000\0', 100);
  head.write(`${size.toString(8).padStart(11, '0')}\0`, 124);
  head.write('00000000000\0', 136);
  head.write('        0', 148);
  head.write('ustar\x0000', 257);
  const sum = head.subarray(0, 512).reduce((total, byte) => total + byte, 0);
  head.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  head.write(`image ${image}, layer ${at}`, 512);
  return head;
}

const digestOf = (bytes: Uint8Array | string): string =>
  `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
