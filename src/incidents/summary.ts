/** An incident in a line. */
import { INCIDENT_KINDS } from '../../actors/incident-triggers.ts';
import type { Incident, IncidentCause } from '../../actors/incidents.ts';
import { shortDigest } from '../terminal/table.ts';

export const KIND_WORDS: Record<Incident['kind'], string> = {
  integrity: 'integrity',
  eio: 'EIO',
  crash: 'crash',
  'slow-start': 'slow start',
};

/** Causes, the gravest first. */
export const byGravity = ({ causes }: Pick<Incident, 'causes'>): IncidentCause[] =>
  [...causes].sort(
    (a, b) => INCIDENT_KINDS.indexOf(a.kind) - INCIDENT_KINDS.indexOf(b.kind) || a.seq - b.seq,
  );

/** How often in all: events, failed reads, refused fetches. */
export const timesOf = ({ causes }: Pick<Incident, 'causes'>): number =>
  causes.reduce((sum, { times }) => sum + times, 0);

export function summaryOf(incident: Pick<Incident, 'causes'>): string {
  const [first, ...others] = byGravity(incident);
  if (first === undefined) return '';
  const also = others.length === 0 ? '' : `; ${others.slice(0, 3).map(inWords).join('; ')}`;
  return `${inWords(first)}${also}${others.length > 3 ? '; …' : ''}`;
}

function inWords({ kind, of, detail, times }: IncidentCause): string {
  const often = times === 1 ? '' : ` (${times} times)`;
  switch (kind) {
    case 'crash':
      return of === 'supervisor' ? 'the engine crashed' : `${of}: ${detail}${often}`;
    case 'eio':
      return `${times === 1 ? 'a read' : `${times} reads`} of layer ${shortDigest(of)} failed`;
    case 'integrity':
      return `${/^[0-9a-f]{64}$/.test(of) ? shortDigest(of) : of}: ${detail}${often}`;
    case 'slow-start':
      return `the start of ${detail} was slow`;
  }
}
