/** What `cofa mount` and `cofa run` say of an image, as the engine takes it. */
import { type TraceContext, traceContextOf } from '../../schemas/trace-context.ts';
import type { TrustPolicy } from '../../schemas/trust.ts';
import type { ImageRequest } from '../container/run.ts';
import type { Prefetch } from './prefetch-option.ts';

export interface ImageOptions {
  platform?: string;
  prefetch?: Prefetch;
  trust?: TrustPolicy;
}

export function imageRequest(ref: string, { platform, prefetch = true, trust }: ImageOptions): ImageRequest {
  const prefetchLimit = typeof prefetch === 'number' ? prefetch : undefined;
  return { ref, platform, trust, prefetch: prefetch !== false, prefetchLimit, ...callersTrace() };
}

/** The trace of the program that has started this one, as OpenTelemetry passes it on by the environment. */
export const callersTrace = (): TraceContext | undefined =>
  traceContextOf(process.env.TRACEPARENT, process.env.TRACESTATE);
