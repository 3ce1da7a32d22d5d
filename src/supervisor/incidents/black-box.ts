/** Starts the black box (src/black-box/main.ts) for one look at the log, at idle priority. */
import { KEEPING } from '../../incidents/orders.ts';
import { setProcessPriority } from '../../kernel/priority.ts';
import { askForked, startForked } from '../../process/forked.ts';
import { NODE_FLAGS } from '../../process/node-flags.ts';
import type { KeepIncidents } from './watch.ts';

/** On a busy machine it has what others leave. */
const SILENCE_MS = 900_000;
/** A machine may be busy for hours, and then it is what is of interest: after this it gets a small share, ms. */
const PATIENCE_MS = 60_000;
/** The state in front of a stretch, and the files of the images that its reads waited for. */
const HEAP_MIB = 768;

export const keepIncidents: KeepIncidents = async (order, { signal, isUrgent }) => {
  const child = startForked({
    program: new URL('../../black-box/main.ts', import.meta.url),
    heapMiB: HEAP_MIB,
    flags: NODE_FLAGS,
    ownSession: true,
  });
  const { pid } = child;
  if (pid !== undefined && !isUrgent) setProcessPriority(pid, 'idle');
  const patience = setTimeout(() => {
    if (pid !== undefined && !isUrgent && child.exitCode === null) setProcessPriority(pid, 'low');
  }, PATIENCE_MS).unref();
  try {
    return await askForked(child, KEEPING, order, { what: 'the black box', silenceMs: SILENCE_MS, signal });
  } finally {
    clearTimeout(patience);
  }
};
