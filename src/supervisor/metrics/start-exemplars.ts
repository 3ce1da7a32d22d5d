/** For each bucket of the times of starts: the trace of the last start that fell into it, where traces are sent. */
import { startName } from '../../../actors/start-spans.ts';
import type { StartTimes } from '../../../actors/start-times.ts';
import { traceIdOf } from '../../../actors/spans.ts';
import { type Exemplar, Exemplars } from '../../metrics/exemplars.ts';
import { digestOf } from '../../digest/digest.ts';
import { isSampled, type SamplerSettings } from '../../traces/sampler.ts';

export class StartExemplars {
  readonly exemplars = new Exemplars();
  readonly #node: string;
  readonly #sampler: SamplerSettings;

  constructor(node: string, sampler: SamplerSettings) {
    this.#node = node;
    this.#sampler = sampler;
  }

  /** A start that has been counted. One whose trace is not sent is no example. */
  take({ id, context, mountedAt, prepared, phases }: StartTimes): void {
    const traceId = traceIdOf(startName(this.#node, id), context, hash);
    if (!isSampled(this.#sampler, { context, traceId })) return;
    const labels: Exemplar['labels'] = { trace_id: traceId };
    for (const [phase, value] of phases)
      this.exemplars.set('start_phase_seconds', [phase, prepared], { labels, value, at: mountedAt / 1000 });
  }
}

const hash = (text: string): string => digestOf(text).slice('sha256:'.length);
