/** Members that sent wrong bytes, over a restart of this one: `ROOT/fleet/liars.json`, each with the time until which it is left out. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { z } from 'zod';
import { PEER_LIMITS, type Peers } from '../../actors/fleet-peers.ts';
import { toErrorRecord } from '../../schemas/errors.ts';
import { FLEET_TOKEN } from '../../schemas/fleet.ts';
import type { Clock } from '../process/ports.ts';
import { writeWhole } from '../store/layout.ts';

export interface LiarsOptions {
  /** ROOT/fleet */
  dir: string;
  peers: Peers;
  clock: Pick<Clock, 'now' | 'wallMs'>;
  log: Logger;
}

const MOST = 256;
/** By member: until when it is left out, ms since 1970. */
const Saved = z.record(z.string().regex(FLEET_TOKEN), z.number());

/** Those that `peers` leaves out since they sent wrong bytes. */
export class Liars {
  readonly #options: LiarsOptions;
  #saving: Promise<void> = Promise.resolve();

  constructor(options: LiarsOptions) {
    this.#options = options;
  }

  get names(): string[] {
    return this.#now().map(({ member }) => member);
  }

  has(member: string): boolean {
    return this.names.includes(member);
  }

  /** Those that an earlier process has left out, for what is left of their time. What cannot be read counts as nothing. */
  async load(): Promise<void> {
    const { peers, clock, log } = this.#options;
    try {
      const saved = Saved.parse(JSON.parse(await readFile(this.#path, 'utf8')));
      for (const [member, until] of Object.entries(saved).slice(0, MOST)) {
        // A clock that was set back leaves no one out for longer.
        const leftMs = Math.min(until - clock.wallMs(), PEER_LIMITS.wrongMs);
        if (leftMs > 0) peers.wrongUntil(member, clock.now() + leftMs);
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT')
        log.warn({ error: toErrorRecord(error) }, 'who sent wrong bytes before is not known any more');
    }
  }

  /** Keeps who is left out now. */
  save(): void {
    const { clock, log } = this.#options;
    const ahead = clock.wallMs() - clock.now();
    const saved = Object.fromEntries(
      this.#now()
        .slice(0, MOST)
        .map(({ member, until }) => [member, Math.round(until + ahead)]),
    );
    this.#saving = this.#saving
      .then(() => writeWhole(this.#path, Buffer.from(JSON.stringify(saved))))
      .catch((error: unknown) => log.warn({ error: toErrorRecord(error) }, 'who lied is not kept'));
  }

  get #path(): string {
    return join(this.#options.dir, 'liars.json');
  }

  #now() {
    const { peers, clock } = this.#options;
    return peers.leftOut(clock.now()).filter(({ reason }) => reason === 'wrong');
  }
}
