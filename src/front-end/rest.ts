/**
 * Fetches the rest of layers when the start of their image is over, as actors/start-quiet.ts decides, or when the start turns out to
 * need most of it: actors/one-stream.ts.
 */
import { type FetchCost, OneStream } from '../../actors/one-stream.ts';
import { StartQuiet } from '../../actors/start-quiet.ts';
import type { Clock, Timer } from '../process/ports.ts';
import type { LayerHost } from './layer-host.ts';
import type { LayerTable } from './layer-table.ts';
import type { Starts } from './starts.ts';

/** Starts are looked at this often, ms. */
const LOOK_MS = 100;

export interface RestOptions {
  clock: Clock;
  layers: LayerTable;
  starts: Pick<Starts, 'tick' | 'isBringing' | 'lastFirstRead'>;
  /** How many fetchers there are. */
  fetchers: () => number;
}

export class Rest {
  readonly #options: RestOptions;
  readonly #quiet = new StartQuiet();
  readonly #stream = new OneStream();
  /** Layers whose rest is wanted, also when its time has come. */
  readonly #wanted = new WeakSet<LayerHost>();
  readonly #timer: Timer;

  constructor(options: RestOptions) {
    this.#options = options;
    this.#timer = options.clock.every(LOOK_MS, () => this.#look());
  }

  /** A reader waits for a block. */
  coldRead(): void {
    this.#quiet.coldRead(this.#options.clock.now());
  }

  /** A fetch has ended well. */
  readonly fetched = (cost: FetchCost): void => this.#stream.fetched(cost);

  /** Whether the rest of an open layer is wanted; until the start is over, only what lies near its reads comes. */
  want(diffId: string, layer: LayerHost, isWanted: boolean): void {
    if (isWanted && !this.#wanted.has(layer)) {
      this.#wanted.add(layer);
      layer.readahead(true);
      this.#quiet.want(diffId, this.#options.clock.now());
    } else if (!isWanted && this.#wanted.delete(layer)) {
      this.#quiet.forget(diffId);
      layer.readahead(false);
      layer.prefetch(false);
    }
  }

  /** The layer is about to close. */
  closing(diffId: string): void {
    this.#quiet.forget(diffId);
  }

  stop(): void {
    this.#timer.cancel();
  }

  #look(): void {
    const { clock, layers, starts } = this.#options;
    starts.tick();
    this.#streamWhatIsWaitedFor();
    for (const diffId of this.#quiet.look(clock.now(), starts)) layers.opened.get(diffId)?.prefetch(true);
  }

  /** A pack brings what its readers wait for. */
  #streamWhatIsWaitedFor(): void {
    const { clock, layers, starts, fetchers } = this.#options;
    if (starts.isBringing) return;
    const starting = this.#quiet.starting(clock.now()).flatMap((diffId) => {
      const layer = layers.opened.get(diffId);
      if (layer === undefined) return [];
      return [{ layer: diffId, isWaitedFor: layer.isWaitedFor, absentBytes: layer.absentBytes }];
    });
    for (const diffId of this.#stream.look(clock.now(), starting, fetchers()))
      layers.opened.get(diffId)?.aimAtAll();
  }
}
