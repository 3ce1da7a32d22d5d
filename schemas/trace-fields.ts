/** Fields of requests and events that may have been asked for within a trace (trace-context.ts). */
import { z } from 'zod';
import { TRACEPARENT, TRACESTATE } from './trace-context.ts';

export const traceFields = {
  traceparent: z
    .string()
    .regex(TRACEPARENT)
    .optional()
    .describe("W3C Trace Context: the caller's trace and span; absent: it has none"),
  tracestate: z
    .string()
    .regex(TRACESTATE)
    .optional()
    .describe('W3C Trace Context: what tracing systems add for themselves'),
};
