/**
 * Proofs of reading, for registries without tokens (actors/fleet-rights.ts). As a home this member names bytes of a piece that it
 * has, and looks at the answer. As an asker it keeps challenges until a process of the node has read those bytes from the
 * registry with its own credentials, and the answers until they are shown, once. No credential comes here.
 */
import { createHash, randomBytes } from 'node:crypto';
import { challengeOf, type FleetRights, proofText } from '../../actors/fleet-rights.ts';
import { pieceKey } from '../../actors/fleet-home-protocol.ts';
import type { BlobSource } from '../../schemas/fetch.ts';
import { bytesOfPiece, type FleetChallenge, type FleetProof, type PieceAnswer } from '../../schemas/fleet.ts';
import type { Pieces } from './pieces.ts';
import { Turns } from './turns.ts';

export interface ProofsOptions {
  self: string;
  rights: FleetRights;
  pieces: Pick<Pieces, 'read'>;
  /** ms. */
  now: () => number;
}

/** Pieces that are read for challenges at a time, each of them in memory, and questions that wait for that. */
const READS = 4;
const MOST_WAITING = 256;
const BUSY_MS = 250;
/** Challenges and answers that are kept. */
const MOST = 4_096;

export class Proofs {
  readonly #options: ProofsOptions;
  /** By member and blob, the last one at the end. */
  readonly #challenges = new Map<string, FleetChallenge>();
  readonly #answers = new Map<string, FleetProof>();
  readonly #reads = new Turns(READS, MOST_WAITING);

  constructor(options: ProofsOptions) {
    this.#options = options;
  }

  // ---- as a home

  /** What an asker is told that has to prove its right. `none` where this piece has no bytes that could not be guessed. */
  async ask(asker: string, source: BlobSource, index: number): Promise<PieceAnswer> {
    const { rights, now } = this.#options;
    const open = rights.openFor(asker, source, now());
    if (open !== undefined) return { index, state: 'prove', challenge: open };
    const release = await this.#reads.take('demand').catch(() => undefined);
    if (release === undefined) return { index, state: 'busy', ms: BUSY_MS };
    try {
      // Another question of this asker may have been answered meanwhile, before it was read and since.
      const openFor = () => rights.openFor(asker, source, now());
      const challenge = openFor() ?? (await this.#make(asker, source, index, openFor));
      return challenge === undefined ? { index, state: 'none' } : { index, state: 'prove', challenge };
    } finally {
      release();
    }
  }

  async #make(
    asker: string,
    source: BlobSource,
    index: number,
    openFor: () => FleetChallenge | undefined,
  ): Promise<FleetChallenge | undefined> {
    const { rights, pieces, now } = this.#options;
    const [start, end] = bytesOfPiece(index, source.size);
    const piece = await pieces.read(pieceKey(source, index), end - start).catch(() => undefined);
    const nonce = randomBytes(16).toString('hex');
    const made = piece === undefined ? undefined : challengeOf(nonce, piece.bytes, start, random);
    if (piece === undefined || made === undefined) return undefined;
    const open = openFor();
    if (open !== undefined) return open;
    const bytes = piece.bytes.subarray(made.from - start, made.to - start);
    rights.challenged(asker, source, made, answerTo(nonce, asker, bytes), now());
    return made;
  }

  /** An asker has come with an answer. */
  shown(asker: string, source: BlobSource, proof: FleetProof): void {
    const { rights, now } = this.#options;
    rights.proved(asker, source, proof, now());
  }

  // ---- as an asker

  /** A member wants a proof of this one. False: nothing can be read for it. */
  challenged(member: string, source: BlobSource, challenge: FleetChallenge | undefined): boolean {
    if (challenge === undefined || challenge.to > source.size) return false;
    remember(this.#challenges, keyOf(member, source), challenge);
    return true;
  }

  challengeOf(member: string, source: BlobSource): FleetChallenge | undefined {
    return this.#challenges.get(keyOf(member, source));
  }

  /** A process of this node has read what a challenge names. */
  read(source: BlobSource, nonce: string, bytes: Buffer): void {
    for (const [key, challenge] of this.#challenges) {
      if (challenge.nonce !== nonce || !key.endsWith(` ${blobKey(source)}`)) continue;
      this.#challenges.delete(key);
      if (bytes.length !== challenge.to - challenge.from) return;
      remember(this.#answers, key, { nonce, hash: answerTo(nonce, this.#options.self, bytes) });
      return;
    }
  }

  /** The answer for this member, to be shown once. */
  take(member: string, source: BlobSource): FleetProof | undefined {
    const key = keyOf(member, source);
    const proof = this.#answers.get(key);
    this.#answers.delete(key);
    return proof;
  }
}

const blobKey = ({ registry, repository, digest }: BlobSource): string =>
  `${registry} ${repository} ${digest}`;
const keyOf = (member: string, source: BlobSource): string => `${member} ${blobKey(source)}`;

function remember<Value>(map: Map<string, Value>, key: string, value: Value): void {
  map.delete(key);
  map.set(key, value);
  if (map.size > MOST) map.delete(map.keys().next().value as string);
}

const answerTo = (nonce: string, asker: string, bytes: Buffer): string =>
  createHash('sha256').update(proofText(nonce, asker)).update(bytes).digest('hex');

/** In [0, 1), and not to be foretold: who could tell which bytes are asked for would need no others. */
const random = (): number => randomBytes(4).readUInt32LE() / 2 ** 32;
