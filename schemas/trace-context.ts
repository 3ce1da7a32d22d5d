/**
 * A trace that a caller has begun, as W3C's Trace Context writes it (https://www.w3.org/TR/trace-context-1/): which of its
 * spans asked for something. It comes from outside (gRPC metadata, headers of NATS, the environment), so what does not keep
 * to the grammar is passed over, as the standard wants it: no call fails for its trace.
 */

/** What a caller says of its trace. */
export interface TraceContext {
  /** Version 00: `00-<trace id>-<span id>-<flags>`, in hex digits. */
  traceparent: string;
  /** What tracing systems add for themselves; absent: nothing. */
  tracestate?: string | undefined;
}

/** The parts of a `traceparent`. */
export interface TraceParent {
  /** 32 hex digits. */
  traceId: string;
  /** 16 hex digits: of the caller's span. */
  spanId: string;
  /** Whether the caller records its trace. */
  isSampled: boolean;
}

/** What is kept of it. */
export const TRACEPARENT = /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;
/** Later versions begin with the same fields; what follows them is not known. `ff` is none. */
const ANY_VERSION =
  /^(?!ff)(?<version>[0-9a-f]{2})-(?<ids>(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16})-(?<flags>[0-9a-f]{2})(?<rest>-.*)?$/;
/** Letters of a `traceparent` that are looked at. */
const LONGEST_PARENT = 256;

/** What is kept of a `tracestate`; `isTracestate` says the whole grammar. */
export const TRACESTATE = /^[\x20-\x7e]{1,512}$/;
/** Of a `tracestate`. */
const MOST_MEMBERS = 32;
const MEMBER =
  /^(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]$/;

/** What was said, where it is a trace; undefined where it is none. Never throws. */
export function traceContextOf(traceparent: unknown, tracestate?: unknown): TraceContext | undefined {
  if (typeof traceparent !== 'string' || traceparent.length > LONGEST_PARENT) return undefined;
  const { version, ids, flags, rest } = ANY_VERSION.exec(traceparent)?.groups ?? {};
  if (ids === undefined || (version === '00' && rest !== undefined)) return undefined;
  const own = { traceparent: `00-${ids}-${version === '00' ? flags : flagsOf(flags)}` };
  return typeof tracestate === 'string' && isTracestate(tracestate) ? { ...own, tracestate } : own;
}

/** Of another version only the first flag means the same. */
const flagsOf = (flags = '00'): string => (Number.parseInt(flags, 16) & 1 ? '01' : '00');

/** Whether it keeps to the standard's grammar and lengths. */
function isTracestate(text: string): boolean {
  if (!TRACESTATE.test(text)) return false;
  const members = text
    .split(',')
    .map((member) => member.replace(/^[ \t]+|[ \t]+$/g, ''))
    .filter((member) => member !== '');
  return (
    members.length > 0 && members.length <= MOST_MEMBERS && members.every((member) => MEMBER.test(member))
  );
}

/** The parts of a `traceparent` of version 00. */
export function parentOf({ traceparent }: TraceContext): TraceParent {
  const [, traceId = '', spanId = '', flags = ''] = traceparent.split('-');
  return { traceId, spanId, isSampled: (Number.parseInt(flags, 16) & 1) === 1 };
}

/** The fields of a request or an event, where it has a trace. */
export function contextIn({
  traceparent,
  tracestate,
}: {
  traceparent?: string | undefined;
  tracestate?: string | undefined;
}): TraceContext | undefined {
  if (traceparent === undefined) return undefined;
  return tracestate === undefined ? { traceparent } : { traceparent, tracestate };
}
