/**
 * Pauses between the rounds of a rehearsal: while other tasks wait for a processor the next round has time, up to a limit.
 * Several processes rehearse at once, and pause for each other as well. The limit is short: a start that comes before the end
 * of the rehearsals pays more for that than for their company. Figures come in with each call.
 */
export interface RehearsalPaceLimits {
  /** Pause behind each round, ms. */
  pauseMs: number;
  /** Share of a pause in which tasks waited, from which on another pause follows. */
  share: number;
  /** Pauses behind one round, ms. */
  limitMs: number;
}

export const REHEARSAL_PACE: RehearsalPaceLimits = { pauseMs: 10, share: 0.15, limitMs: 50 };

/**
 * How long the pause is that follows pauses of `pausedMs` since the last round, ms; 0: the next round may begin. `waitedMs`: how
 * long tasks have waited in the last pause; undefined where the machine does not say.
 */
export function rehearsalPause(
  pausedMs: number,
  waitedMs: number | undefined,
  { pauseMs, share, limitMs }: RehearsalPaceLimits = REHEARSAL_PACE,
): number {
  if (pausedMs === 0) return pauseMs;
  const isBusy = waitedMs !== undefined && waitedMs >= share * pauseMs;
  return isBusy && pausedMs < limitMs ? pauseMs : 0;
}
