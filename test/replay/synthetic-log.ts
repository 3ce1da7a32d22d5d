/** Logs of any length, the same for the same seed: images that are mounted, filled block by block, unmounted. */
import type { NewEvent } from '../../schemas/events.ts';
import { encode } from '../../src/bus/connection.ts';
import type { RawRecord } from '../../src/replay/record.ts';
import { Random } from '../support/random.ts';

const BLOCKS = 10_000;
const IMAGES = 20;

/** `count` records; about one in four is a trace of a few reads. */
export function* syntheticRecords(count: number, seed: number): IterableIterator<RawRecord> {
  const random = new Random(seed);
  const hex = (index: number) => index.toString(16).padStart(64, '0');
  const digest = (index: number) => `sha256:${hex(index)}`;
  let at = Date.UTC(2026, 0, 1);
  let seq = 0;
  const make = (kind: string, id: string, event: NewEvent): RawRecord => {
    at += 5;
    seq += 1;
    return { seq, subject: `cofa.v1.node-1.event.${kind}.${id}`, bytes: encode({ v: 1, at, ...event }) };
  };
  const next = Array.from({ length: IMAGES }, () => 0);
  const mount = Array.from({ length: IMAGES }, (): string | undefined => undefined);
  let mounts = 0;
  let left = count;
  const wants = () => left-- > 0;
  if (wants())
    yield make('engine', 'main', { type: 'engine.started', pid: 1, version: '0', transport: 'kernel' });
  for (let index = 0; index < IMAGES; index++) {
    if (!wants()) return;
    yield make('image', hex(1000 + index), {
      type: 'image.resolved',
      ref: `registry.example/app-${index}:1`,
      registry: 'registry.example',
      repository: `app-${index}`,
      manifest: digest(1000 + index),
      config: digest(2000 + index),
      layers: [{ diffId: digest(index), blob: digest(3000 + index), blobSize: 1, mediaType: 'x' }],
    });
    if (!wants()) return;
    yield make('layer', hex(index), {
      type: 'layer.opened',
      size: BLOCKS * 65536,
      blockSize: 65536,
      blockCount: BLOCKS,
      blob: digest(3000 + index),
    });
  }
  let job = 0;
  while (wants()) {
    const index = random.int(0, IMAGES - 1);
    const manifest = digest(1000 + index);
    const id = mount[index];
    const draw = random.int(0, 99);
    if (id === undefined) {
      const fresh = `m${(++mounts).toString(16).padStart(15, '0')}`;
      mount[index] = fresh;
      yield make('mount', fresh, {
        type: 'mount.requested',
        id: fresh,
        dir: `/mnt/app-${index}`,
        ref: `registry.example/app-${index}:1`,
        manifest,
        prefetch: false,
      });
      if (!wants()) return;
      yield make('mount', fresh, { type: 'mount.mounted' });
    } else if (draw < 1) {
      mount[index] = undefined;
      yield make('mount', id, { type: 'mount.unmounted' });
    } else if (draw < 25) {
      job += 1;
      const us = 1_000 + random.int(0, 200_000);
      yield make('layer', hex(index), {
        type: 'layer.trace',
        reads: [
          { at: at - 10 - us / 1000, us, block: random.int(0, BLOCKS - 1), blocks: 1, errno: 0, jobs: [job] },
        ],
        jobs: [
          {
            job,
            class: 'demand',
            span: random.int(0, 599),
            spans: 1,
            worker: 'fetcher-0',
            queuedAt: Math.round(at - 10 - us / 1000),
            sentUs: 100,
            firstByteUs: Math.floor(us / 2),
            fetchUs: Math.floor(us * 0.7),
            decodeUs: Math.floor(us * 0.1),
            writeUs: Math.floor(us * 0.05),
            totalUs: us,
            bytes: 300_000,
          },
        ],
        dropped: 0,
      });
    } else if (draw < 26 && (next[index] ?? 0) >= BLOCKS) {
      next[index] = 0;
      yield make('layer', hex(index), { type: 'layer.dropped', reason: 'corrupt', message: 'made up' });
    } else {
      const first = (next[index] ?? 0) % BLOCKS;
      const size = Math.min(16, BLOCKS - first);
      next[index] = (next[index] ?? 0) + size;
      yield make('layer', hex(index), { type: 'layer.blocks', ranges: [[first, size]] });
    }
  }
}
