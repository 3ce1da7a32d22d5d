/**
 * Who is in the node's fleet, as facts in the log. The member's process says each change at once; here the log is told
 * what is different from what it knows, so that nothing is lost where it is away, and members that come and go all the time
 * cost it little.
 */
import type { Logger } from 'pino';
import { Allowance } from '../../../actors/allowance.ts';
import type { EventOf, NewEvent } from '../../../schemas/events.ts';
import type { FleetNews } from '../../process/parent-link.ts';
import type { Clock, Timer } from '../../process/ports.ts';
import type { LiveFold } from '../../store/live-fold.ts';
import type { End } from '../end.ts';

type Came = EventOf<'fleet.changed'>['came'][number];
type LeftOut = Extract<NewEvent, { type: 'fleet.left-out' }>;

/** Changes within this are one event, ms. Of a member that starts anew nothing is told but its new address. */
const GATHER_MS = 3_000;
/** Members of one event: it fits into a message of NATS. */
const MOST_CHANGES = 256;
const ALLOWED = { burst: 24, refillMs: 60_000 };
const RETRY_MS = 1_000;
/** Of those that wait for the log. */
const MOST_LEFT_OUT = 64;
const MOST_MEMBERS = 20_000;

export class FleetEvents {
  readonly #clock: Clock;
  readonly #log: Logger;
  #append: LiveFold['append'] | undefined;
  /** By name, as it is and as the log has it; undefined: the log has those of an earlier process. */
  readonly #members = new Map<string, Came>();
  #told: Map<string, string> | undefined;
  readonly #leftOut: LeftOut[] = [];
  readonly #allowed = new Allowance(ALLOWED);
  #timer: Timer | undefined;
  #isWriting = false;
  /** There is nothing to tell before the member has said anything. */
  #hasNews = false;

  constructor(options: { log: Logger; end: End; ports: { clock: Clock } }) {
    const { log, end, ports } = options;
    this.#clock = ports.clock;
    this.#log = log;
    end.at('background', () => this.close());
  }

  /** The log takes events from now on. */
  open(live: Pick<LiveFold, 'append'>): void {
    this.#append = live.append.bind(live);
    this.#schedule(GATHER_MS);
  }

  /** Nothing more is written. */
  close(): void {
    this.#append = undefined;
    this.#timer?.cancel();
  }

  /** The member's process has started: what an earlier one knew it finds out by itself. */
  begins(): void {
    this.#members.clear();
  }

  take(news: FleetNews): void {
    if ('leftOut' in news) {
      const { name, until, blob, piece } = news.leftOut;
      this.#leftOut.push({ type: 'fleet.left-out', name, until, blob, piece });
      if (this.#leftOut.length > MOST_LEFT_OUT) this.#leftOut.shift();
    } else if ('gone' in news) this.#members.delete(news.gone);
    else if (this.#members.size < MOST_MEMBERS) {
      const { name, zone, role, address } = news.came;
      this.#members.set(name, { name, zone, role, address });
    }
    this.#hasNews = true;
    this.#schedule(GATHER_MS);
  }

  #schedule(ms: number): void {
    if (this.#append === undefined || this.#isWriting || !this.#hasNews) return;
    this.#timer ??= this.#clock
      .after(ms, () => {
        this.#timer = undefined;
        void this.#write();
      })
      .unref();
  }

  async #write(): Promise<void> {
    this.#isWriting = true;
    let nextMs: number | undefined;
    try {
      for (;;) {
        const [leftOut] = this.#leftOut;
        const change = leftOut === undefined ? this.#change() : undefined;
        if (this.#append === undefined || (leftOut === undefined && change === undefined)) return;
        nextMs = this.#allowed.waitMs(this.#clock.now());
        if (nextMs > 0) return;
        nextMs = RETRY_MS;
        await this.#append('main', leftOut ?? (change as NonNullable<typeof change>).event);
        nextMs = undefined;
        this.#allowed.take(this.#clock.now());
        if (leftOut === undefined) change?.isTold();
        else if (this.#leftOut[0] === leftOut) this.#leftOut.shift();
      }
    } catch (error) {
      this.#log.debug({ error }, 'facts about the fleet wait for the log');
    } finally {
      this.#isWriting = false;
      if (nextMs !== undefined) this.#schedule(nextMs);
    }
  }

  /** What is different from what the log has; undefined: nothing. */
  #change(): { event: Extract<NewEvent, { type: 'fleet.changed' }>; isTold: () => void } | undefined {
    const told = this.#told ?? new Map<string, string>();
    const came = [...this.#members.values()]
      .filter((one) => told.get(one.name) !== keyOf(one))
      .slice(0, MOST_CHANGES);
    const gone = [...told.keys()].filter((name) => !this.#members.has(name)).slice(0, MOST_CHANGES);
    if (came.length + gone.length === 0) return undefined;
    const whole = this.#told === undefined ? { whole: true as const } : {};
    return {
      event: { type: 'fleet.changed', ...whole, came, gone },
      isTold: () => {
        this.#told = told;
        for (const name of gone) told.delete(name);
        for (const one of came) told.set(one.name, keyOf(one));
      },
    };
  }
}

const keyOf = ({ zone, role, address }: Came): string => `${zone} ${role} ${address}`;
