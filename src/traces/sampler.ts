/** Which traces are sent: the samplers of OpenTelemetry's specification that decide by themselves. */
import { parentOf } from '../../schemas/trace-context.ts';
import type { SpanTree } from '../../actors/spans.ts';

export const SAMPLERS = [
  'always_on',
  'always_off',
  'traceidratio',
  'parentbased_always_on',
  'parentbased_always_off',
  'parentbased_traceidratio',
] as const;

export interface SamplerSettings {
  name: (typeof SAMPLERS)[number];
  /** Of traces by their id, 0 to 1; for the samplers that have one. */
  ratio: number;
}

/** Whether a tree is sent. Of a trace that a caller has begun, the caller decides, where the sampler is `parentbased`. */
export function isSampled(
  { name, ratio }: SamplerSettings,
  { context, traceId }: Pick<SpanTree, 'context' | 'traceId'>,
): boolean {
  if (context !== undefined && name.startsWith('parentbased_')) return parentOf(context).isSampled;
  if (name.endsWith('always_on')) return true;
  return name.endsWith('always_off') ? false : shareOf(traceId) < ratio;
}

/** Where the last eight bytes of an id lie between 0 and 1: Go's libraries, containerd's among them, choose the same traces. */
const shareOf = (traceId: string): number => Number.parseInt(traceId.slice(16, 29), 16) / 2 ** 52;
