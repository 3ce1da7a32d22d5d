/** Members that came, went or were left out: told to the supervisor for the node's log, counted, and the last ones kept for `cofa fleet`. */
import type { Counts } from '../../actors/counts.ts';
import type { Member } from '../../schemas/fleet.ts';
import type { FleetChange } from '../../schemas/fleet-status.ts';
import type { FleetNews } from '../process/parent-link.ts';

export interface ChangesOptions {
  tell: (news: FleetNews) => void;
  counts: Pick<Counts, 'add'>;
  /** ms since 1970. */
  wallMs: () => number;
}

/** Those that `cofa fleet` shows. */
const MOST_RECENT = 32;

export class Changes {
  readonly #options: ChangesOptions;
  readonly #recent: FleetChange[] = [];

  constructor(options: ChangesOptions) {
    this.#options = options;
  }

  /** The newest first. */
  get recent(): FleetChange[] {
    return this.#recent.toReversed();
  }

  came({ id, zone, role, address }: Pick<Member, 'id' | 'zone' | 'role' | 'address'>): void {
    this.#note('came', id);
    this.#options.tell({ came: { name: id, zone, role, address } });
  }

  gone(id: string): void {
    this.#note('gone', id);
    this.#options.tell({ gone: id });
  }

  /** `until`: ms since 1970. */
  leftOut(id: string, until: number, blob: string, piece: number): void {
    this.#note('left-out', id);
    this.#options.tell({ leftOut: { name: id, until, blob, piece } });
  }

  #note(what: FleetChange['what'], name: string): void {
    this.#options.counts.add('fleet_changes_total', 1, what);
    this.#recent.push({ at: new Date(this.#options.wallMs()).toISOString(), what, name });
    if (this.#recent.length > MOST_RECENT) this.#recent.shift();
  }
}
