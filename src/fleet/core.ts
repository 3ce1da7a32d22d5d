/**
 * The two actors of a member, which decide (actors/fleet-asker.ts, actors/fleet-home.ts), and the one way to them: events are
 * taken one after the other, the effects of each are run before the next, and the actors are woken when something is due.
 */
import type { Asker } from '../../actors/fleet-asker.ts';
import type { AskerEffect, AskerEvent } from '../../actors/fleet-asker-protocol.ts';
import type { Home } from '../../actors/fleet-home.ts';
import type { HomeEffect, HomeEvent } from '../../actors/fleet-home-protocol.ts';
import type { Clock, Timer } from '../process/ports.ts';

/** Without the time, which is that of its turn. */
type Untimed<Event> = Event extends unknown ? Omit<Event, 'now'> : never;
export type AskerNews = Untimed<AskerEvent>;
export type HomeNews = Untimed<HomeEvent>;

export interface CoreOptions {
  asker: Asker;
  home: Home;
  clock: Pick<Clock, 'now' | 'after'>;
  /** Runs an effect: starts what takes time, and throws nothing. */
  runAsker: (effect: AskerEffect) => void;
  runHome: (effect: HomeEffect) => void;
}

export class Core {
  readonly #options: CoreOptions;
  readonly #news: Array<() => void> = [];
  #isBusy = false;
  #isClosed = false;
  #wake: Timer | undefined;
  #wakeAt = Number.POSITIVE_INFINITY;

  constructor(options: CoreOptions) {
    this.#options = options;
  }

  toAsker(news: AskerNews): void {
    const { asker, clock, runAsker } = this.#options;
    this.#take(() => {
      for (const effect of asker.handle({ ...news, now: clock.now() } as AskerEvent)) runAsker(effect);
    });
  }

  toHome(news: HomeNews): void {
    const { home, clock, runHome } = this.#options;
    this.#take(() => {
      for (const effect of home.handle({ ...news, now: clock.now() } as HomeEvent)) runHome(effect);
    });
  }

  close(): void {
    this.#isClosed = true;
    this.#wake?.cancel();
  }

  #take(run: () => void): void {
    if (this.#isClosed) return;
    this.#news.push(run);
    if (this.#isBusy) return;
    this.#isBusy = true;
    try {
      for (let next = this.#news.shift(); next !== undefined; next = this.#news.shift()) next();
    } finally {
      this.#isBusy = false;
    }
    this.#setWake();
  }

  #setWake(): void {
    const { asker, home, clock } = this.#options;
    const at = Math.min(asker.nextWake, home.nextWake);
    if (at === this.#wakeAt) return;
    this.#wake?.cancel();
    this.#wakeAt = at;
    this.#wake = Number.isFinite(at)
      ? clock
          .after(Math.max(0, at - clock.now()), () => {
            this.#wakeAt = Number.POSITIVE_INFINITY;
            this.toAsker({ type: 'tick' });
            this.toHome({ type: 'tick' });
          })
          .unref()
      : undefined;
  }
}
