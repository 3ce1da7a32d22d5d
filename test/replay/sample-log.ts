/** A log made up for tests: an image of two layers that is mounted, read and completed, with traces. */
import type { NewEvent } from '../../schemas/events.ts';
import { encode } from '../../src/bus/connection.ts';
import type { RawRecord } from '../../src/replay/record.ts';
import { ReplayLog } from '../../src/replay/replay-log.ts';

export const digest = (digit: string): string => `sha256:${digit.repeat(64)}`;
export const START = Date.UTC(2026, 10, 24, 12, 0, 0);
export const LAYER_A = '1'.repeat(64);
export const LAYER_B = '2'.repeat(64);
export const MANIFEST = 'a'.repeat(64);
export const MOUNT = 'm0000000000000001';

/** `at`: ms after START. */
export function record(
  seq: number,
  at: number,
  kind: string,
  id: string,
  event: NewEvent | object,
): RawRecord {
  return {
    seq,
    subject: `cofa.v1.node-1.event.${kind}.${id}`,
    bytes: encode({ v: 1, at: START + at, ...event }),
  };
}

/** About 30 events; sequences have gaps. */
export function sampleRecords(): RawRecord[] {
  const records: RawRecord[] = [];
  let seq = 10;
  const add = (at: number, kind: string, id: string, event: NewEvent | object) => {
    records.push(record(seq, at, kind, id, event));
    seq += records.length % 5 === 0 ? 3 : 1;
  };
  add(0, 'engine', 'main', { type: 'engine.started', pid: 4711, version: '0.1.0', transport: 'kernel' });
  add(100, 'image', MANIFEST, {
    type: 'image.resolved',
    ref: 'registry.example/team/app:1',
    registry: 'registry.example',
    repository: 'team/app',
    manifest: digest('a'),
    config: digest('b'),
    layers: [LAYER_A, LAYER_B].map((hex, index) => ({
      diffId: `sha256:${hex}`,
      blob: digest(String(index + 3)),
      blobSize: 4_000_000,
      mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
    })),
  });
  add(110, 'mount', MOUNT, {
    type: 'mount.requested',
    id: MOUNT,
    dir: '/mnt/app',
    ref: 'registry.example/team/app:1',
    manifest: digest('a'),
    prefetch: false,
  });
  add(300, 'image', MANIFEST, {
    type: 'image.prepared',
    origin: 'sidecar',
    sidecar: digest('c'),
    flat: digest('d'),
    devices: [
      { diffId: `sha256:${LAYER_A}`, size: 400 * 65536, spans: digest('3') },
      { diffId: `sha256:${LAYER_B}`, size: 60 * 65536, spans: digest('4') },
    ],
  });
  for (const [index, [hex, blockCount]] of (
    [
      [LAYER_A, 400],
      [LAYER_B, 60],
    ] as const
  ).entries()) {
    add(320 + index * 5, 'layer', hex, {
      type: 'layer.opened',
      size: blockCount * 65536,
      blockSize: 65536,
      blockCount,
      blob: digest(String(index + 3)),
    });
  }
  add(350, 'mount', MOUNT, { type: 'mount.mounted' });
  const job = (number: number, span: number, queuedAt: number, ms: number, klass = 'demand') => ({
    job: number,
    class: klass,
    span,
    spans: 1,
    worker: `fetcher-${number % 2}`,
    queuedAt: START + queuedAt,
    sentUs: 500,
    firstByteUs: ms * 400,
    fetchUs: ms * 700,
    decodeUs: ms * 150,
    writeUs: ms * 50,
    totalUs: ms * 1000,
    bytes: 300_000,
  });
  const read = (at: number, ms: number, block: number, jobs: number[], errno = 0) => ({
    at: START + at,
    us: ms * 1000,
    block,
    blocks: 2,
    errno,
    jobs,
  });
  add(620, 'layer', LAYER_A, {
    type: 'layer.blocks',
    ranges: [
      [0, 32],
      [64, 16],
    ],
  });
  add(621, 'layer', LAYER_A, {
    type: 'layer.trace',
    reads: [read(400, 41, 3, [1]), read(405, 36, 17, [2]), read(450, 120, 70, [3])],
    jobs: [job(1, 0, 400, 40), job(2, 1, 405, 35), job(3, 4, 449, 118)],
    dropped: 0,
  });
  for (let step = 0; step < 12; step++) {
    add(900 + step * 250, 'layer', LAYER_A, { type: 'layer.blocks', ranges: [[80 + step * 20, 20]] });
    if (step % 4 === 3) {
      add(901 + step * 250, 'layer', LAYER_A, {
        type: 'layer.trace',
        reads: [read(780 + step * 250, 60 + step, 90 + step * 20, [10 + step], step === 11 ? 5 : 0)],
        jobs: [job(10 + step, 6 + step, 780 + step * 250, 50)],
        dropped: step === 11 ? 4 : 0,
      });
    }
  }
  add(4000, 'layer', LAYER_B, { type: 'layer.blocks', ranges: [[0, 60]] });
  add(4050, 'layer', LAYER_B, { type: 'layer.completed', digest: `sha256:${LAYER_B}` });
  add(4080, 'layer', LAYER_B, { type: 'layer.handed-over' });
  add(5000, 'mount', MOUNT, { type: 'mount.unmounted' });
  add(5100, 'engine', 'main', { type: 'engine.stopped' });
  return records;
}

export function logOf(
  records: readonly RawRecord[],
  options: { distance?: number; budget?: number } = {},
): ReplayLog {
  const log = new ReplayLog({ node: 'node-1', checkpoints: options });
  for (const raw of records) log.append(raw);
  return log;
}
