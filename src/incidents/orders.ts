/** What the supervisor orders from the black box, and what that answers (src/process/forked.ts). */
import { INCIDENT_KINDS, type IncidentKind } from '../../actors/incident-triggers.ts';
import { count, fields, list, maybe, name, oneOf, type Shape, text } from '../../schemas/shapes.ts';

const most = Number.MAX_SAFE_INTEGER;

/** Look at the log from where the last look ended, and keep what is an incident. */
export interface KeepOrder {
  root: string;
  /** Bytes and number of incidents that are kept at most. */
  bytes: number;
  count: number;
  /** A start that waits for cofa so long is slow, ms; 0: none is. */
  slowMs: number;
}

export interface Kept {
  /** The incidents that were written. */
  kept: Array<{ name: string; kind: IncidentKind }>;
  /** Incidents that found no room on the disk. */
  lost: number;
  /** The last one may still grow: look again after this, ms. */
  againMs?: number | undefined;
}

export const KEEPING = {
  isOrder: fields({
    root: text(4_096),
    bytes: count(0, most),
    count: count(0, most),
    slowMs: count(0, most),
  }) as Shape<KeepOrder>,
  /** Events that were looked at. */
  isNote: count(0, most) as Shape<number>,
  isResult: fields({
    kept: list(fields({ name, kind: oneOf(INCIDENT_KINDS) }), 10_000),
    lost: count(0, most),
    againMs: maybe(count(0, most)),
  }) as Shape<Kept>,
};
