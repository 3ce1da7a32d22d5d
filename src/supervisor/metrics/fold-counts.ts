/** Counts what the event log tells while the engine runs: each event is a fact that some process has appended already. */
import type { CofaEvent, EventOf } from '../../../schemas/events.ts';
import type { Counts } from '../../../actors/counts.ts';
import { layersOfImage } from '../../../actors/device.ts';
import { idOf } from '../../../actors/node-state.ts';
import { StartWatcher } from '../../../actors/start-times.ts';
import { membersOfVoucher } from '../../../actors/voucher.ts';
import type { StartExemplars } from './start-exemplars.ts';
import type { LiveFold } from '../../store/live-fold.ts';

export class FoldCounts {
  readonly #live: Pick<LiveFold, 'state' | 'listen'>;
  readonly #counts: Counts;
  readonly #starts: StartWatcher;
  readonly #exemplars: StartExemplars | undefined;

  /** Follows the log from now on; `end` ends that. `exemplars`: is told of each start that is counted. */
  constructor(live: Pick<LiveFold, 'state' | 'listen'>, counts: Counts, exemplars?: StartExemplars) {
    this.#exemplars = exemplars;
    this.#live = live;
    this.#counts = counts;
    this.#starts = new StartWatcher((manifest) => {
      const image = live.state.images.get(manifest);
      return image === undefined ? new Set() : layersOfImage(image as Parameters<typeof layersOfImage>[0]);
    });
    this.end = live.listen(({ subject, event }) => this.#take(idOf(subject), event));
  }

  readonly end: () => void;

  /** Counts the starts that are over. `now`: of the wall clock, ms. */
  settle(now: number): void {
    for (const start of this.#starts.settled(now)) {
      for (const [phase, seconds] of start.phases)
        this.#counts.observe('start_phase_seconds', seconds, phase, start.prepared);
      this.#exemplars?.take(start);
    }
  }

  #take(id: string, event: CofaEvent): void {
    const counts = this.#counts;
    this.#starts.take(id, event);
    switch (event.type) {
      case 'mount.failed':
        return counts.add('mount_failures_total', 1, event.code);
      case 'image.prepared':
        if (membersOfVoucher(event.vouched) !== undefined) counts.add('fleet_vouched_images_total');
        return counts.add('images_prepared_total', 1, event.origin);
      case 'fleet.disbelieved':
        return counts.add('fleet_disbelieved_total');
      case 'image.refuted':
        return counts.add('integrity_failures_total', 1, 'metadata');
      case 'root.refuted':
        return counts.add('integrity_failures_total', 1, 'table');
      case 'layer.dropped':
        if (event.reason === 'corrupt') counts.add('integrity_failures_total', 1, 'layer');
        return;
      case 'layer.evicted':
        return counts.add('evicted_blocks_total', blocksOf(event), event.reason);
      case 'layer.scrubbed':
        return this.#scrubbed(event);
      case 'snapshot.committed':
        return this.#committed(event);
    }
  }

  #scrubbed({ blocks, bad, repaired, kept = 0 }: EventOf<'layer.scrubbed'>): void {
    this.#counts.add('scrubs_total');
    for (const [result, count] of Object.entries({ compared: blocks, bad, repaired, kept }))
      this.#counts.add('scrub_blocks_total', count, result);
  }

  /** A snapshot that was never unpacked: its layer was not downloaded. */
  #committed({ flat }: EventOf<'snapshot.committed'>): void {
    if (flat === undefined) return;
    const layers = this.#live.state.images.get(flat.manifest)?.resolved.layers ?? [];
    this.#counts.add('lazy_pull_layers_total');
    this.#counts.add('lazy_pull_bytes_total', layers[flat.layers - 1]?.blobSize ?? 0);
    if (flat.layers === layers.length) this.#counts.add('lazy_pulls_total');
  }
}

const blocksOf = ({ ranges }: EventOf<'layer.evicted'>): number =>
  ranges.reduce((sum, [, count]) => sum + count, 0);
