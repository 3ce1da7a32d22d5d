/** What went wrong lately, as `cofa doctor` tells it. */
import { toErrorRecord } from '../../schemas/errors.ts';
import { IncidentFolder } from '../incidents/folder.ts';
import { summaryOf } from '../incidents/summary.ts';
import { Layout } from '../store/layout.ts';
import { formatDuration } from '../terminal/table.ts';
import type { Check } from './doctor-checks.ts';

/** Of the last day. */
const RECENT_MS = 24 * 3_600_000;
const DAY = 'the last 24 hours';

/** `now`: ms since the epoch. */
export async function checkIncidents(root: string, now: number): Promise<Check> {
  const name = 'incidents';
  try {
    const { incidents } = await new IncidentFolder(new Layout(root).incidents()).list();
    const recent = incidents.filter(({ facts }) => now - facts.incident.lastAt < RECENT_MS);
    const last = recent.at(-1)?.facts.incident;
    if (last === undefined) return { name, state: 'ok', found: `none in ${DAY}` };
    const ago = formatDuration(Math.max(0, now - last.lastAt));
    return {
      name,
      state: 'warn',
      found: `${recent.length} in ${DAY}, the last ${ago} ago: ${summaryOf(last)}`,
      means: 'something failed, or was slow; the stretch of the log around it is kept',
      fix: 'cofa incidents show',
    };
  } catch (error) {
    // A user who is not root cannot look.
    return { name, state: 'ok', found: `not known: ${toErrorRecord(error).message}` };
  }
}
