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

/** Groups whose homes are remembered. */
const REMEMBERED = 4_096;

/** The homes among a fixed set of members; another set is another placement. */
export class Placement {
  readonly #zones = new Map<string, Candidate[]>();
  readonly #replicas: number;
  readonly #known = new Map<string, readonly string[]>();

  constructor(members: Iterable<Placed>, replicas: number = REPLICAS) {
    this.#replicas = replicas;
    for (const { id, zone, weight } of members) {
      if (weight <= 0) continue;
      const candidate = { id, seed: hashOf(id), weight };
      const others = this.#zones.get(zone);
      if (others === undefined) this.#zones.set(zone, [candidate]);
      else others.push(candidate);
    }
  }

  /** The piece's homes in the zone, the first to be asked first; none where no member of the zone has weight. */
  homes(piece: Piece, zone: string): readonly string[] {
    return this.#among(`${zone} ${groupOf(piece)}`, this.#zones.get(zone), piece);
  }

  #among(key: string, candidates: readonly Candidate[] | undefined, piece: Piece): readonly string[] {
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    const homes = first(candidates ?? [], hashOf(groupOf(piece)), this.#replicas);
    if (this.#known.size >= REMEMBERED) this.#known.delete(this.#known.keys().next().value as string);
    this.#known.set(key, homes);
    return homes;
  }
}

/** Neighbouring pieces of a blob have the same homes. */
const groupOf = ({ digest, index }: Piece): string => `${digest}/${Math.floor(index / GROUP_PIECES)}`;

function first(candidates: readonly Candidate[], group: Hash, count: number): string[] {
  const best: Array<{ id: string; clock: number }> = [];
  for (const { id, seed, weight } of candidates) {
    const clock = -Math.log(fraction(seed, group)) / weight;
    if (best.length === count && !isBefore({ id, clock }, best[count - 1])) continue;
    let at = Math.min(best.length, count - 1);
    while (at > 0 && isBefore({ id, clock }, best[at - 1])) {
      best[at] = best[at - 1] as { id: string; clock: number };
      at -= 1;
    }
    best[at] = { id, clock };
  }
  return best.map(({ id }) => id);
}

interface Ranked {
  readonly id: string;
  readonly clock: number;
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
