/**
 * How urgent a node's member of a fleet is: as urgent as other programs while processes of its own node wait for it, and less
 * than the node's containers where only other nodes do. At 1 Gbit/s a home takes a third of a processor; a container on a busy
 * node would be slowed by that, for reads that are none of its own. Time comes in with each call.
 */
export type Urgency = 'normal' | 'low';

/** Starts come in many reads: it stays urgent for so long after the last one that was waited for, ms. */
const OWN_MS = 1_000;

export class FleetUrgency {
  #urgency: Urgency = 'normal';
  #ownAt: number;

  /** A member that starts is waited for by its node. */
  constructor(now: number) {
    this.#ownAt = now;
  }

  /** A process of the node asks for a piece, or waits (`isWaiting`, now and then). Returns the urgency where it is another from now on. */
  look(now: number, isWaiting: boolean): Urgency | undefined {
    if (isWaiting) this.#ownAt = now;
    const urgency = isWaiting || now - this.#ownAt < OWN_MS ? 'normal' : 'low';
    if (urgency === this.#urgency) return undefined;
    this.#urgency = urgency;
    return urgency;
  }
}
