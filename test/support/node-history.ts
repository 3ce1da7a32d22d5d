/**
 * A long history of a node out of a seed: engines that start and stop, images, mounts, layers with fetched and evicted
 * blocks.
 */
import type { NewEvent } from '../../schemas/events.ts';
import { type Subjects, subjects } from '../../schemas/subjects.ts';
import { Random } from './random.ts';

export interface HistoryEvent {
  subject: string;
  event: NewEvent;
}

export interface HistoryOptions {
  seed: number;
  node: string;
  layers?: number;
  blocks?: number;
}

const digest = (name: string, n: number): string =>
  `sha256:${Buffer.from(`${name}${n}`.padEnd(32, '.')).toString('hex').slice(0, 64)}`;

/** Endless. */
export function* nodeHistory(options: HistoryOptions): Generator<HistoryEvent, never> {
  const { seed, node, layers = 20, blocks = 10_000 } = options;
  const random = new Random(seed);
  const names: Subjects = subjects(node);
  const layer = (n: number) => names.event('layer', digest('layer', n).slice(7));
  const opened = (n: number): HistoryEvent => ({
    subject: layer(n),
    event: {
      type: 'layer.opened',
      size: blocks * 65536,
      blockSize: 65536,
      blockCount: blocks,
      blob: digest('blob', n),
    },
  });
  for (let n = 0; n < layers; n++) {
    const manifest = digest('image', n);
    const image = names.event('image', manifest.slice(7));
    yield {
      subject: image,
      event: {
        type: 'image.resolved',
        ref: `localhost/app:${n}`,
        registry: 'localhost',
        repository: 'app',
        manifest,
        config: digest('config', n),
        layers: [
          {
            diffId: digest('layer', n),
            blob: digest('blob', n),
            blobSize: n * 1e9,
            mediaType: 'application/x',
          },
        ],
      },
    };
    yield {
      subject: image,
      event: {
        type: 'image.prepared',
        origin: 'node',
        flat: digest('flat', n),
        devices: [{ diffId: digest('layer', n), size: blocks * 65536, spans: digest('blob', n) }],
      },
    };
    yield opened(n);
  }
  const mounted: string[] = [];
  for (let number = 0; ; number++) {
    const dice = random.int(0, 999);
    if (dice < 950) {
      const ranges = Array.from({ length: random.int(1, 3) }, (): [number, number] => [
        random.int(0, blocks - 1),
        random.int(1, 16),
      ]);
      const subject = layer(random.int(0, layers - 1));
      if (dice < 900) yield { subject, event: { type: 'layer.blocks', ranges } };
      else yield { subject, event: { type: 'layer.evicted', ranges, reason: 'limit' } };
    } else if (dice < 970) {
      const id = number.toString(16).padStart(16, '0');
      const n = random.int(0, layers - 1);
      const ref = `localhost/app:${n}`;
      yield {
        subject: names.event('mount', id),
        event: {
          type: 'mount.requested',
          id,
          dir: `/mnt/${id}`,
          ref,
          manifest: digest('image', n),
          prefetch: false,
        },
      };
      yield { subject: names.event('mount', id), event: { type: 'mount.mounted' } };
      mounted.push(id);
    } else if (dice < 995 && mounted.length > 5) {
      const id = mounted.splice(random.int(0, mounted.length - 1), 1)[0] as string;
      yield { subject: names.event('mount', id), event: { type: 'mount.unmounted' } };
    } else if (dice === 998) {
      const n = random.int(0, layers - 1);
      yield { subject: layer(n), event: { type: 'layer.dropped', reason: 'device-lost', message: '' } };
    } else {
      yield opened(random.int(0, layers - 1));
    }
  }
}

/** The next `count` events. */
export function take(history: Iterator<HistoryEvent>, count: number): HistoryEvent[] {
  return Array.from({ length: count }, () => history.next().value as HistoryEvent);
}
