/** Repeats a part of a start in a process that has nothing else to do; see rehearsal.ts. */
import { rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { rehearsalPause } from '../../../actors/rehearsal-pace.ts';
import { readPressure } from '../../kernel/pressure.ts';
import { Layout } from '../../store/layout.ts';

/** V8 has compiled what matters by then. */
const ROUNDS = 12;
/** From the start of the process, ms: an engine that has just begun may have something to do at once. */
const CALM_MS = 1_000;

export interface Rehearsal {
  /** State of the engine. */
  root: string;
  /** Of the process: each has a folder of its own. */
  name: string;
  /** Aborted when there is real work: the rehearsal ends with its present round. */
  signal: AbortSignal;
}

/** Repeats `round` with a folder for it, which is removed afterwards. Throws what goes wrong in it. */
export async function repeat(
  { root, name, signal }: Rehearsal,
  round: (layout: Layout) => Promise<void>,
): Promise<void> {
  await sleep(CALM_MS, undefined, { ref: false });
  if (signal.aborted) return;
  const layout = new Layout(new Layout(root).in('run', `rehearsal-${name}`));
  try {
    for (let n = 0; n < ROUNDS && !signal.aborted; n++) {
      await round(layout);
      await pause(signal);
    }
  } finally {
    await rm(layout.root, { recursive: true, force: true });
  }
}

/** Others have the processor as well, and for longer where they wait for it. */
async function pause(signal: AbortSignal): Promise<void> {
  let paused = 0;
  let waitedMs: number | undefined;
  for (;;) {
    const ms = rehearsalPause(paused, waitedMs);
    if (ms === 0 || signal.aborted) return;
    const before = readPressure();
    await sleep(ms, undefined, { ref: false, signal }).catch(() => {});
    paused += ms;
    const after = readPressure();
    waitedMs = before === undefined || after === undefined ? undefined : after.cpuMs - before.cpuMs;
  }
}
