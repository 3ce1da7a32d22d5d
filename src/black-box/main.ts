/**
 * The black box: the process that keeps incidents (src/incidents/keep.ts). The supervisor starts it when the log tells of one, at
 * idle priority; nothing waits for it.
 */
import { version } from '../client/version.ts';
import { pathsOfRoot } from '../image/file-paths.ts';
import { keepIncidents } from '../incidents/keep.ts';
import { type KeepOrder, KEEPING, type Kept } from '../incidents/orders.ts';
import { serveForked } from '../process/forked.ts';
import { createLog } from '../process/log.ts';
import { openLiveLog } from '../replay/live-log.ts';
import { Layout } from '../store/layout.ts';

/** Errors: those of reaching the engine and of reading its log. */
async function keep(
  { root, bytes, count, slowMs }: KeepOrder,
  note: (events: number) => void,
): Promise<Kept> {
  const log = createLog('black-box', 'warn');
  const live = await openLiveLog({ root });
  try {
    return await keepIncidents({
      live,
      dir: new Layout(root).incidents(),
      budget: { bytes, count },
      slowMs: slowMs === 0 ? Number.POSITIVE_INFINITY : slowMs,
      cofa: version(),
      now: Date.now,
      pathsOf: pathsOfRoot(root),
      onProgress: note,
      onLost: (error) => log.warn({ error }, 'an incident could not be kept'),
    });
  } finally {
    await live.close();
  }
}

if (import.meta.main) await serveForked(KEEPING, keep);
