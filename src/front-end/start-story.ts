/**
 * What the log is told of a start that is over (`layer.started`): what it read first of each layer and when, and what said so
 * before. The FUSE threads count first reads and take no times, so the front end notes now and then how many there were: the
 * time of each lies between two notes. `cofa replay what-if` runs the start again from this.
 */
import type { NewEvent } from '../../schemas/events.ts';
import type { StartRun } from '../../schemas/fetch.ts';

export type StartedEvent = Extract<NewEvent, { type: 'layer.started' }>;

/** Where a block run is in the order of a start. */
type Placed = [first: number, count: number, place: number];

/** Entries of one list of an event: a record has a bound. */
const MOST_RUNS = 30_000;
/** Times of one start: a look each 100 ms for a minute are 600. */
const MOST_TIMES = 1_000;
/** Characters of why a pack was given up. */
const MOST_ERROR = 200;
/** Starts that are followed at once. */
const MOST_STORIES = 64;

export interface StartReads {
  manifest: string;
  start: string;
  /** Ids of the layers, which `found` counts. */
  devices: readonly string[];
  /** Blocks by the ticks of their first reads, rising. */
  found: ReadonlyArray<{ device: number; block: number; tick: number }>;
  /** The tick before the start. */
  since: number;
  /** Processors of the node. */
  cores: number;
}

export class StartStory {
  readonly #clock: Array<[number, number]> = [];
  readonly #foretold = new Map<string, Placed[]>();
  #ahead: StartedEvent['ahead'] = 'nothing';
  #pack: StartedEvent['pack'];
  #place = 0;

  /** What has named blocks of the start before they were read. */
  get ahead(): StartedEvent['ahead'] {
    return this.#ahead;
  }

  /** By now so many blocks of the image were read. `at`: ms since the epoch. */
  look(place: number, at: number): void {
    const before = this.#clock.at(-1)?.[0] ?? 0;
    if (place > before && this.#clock.length < MOST_TIMES) this.#clock.push([place, at]);
  }

  /** These blocks were named, in this order. `devices`: ids of layers. */
  named(ahead: StartedEvent['ahead'], devices: readonly string[], runs: readonly StartRun[]): void {
    this.#ahead = ahead;
    for (const [device, first, count] of runs) {
      const id = devices[device];
      if (id !== undefined && this.#place < MOST_RUNS * 64) {
        const mine = this.#foretold.get(id);
        if (mine === undefined) this.#foretold.set(id, [[first, count, this.#place]]);
        else if (mine.length < MOST_RUNS) mine.push([first, count, this.#place]);
      }
      this.#place += count;
    }
  }

  /** A pack of so many bytes was asked for, at `at`, ms since the epoch. */
  asked(bytes: number, at: number): void {
    this.#ahead = 'pack';
    this.#pack = { bytes, at };
  }

  /** All of it came. */
  came(us: number): void {
    if (this.#pack !== undefined) this.#pack = { ...this.#pack, us };
  }

  /** The pack was given up; `error`: code and message. */
  gaveUp(error: string): void {
    if (this.#pack !== undefined) this.#pack = { ...this.#pack, error: error.slice(0, MOST_ERROR) };
  }

  /** What the log is told, by the id of the layer. A layer of which nothing was read is left out. */
  *events({
    manifest,
    start,
    devices,
    found,
    since,
    cores,
  }: StartReads): IterableIterator<[id: string, StartedEvent]> {
    const reads = new Map<string, Placed[]>();
    for (const { device, block, tick } of found) {
      const id = devices[device] ?? '';
      const place = tick - since;
      const mine = reads.get(id) ?? [];
      if (mine.length === 0) reads.set(id, mine);
      const last = mine.at(-1);
      if (last !== undefined && last[0] + last[1] === block && last[2] + last[1] === place) last[1] += 1;
      else if (mine.length < MOST_RUNS) mine.push([block, 1, place]);
    }
    for (const [id, mine] of reads) {
      const foretold = this.#foretold.get(id);
      yield [
        id,
        {
          type: 'layer.started',
          manifest,
          start,
          ahead: this.#ahead,
          cores,
          reads: mine,
          clock: this.#clock,
          ...(foretold === undefined ? {} : { foretold }),
          ...(this.#pack === undefined ? {} : { pack: this.#pack }),
        },
      ];
    }
  }
}

/** The starts that are under way, by their key. */
export class StartStories {
  readonly #stories = new Map<string, StartStory>();

  of(key: string): StartStory {
    let story = this.#stories.get(key);
    if (story === undefined) {
      story = new StartStory();
      this.#stories.set(key, story);
      if (this.#stories.size > MOST_STORIES)
        this.#stories.delete(this.#stories.keys().next().value as string);
    }
    return story;
  }

  /** The start is over. */
  take(key: string): StartStory {
    const story = this.of(key);
    this.#stories.delete(key);
    return story;
  }
}
