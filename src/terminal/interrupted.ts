/** Thrown where work stops because the user asked for it; the exit code is 128 + the signal's number. */
export class Interrupted extends Error {
  readonly exit: number;
  constructor(signal: NodeJS.Signals) {
    super(`interrupted by ${signal}`);
    this.name = 'Interrupted';
    this.exit = 128 + (NUMBERS[signal] ?? 2);
  }
}

const NUMBERS: Partial<Record<NodeJS.Signals, number>> = { SIGHUP: 1, SIGINT: 2, SIGQUIT: 3, SIGTERM: 15 };
