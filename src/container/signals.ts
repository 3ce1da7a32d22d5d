/** Signals that reach `cofa run` while it sets a container up, while the container runs, and while it cleans up. */

import { Interrupted } from '../terminal/interrupted.ts';

/** After so many requests to stop, the container is killed: PID 1 of a container may ignore SIGINT and SIGTERM. */
const PATIENCE = 3;

export interface SignalRelay {
  /** Aborted (with `Interrupted`) by a signal to stop that comes before `deliverTo`. */
  readonly early: AbortSignal;
  /** From here on signals go to `send`; `kill` is called once patience has ended. */
  deliverTo(send: (signal: NodeJS.Signals) => void, kill: () => void): void;
  /** The last signal to stop that came, if any. */
  last(): NodeJS.Signals | undefined;
  /** Gives the signals back to Node. */
  close(): void;
}

/**
 * Takes over the signals of this process. It sends `stop` (the image's StopSignal) in place of SIGTERM, as `docker
 * stop` would.
 */
export function relaySignals(source: NodeJS.Process = process): SignalRelay {
  const early = new AbortController();
  let deliver: { send: (signal: NodeJS.Signals) => void; kill: () => void } | undefined;
  let last: NodeJS.Signals | undefined;
  let asked = 0;
  const handler = (signal: NodeJS.Signals) => {
    const stops = STOPPING.has(signal);
    if (stops) {
      last = signal;
      asked++;
    }
    if (deliver === undefined) {
      if (stops) early.abort(new Interrupted(signal));
      return;
    }
    if (stops && asked >= PATIENCE) deliver.kill();
    else deliver.send(signal);
  };
  for (const signal of RELAYED) source.on(signal, handler);
  return {
    early: early.signal,
    deliverTo(send, kill) {
      deliver = { send, kill };
    },
    last: () => last,
    close() {
      for (const signal of RELAYED) source.off(signal, handler);
    },
  };
}

const STOPPING: ReadonlySet<NodeJS.Signals> = new Set(['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT']);
const RELAYED: readonly NodeJS.Signals[] = [...STOPPING, 'SIGUSR1', 'SIGUSR2', 'SIGWINCH', 'SIGCONT'];

/**
 * The signal of an image's StopSignal: `SIGQUIT`, `QUIT` or `3`. Undefined for a name that Linux on this machine does
 * not have, and for real-time signals; the caller then uses SIGTERM.
 */
export function stopSignalOf(
  text: string | undefined,
  numbers: Readonly<Record<string, number>>,
): NodeJS.Signals | undefined {
  if (text === undefined) return undefined;
  const name = /^\d+$/.test(text)
    ? Object.keys(numbers).find((key) => numbers[key] === Number(text))
    : `SIG${text.toUpperCase().replace(/^SIG/, '')}`;
  return name !== undefined && numbers[name] !== undefined ? (name as NodeJS.Signals) : undefined;
}
