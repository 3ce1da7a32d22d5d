/**
 * Which members of a zone are the homes of a piece: rendezvous hashing by weight. Each member that knows the same members
 * finds the same homes, without a word; when one joins or leaves, only the pieces that it is a home of move.
 *
 * A member with twice the weight is home of twice as many groups of pieces. For each pair of member and group a number u
 * in (0, 1) is drawn by hashing; the lowest -ln(u) / weight wins, which is the first of as many exponential clocks.
 *
 * **Cells.** All members of a zone that want a piece ask its homes, so what a home has to do grows with the zone. A large zone is
 * divided: each member belongs to one cell, and in each cell a piece has homes of its own, also found by hashing, among all
 * members of the zone. They are asked first, and see to it that one of their cell asks the zone's homes. A cell's homes do
 * not depend on how many cells there are, so members that count differently for a moment find the same ones.
 */
import { GROUP_PIECES, type Piece } from '../schemas/fleet.ts';

/** Homes of a piece in a zone. */
export const REPLICAS = 2;
/** Those next in rank: each is a home's stand-in where all before it do not answer. */
export const STAND_INS = 2;

/** As far as placement is concerned. */
export interface Placed {
  readonly id: string;
  readonly zone: string;
  /** 0: it is a home of nothing. */
  readonly weight: number;
}

export interface CellLimits {
  /** A zone of more members has cells. */
  undivided: number;
  /** Members of a cell, about. */
  members: number;
}

export const CELL_LIMITS: CellLimits = { undivided: 1_024, members: 512 };

/** Another member may know of so many times as many members: it has heard of others already. */
const MORE_KNOWN = 9 / 8;

interface Candidate {
  readonly id: string;
  readonly seed: Hash;
  readonly weight: number;
}

/** Groups of a zone whose homes are remembered. */
const REMEMBERED = 4_096;

/**
 * The homes among the members that are there. What is known of a group stays known while members come and leave: ten thousand
 * that join one after the other would otherwise be hashed anew by each member for each of them.
 */
export class Placement {
  readonly #zones = new Map<string, Zone>();
  readonly #zoneOf = new Map<string, string>();
  /** Of members whose cell was asked for: among how many cells, and which it is. */
  readonly #cells = new Map<string, { among: number; cell: number }>();
  readonly #replicas: number;
  readonly #limits: CellLimits;

  constructor(members: Iterable<Placed> = [], replicas: number = REPLICAS, limits: CellLimits = CELL_LIMITS) {
    this.#replicas = replicas;
    this.#limits = limits;
    for (const member of members) this.set(member);
  }

  /** The member is there, with this zone and weight from now on. */
  set({ id, zone, weight }: Placed): void {
    this.delete(id);
    if (weight <= 0) return;
    const known = this.#zones.get(zone) ?? new Zone(this.#replicas);
    this.#zones.set(zone, known);
    this.#zoneOf.set(id, zone);
    known.add({ id, seed: hashOf(id), weight });
  }

  delete(id: string): void {
    const zone = this.#zoneOf.get(id);
    if (zone === undefined) return;
    this.#zoneOf.delete(id);
    this.#cells.delete(id);
    if (this.#zones.get(zone)?.delete(id) === 0) this.#zones.delete(zone);
  }

  /**
   * The piece's homes in the zone, or in one of its cells, the first to be asked first; none where no member of the zone has weight,
   * and in a cell that the zone cannot have.
   */
  homes(piece: Piece, zone: string, cell?: number): readonly string[] {
    const group = groupOf(piece);
    if (cell === undefined) return this.#zones.get(zone)?.group(group).homes ?? [];
    const most = this.#cellsOf(zone, MORE_KNOWN);
    if (most === 1 || cell >= most) return [];
    return this.#zones.get(zone)?.group(`${group}/${cell}`).homes ?? [];
  }

  /** The cell of a member; undefined: the zone has none, or the member gives nothing to others, and none of its cell could be sent to it. */
  cellOf(id: string): number | undefined {
    const zone = this.#zoneOf.get(id);
    const cells = zone === undefined ? 1 : this.#cellsOf(zone);
    if (cells === 1) return undefined;
    const known = this.#cells.get(id);
    if (known?.among === cells) return known.cell;
    const cell = drawCell(id, cells);
    this.#cells.set(id, { among: cells, cell });
    return cell;
  }

  #cellsOf(zone: string, times = 1): number {
    const size = (this.#zones.get(zone)?.size ?? 0) * times;
    return size <= this.#limits.undivided ? 1 : Math.ceil(size / this.#limits.members);
  }

  /** Who does what the homes do where none of them answers, in order. */
  standIns(piece: Piece, zone: string): readonly string[] {
    return this.#zones.get(zone)?.group(groupOf(piece)).standIns ?? [];
  }
}

/** Of so many; when there is one cell more, only its own members move. */
function drawCell(id: string, among: number): number {
  const seed = hashOf(id);
  let cell = 0;
  let most = 0;
  for (let one = 0; one < among; one++) {
    const draw = fraction(seed, hashOf(`cell ${one}`));
    if (draw <= most) continue;
    most = draw;
    cell = one;
  }
  return cell;
}

interface Group {
  readonly hash: Hash;
  /** The first ones, in order. */
  ranked: readonly Ranked[];
  homes: readonly string[];
  standIns: readonly string[];
}

class Zone {
  readonly #candidates = new Map<string, Candidate>();
  readonly #groups = new Map<string, Group>();
  readonly #replicas: number;

  constructor(replicas: number) {
    this.#replicas = replicas;
  }

  get size(): number {
    return this.#candidates.size;
  }

  group(name: string): Group {
    const known = this.#groups.get(name);
    if (known !== undefined) return known;
    const hash = hashOf(name);
    const ranked: Ranked[] = [];
    for (const candidate of this.#candidates.values()) insert(ranked, rankOf(candidate, hash), this.#most);
    if (this.#groups.size >= REMEMBERED) this.#groups.delete(this.#groups.keys().next().value as string);
    const group = { hash, ...this.#split(ranked) };
    this.#groups.set(name, group);
    return group;
  }

  /** It takes its share of the groups that are known. */
  add(candidate: Candidate): void {
    this.#candidates.set(candidate.id, candidate);
    for (const group of this.#groups.values()) {
      const rank = rankOf(candidate, group.hash);
      if (group.ranked.length === this.#most && !isBefore(rank, group.ranked.at(-1))) continue;
      const ranked = [...group.ranked];
      insert(ranked, rank, this.#most);
      Object.assign(group, this.#split(ranked));
    }
  }

  /** Returns how many are left. Who is next for its groups is found when they are asked for. */
  delete(id: string): number {
    this.#candidates.delete(id);
    for (const [name, { ranked }] of this.#groups)
      if (ranked.some((one) => one.id === id)) this.#groups.delete(name);
    return this.#candidates.size;
  }

  get #most(): number {
    return this.#replicas + STAND_INS;
  }

  #split(ranked: readonly Ranked[]): Omit<Group, 'hash'> {
    const ids = ranked.map(({ id }) => id);
    return { ranked, homes: ids.slice(0, this.#replicas), standIns: ids.slice(this.#replicas) };
  }
}

/** Neighbouring pieces of a blob have the same homes. */
const groupOf = ({ digest, index }: Piece): string => `${digest}/${Math.floor(index / GROUP_PIECES)}`;

interface Ranked {
  readonly id: string;
  readonly clock: number;
}

const rankOf = ({ id, seed, weight }: Candidate, group: Hash): Ranked => ({
  id,
  clock: -Math.log(fraction(seed, group)) / weight,
});

/** Keeps the `count` first ones. */
function insert(ranked: Ranked[], rank: Ranked, count: number): void {
  if (ranked.length >= count && !isBefore(rank, ranked[count - 1])) return;
  let at = Math.min(ranked.length, count - 1);
  for (; at > 0 && isBefore(rank, ranked[at - 1]); at--) ranked[at] = ranked[at - 1] as Ranked;
  ranked[at] = rank;
}

const isBefore = (a: Ranked, b: Ranked | undefined): boolean =>
  b === undefined || a.clock < b.clock || (a.clock === b.clock && a.id < b.id);

type Hash = readonly [number, number];

/** Two words of 32 bits, by the multiplications and shifts of MurmurHash3. No member needs it to be hard to aim at: bytes are verified. */
function hashOf(text: string): Hash {
  let a = 0x9e37_79b9;
  let b = 0x85eb_ca6b;
  for (let at = 0; at < text.length; at++) {
    const letter = text.charCodeAt(at);
    a = Math.imul(a ^ letter, 0xcc9e_2d51);
    b = Math.imul(b ^ letter, 0x1b87_3593);
    a = (a << 13) | (a >>> 19);
    b = (b << 15) | (b >>> 17);
  }
  return [mixed(a ^ b), mixed(b + Math.imul(a, 5))];
}

/** In (0, 1), 53 bits. */
function fraction([a, b]: Hash, [c, d]: Hash): number {
  const high = mixed(a ^ Math.imul(c, 0x9e37_79b1));
  const low = mixed(b ^ Math.imul(d ^ high, 0x85eb_ca77));
  return ((high >>> 5) * 2 ** 26 + (low >>> 6) + 0.5) / 2 ** 53;
}

/** The last steps of MurmurHash3: each bit of the result depends on each of the argument. */
function mixed(value: number): number {
  let word = Math.imul(value ^ (value >>> 16), 0x85eb_ca6b);
  word = Math.imul(word ^ (word >>> 13), 0xc2b2_ae35);
  return (word ^ (word >>> 16)) >>> 0;
}
