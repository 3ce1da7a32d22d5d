/** Sends what this member says to others, at the end of each turn of the event loop: what is said in one turn are few messages (actors/fleet-outbox.ts). */
import { Outbox } from '../../actors/fleet-outbox.ts';
import type { Said } from './messages.ts';

export class Post {
  readonly #outbox = new Outbox<Said>();
  readonly #send: (to: string, said: Said) => void;

  /** `send`: brings a message on its way, and throws nothing. */
  constructor(send: (to: string, said: Said) => void) {
    this.#send = send;
  }

  /** To another member. It may get lost. */
  send(to: string, said: Said): void {
    if (this.#outbox.add(to, said)) setImmediate(() => this.#flush());
  }

  #flush(): void {
    for (const [to, said] of this.#outbox.take()) this.#send(to, said);
  }
}
