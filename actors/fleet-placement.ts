/**
 * Which members of a zone are the homes of a piece: rendezvous hashing by weight. Each member that knows the same members
 * finds the same homes, without a word; when one joins or leaves, only the pieces that it is a home of move.
 *
 * A member with twice the weight is home of twice as many groups of pieces. For each pair of member and group a number u
 * in (0, 1) is drawn by hashing; the lowest -ln(u) / weight wins, which is the first of as many exponential clocks.
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
  readonly #replicas: number;

  constructor(members: Iterable<Placed> = [], replicas: number = REPLICAS) {
    this.#replicas = replicas;
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
    if (this.#zones.get(zone)?.delete(id) === 0) this.#zones.delete(zone);
  }

  /** The piece's homes in the zone, the first to be asked first; none where no member of the zone has weight. */
  homes(piece: Piece, zone: string): readonly string[] {
    return this.#zones.get(zone)?.group(groupOf(piece)).homes ?? [];
  }

  /** Who does what the homes do where none of them answers, in order. */
  standIns(piece: Piece, zone: string): readonly string[] {
    return this.#zones.get(zone)?.group(groupOf(piece)).standIns ?? [];
  }
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
