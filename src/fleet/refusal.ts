/** Why there are no bytes, as one member says it to another: a state of schemas/fleet.ts, and a sentence. */
import { type FleetChallenge, PIECE_STATUS, type PieceState } from '../../schemas/fleet.ts';

export type NoPiece = Exclude<PieceState, 'have'>;

export class Refusal extends Error {
  readonly state: NoPiece;
  /** With `prove`. */
  readonly challenge: FleetChallenge | undefined;

  constructor(state: NoPiece, message: string, challenge?: FleetChallenge) {
    super(message);
    this.challenge = challenge;
    this.name = 'Refusal';
    this.state = state;
  }
}

/** The state that an HTTP status stands for; `none` for any other. */
export const stateOf = (status: number): NoPiece =>
  (Object.entries(PIECE_STATUS) as Array<[NoPiece, number]>).find(([, one]) => one === status)?.[0] ?? 'none';
