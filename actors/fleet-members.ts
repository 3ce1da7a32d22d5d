/**
 * Who is in the fleet, as far as this member has heard. Each announces itself every `everyMs`; of one that is silent for
 * three times as long it is suspected that it is gone, and after twice that it is. A suspected member stays a home, since
 * homes that change on a lost message would cost more than they save; askers pass it over (fleet-peers.ts), and notice a
 * dead one long before this does.
 *
 * Only the time when a message arrived here counts. Clocks of others may say what they like, and of two messages of one
 * member the bucket's revision says which is the later.
 *
 *     live ─SILENT→ suspected ─SILENT→ gone
 *       ↑ └─HEARD─┘    │                 ↑
 *       └────HEARD─────┘    LEFT ────────┘
 */
import { setup } from 'xstate';
import { MAX_MEMBERS, type Member } from '../schemas/fleet.ts';
import { CELL_LIMITS, type CellLimits, Placement, REPLICAS } from './fleet-placement.ts';
import { compileTable } from './table.ts';
import { TimerQueue } from './timers.ts';

export interface MembersLimits {
  /** Announcements that may be missing before a member is suspected, and again before it is gone. */
  missing: number;
  most: number;
  replicas: number;
  cells: CellLimits;
}

export const MEMBERS_LIMITS: MembersLimits = {
  missing: 3,
  most: MAX_MEMBERS,
  replicas: REPLICAS,
  cells: CELL_LIMITS,
};

const STATES = ['live', 'suspected', 'gone'] as const;
const STEPS = ['HEARD', 'SILENT', 'LEFT'] as const;
export type MemberState = (typeof STATES)[number];
type Step = (typeof STEPS)[number];

export const memberMachine = setup({ types: { events: {} as { type: Step } } }).createMachine({
  id: 'member',
  initial: 'live',
  states: {
    live: { on: { HEARD: 'live', SILENT: 'suspected', LEFT: 'gone' } },
    suspected: { on: { HEARD: 'live', SILENT: 'gone', LEFT: 'gone' } },
    gone: {},
  },
});
const TABLE = compileTable(memberMachine, STATES, STEPS);

interface Known {
  member: Member;
  revision: number;
  state: MemberState;
}

export class Members {
  readonly #fleet: string;
  readonly #limits: MembersLimits;
  readonly #known = new Map<string, Known>();
  readonly #silences = new TimerQueue<string>();
  readonly #placement: Placement;

  constructor(fleet: string, limits: Partial<MembersLimits> = {}) {
    this.#fleet = fleet;
    this.#limits = { ...MEMBERS_LIMITS, ...limits };
    this.#placement = new Placement([], this.#limits.replicas, this.#limits.cells);
  }

  /** A member has announced itself. `revision`: of its key in the bucket. Those of other fleets, and late ones, change nothing. */
  heard(member: Member, revision: number, now: number): void {
    if (member.fleet !== this.#fleet) return;
    const known = this.#known.get(member.id);
    if (known !== undefined && revision <= known.revision) return;
    if (known === undefined && this.#known.size >= this.#limits.most) return;
    if (member.leaving === true) {
      this.left(member.id);
      return;
    }
    if (known === undefined || !isSamePlace(known.member, member)) this.#placement.set(member);
    this.#known.set(member.id, { member, revision, state: 'live' });
    this.#silences.set(member.id, now + member.everyMs * this.#limits.missing);
  }

  /** It has said so, or its key is gone. */
  left(id: string): void {
    this.#step(id, 'LEFT');
  }

  /** Silences that have lasted too long. Call it at `nextWake`. */
  tick(now: number): void {
    for (let id = this.#silences.take(now); id !== undefined; id = this.#silences.take(now)) {
      const everyMs = this.#known.get(id)?.member.everyMs ?? 0;
      this.#step(id, 'SILENT');
      if (this.#known.has(id)) this.#silences.set(id, now + everyMs * this.#limits.missing);
    }
  }

  /** ms; Infinity where no member is known. */
  get nextWake(): number {
    return this.#silences.next;
  }

  /** Undefined: gone, or never heard of. */
  get(id: string): Member | undefined {
    return this.#known.get(id)?.member;
  }

  stateOf(id: string): MemberState {
    return this.#known.get(id)?.state ?? 'gone';
  }

  get size(): number {
    return this.#known.size;
  }

  *[Symbol.iterator](): IterableIterator<{ member: Member; state: MemberState }> {
    for (const { member, state } of this.#known.values()) yield { member, state };
  }

  get placement(): Pick<Placement, 'homes' | 'standIns' | 'cellOf'> {
    return this.#placement;
  }

  #step(id: string, step: Step): void {
    const known = this.#known.get(id);
    if (known === undefined) return;
    known.state =
      STATES[TABLE[STATES.indexOf(known.state) * STEPS.length + STEPS.indexOf(step)] as number] ?? 'gone';
    if (known.state !== 'gone') return;
    this.#known.delete(id);
    this.#silences.delete(id);
    this.#placement.delete(id);
  }
}

const isSamePlace = (a: Member, b: Member): boolean => a.zone === b.zone && a.weight === b.weight;

/**
 * How often a member announces itself, ms, among so many: each announcement reaches all of them, so that of ten times as
 * many members each speaks a tenth as often.
 */
export const announceEveryMs = (members: number): number => Math.min(120_000, Math.max(2_000, members * 10));
