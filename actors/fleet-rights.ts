/**
 * Who has shown this member that it may have a blob of a repository. The registry decides, for each asker, by the asker's own
 * pull; that this member has the bytes gives no one a right to them, its own node neither.
 *
 * - **everyone**: the registry gives the blob without credentials. This member has asked.
 * - **a token** that came with a request: the registry gave the blob, or said that it would, for this token.
 * - **a proof**, where registries have no tokens: this member names some bytes of the blob by chance, the asker reads them
 *   from the registry, and sends a hash of them with the nonce and its own name. So the registry has just given the
 *   blob to it. A hash that another member was asked for does not serve.
 *
 * A right is for one asker, one repository and one blob, and ends after `knownMs`, that of everyone after `everyoneMs`; a
 * refusal after `deniedMs`, that of everyone after `refusedMs`. No token and nothing made of one is kept. While the registry does not answer, what it gave to
 * everyone within `staleMs` is everyone's still, and nothing else is given.
 */
import type { BlobSource } from '../schemas/fetch.ts';
import type { FleetChallenge, FleetProof } from '../schemas/fleet.ts';

export interface RightsLimits {
  everyoneMs: number;
  /** What a member has shown: a password that is taken back ends it. */
  knownMs: number;
  staleMs: number;
  /** A registry that did not answer is not asked again for so long. */
  unsaidMs: number;
  refusedMs: number;
  /** A refusal of one asker: its next container may come with a better token. */
  deniedMs: number;
  /** An answer to a challenge is taken for so long. */
  challengeMs: number;
  most: number;
}

export const FLEET_RIGHTS: RightsLimits = {
  everyoneMs: 600_000,
  knownMs: 60_000,
  staleMs: 3_600_000,
  unsaidMs: 30_000,
  refusedMs: 60_000,
  deniedMs: 2_000,
  challengeMs: 30_000,
  most: 65_536,
};

/** Bytes that a challenge names: too many to guess, few enough to read them beside anything. */
export const PROOF_BYTES = 4_096;
/** Different bytes that a challenge must have: a run of zeros is known to each who knows the format. */
const LEAST_VARIETY = 128;
const CHANCES = 8;

/** What is hashed: `nonce`, line, asker's id, line, bytes. */
export const proofText = (nonce: string, asker: string): string => `${nonce}\n${asker}\n`;

export type RightWord = 'yes' | 'no' | 'unknown';

interface Verdict {
  may: boolean;
  until: number;
  /** When the registry said so last. */
  saidAt: number;
}

interface Open {
  challenge: FleetChallenge;
  hash: string;
  until: number;
}

const EVERYONE = '*';

export class FleetRights {
  readonly #limits: RightsLimits;
  /** By blob, the one learned of last at the end, and asker: until when, and which. */
  readonly #known = new Map<string, Map<string, Verdict>>();
  #size = 0;
  readonly #open = new Map<string, Open>();

  constructor(limits: Partial<RightsLimits> = {}) {
    this.#limits = { ...FLEET_RIGHTS, ...limits };
  }

  /** Whether this asker may have the blob. `no`: its registry has just refused it. */
  of(asker: string, source: BlobSource, now: number): RightWord {
    const askers = this.#known.get(blobOf(source));
    return wordOf(askers?.get(EVERYONE), now) === 'yes' ? 'yes' : wordOf(askers?.get(asker), now);
  }

  /** Whether the registry gives the blob without credentials. */
  everyone(source: BlobSource, now: number): RightWord {
    return wordOf(this.#known.get(blobOf(source))?.get(EVERYONE), now);
  }

  /** The registry has decided. */
  learned(asker: string, source: BlobSource, may: boolean, now: number): void {
    const { knownMs, everyoneMs, refusedMs, deniedMs } = this.#limits;
    const [yesMs, noMs] = asker === EVERYONE ? [everyoneMs, refusedMs] : [knownMs, deniedMs];
    this.#remember(asker, source, { may, until: now + (may ? yesMs : noMs), saidAt: now });
  }

  learnedOfEveryone(source: BlobSource, may: boolean, now: number): void {
    this.learned(EVERYONE, source, may, now);
  }

  /** The registry was asked about everyone and did not answer. */
  unsaidOfEveryone(source: BlobSource, now: number): void {
    const { staleMs, unsaidMs } = this.#limits;
    const { may = false, saidAt = Number.NEGATIVE_INFINITY } =
      this.#known.get(blobOf(source))?.get(EVERYONE) ?? {};
    this.#remember(EVERYONE, source, { may: may && now - saidAt < staleMs, until: now + unsaidMs, saidAt });
  }

  /** The challenge that this asker has been sent for the blob and may still answer: its other asks get the same one. */
  openFor(asker: string, source: BlobSource, now: number): FleetChallenge | undefined {
    const open = this.#open.get(keyOf(asker, source));
    return open !== undefined && now < open.until ? open.challenge : undefined;
  }

  /** A challenge is sent; `hash` is the answer to it. */
  challenged(asker: string, source: BlobSource, challenge: FleetChallenge, hash: string, now: number): void {
    const until = now + this.#limits.challengeMs;
    remember(this.#open, keyOf(asker, source), { challenge, hash, until }, this.#limits.most);
  }

  /** Each challenge takes one answer; one to an earlier challenge takes nothing. True: the asker has the right from now on. */
  proved(asker: string, source: BlobSource, proof: FleetProof, now: number): boolean {
    const key = keyOf(asker, source);
    const open = this.#open.get(key);
    if (open === undefined || proof.nonce !== open.challenge.nonce) return false;
    const isRight = now < open.until && proof.hash === open.hash;
    // One that does not know these bytes may know others: it gets no other challenge before this one's time is over.
    if (isRight) this.#open.delete(key);
    else open.hash = '';
    if (!isRight) return false;
    this.learned(asker, source, true, now);
    return true;
  }

  #remember(asker: string, source: BlobSource, verdict: Verdict): void {
    const blob = blobOf(source);
    const askers = this.#known.get(blob) ?? new Map<string, Verdict>();
    this.#known.delete(blob);
    this.#known.set(blob, askers);
    if (!askers.delete(asker)) this.#size += 1;
    askers.set(asker, verdict);
    if (this.#size > this.#limits.most) this.#forgetOne();
  }

  /** The oldest of the blob of which nothing was learned for longest. */
  #forgetOne(): void {
    const [blob, askers] = this.#known.entries().next().value as [string, Map<string, Verdict>];
    askers.delete(askers.keys().next().value as string);
    this.#size -= 1;
    if (askers.size === 0) this.#known.delete(blob);
  }
}

function wordOf(known: Verdict | undefined, now: number): RightWord {
  if (known === undefined || now >= known.until) return 'unknown';
  return known.may ? 'yes' : 'no';
}

/** No letter of a member's name, a registry or a repository is a space. */
const blobOf = ({ registry, repository, digest }: BlobSource): string =>
  `${registry} ${repository} ${digest}`;
const keyOf = (asker: string, source: BlobSource): string => `${asker} ${blobOf(source)}`;

/**
 * Bytes of a piece for a challenge, `[from, to)` of the blob; undefined where the piece has none that could not be guessed.
 * `start`: of the piece in the blob. `random`: in [0, 1).
 */
export function challengeOf(
  nonce: string,
  bytes: Uint8Array,
  start: number,
  random: () => number,
): FleetChallenge | undefined {
  for (let chance = 0; chance < CHANCES; chance++) {
    const length = Math.min(PROOF_BYTES, bytes.length);
    const from = Math.floor(random() * (bytes.length - length + 1));
    const variety = new Set(bytes.subarray(from, from + length)).size;
    if (variety >= LEAST_VARIETY) return { nonce, from: start + from, to: start + from + length };
  }
  return undefined;
}

function remember<Value>(map: Map<string, Value>, key: string, value: Value, most: number): void {
  map.delete(key);
  map.set(key, value);
  if (map.size > most) map.delete(map.keys().next().value as string);
}
