/** What an engine keeps of incidents: options of `cofa up`. */
import { CofaError } from '../../schemas/errors.ts';
import type { IncidentSettings } from '../supervisor/options.ts';
import { byteOption } from './byte-option.ts';
import { numberOption } from './context.ts';

export interface IncidentFlags {
  incidents: boolean;
  incidentsLimit: number;
  incidentsCount: number;
  slowStart: number;
}

const LEAST_BYTES = 2 ** 20;
const sizeOf = byteOption('--incidents-limit');

export const INCIDENT_OPTIONS = [
  // Said where a file of settings says the contrary.
  { flags: '--incidents', about: '', fallback: true, hidden: true },
  {
    flags: '--no-incidents',
    about: 'keep nothing of the event log around failures: cofa incidents',
    kind: 'boolean',
    sample: 'true',
  },
  {
    flags: '--incidents-limit <size>',
    about: 'all incidents may take so much of the disk, such as 64M; the oldest are removed',
    parse: (text: string) => {
      const bytes = sizeOf(text);
      if (bytes >= LEAST_BYTES) return bytes;
      throw new CofaError('invalid-argument', `--incidents-limit: ${text} is less than 1Mi`);
    },
    fallback: 64 * 2 ** 20,
    fallbackWords: '64MiB',
    kind: 'size',
  },
  {
    flags: '--incidents-count <n>',
    about: 'keep so many incidents',
    parse: numberOption('--incidents-count', { min: 1, max: 10_000, integer: true }),
    fallback: 100,
    kind: 'number',
  },
  {
    flags: '--slow-start <s>',
    about: 'a start that waits for cofa so long is an incident; 0: none is',
    parse: numberOption('--slow-start', { min: 0, max: 3600, integer: false }),
    fallback: 10,
    kind: 'number',
  },
] as const;

/** Undefined: none are kept. */
export function incidentChoice(flags: IncidentFlags): IncidentSettings | undefined {
  const { incidents, incidentsLimit: bytes, incidentsCount: count, slowStart } = flags;
  return incidents ? { bytes, count, slowMs: Math.round(slowStart * 1000) } : undefined;
}
