/** Opens the door for Prometheus, where the engine is told to. */
import type { Logger } from 'pino';
import type { Counts } from '../../../actors/counts.ts';
import { toErrorRecord } from '../../../schemas/errors.ts';
import type { MetricsSettings } from '../../metrics/address.ts';
import type { MetricsDoor } from '../../metrics/door.ts';
import type { Exemplars } from '../../metrics/exemplars.ts';
import type { Conditions } from '../../process/conditions.ts';
import type { Timer } from '../../process/ports.ts';
import type { LiveFold } from '../../store/live-fold.ts';
import type { TracesSettings } from '../../traces/settings.ts';
import type { End } from '../end.ts';
import { Collector, type CollectorSources } from '../metrics/collect.ts';
import { FoldCounts } from '../metrics/fold-counts.ts';
import { StartExemplars } from '../metrics/start-exemplars.ts';
import type { SupervisorPorts } from '../ports.ts';

/** A door that does not open is tried again after this, ms. */
const RETRY_MS = 10_000;

export interface MetricsOptions extends Omit<CollectorSources, 'folded' | 'options' | 'topImages'> {
  options: CollectorSources['options'] & {
    metrics?: MetricsSettings | undefined;
    traces?: TracesSettings | undefined;
  };
  counts: Counts;
  live: Pick<LiveFold, 'state' | 'listen'>;
  conditions: Conditions;
  log: Logger;
  end: End;
  ports: SupervisorPorts;
}

/**
 * Nothing where metrics are off. A port that another program has is no reason not to start: containers of the node read through
 * this engine. It is tried again.
 */
export function serveMetrics(given: MetricsOptions): void {
  const { options, counts, live, conditions, log, end, ports } = given;
  const { metrics } = options;
  if (metrics === undefined) return;
  const { node, traces } = options;
  const starts = traces && new StartExemplars(node, traces.sampler);
  const folded = new FoldCounts(live, counts, starts);
  const collector = new Collector({ ...given, folded, topImages: metrics.images });
  let door: MetricsDoor | undefined;
  let retry: Timer | undefined;
  let isOver = false;
  const open = async () => {
    try {
      const opened = await openDoor(metrics, collector, {
        isHealthy: () => given.fronts.isReady,
        exemplars: starts?.exemplars,
      });
      if (isOver) return await opened.close();
      door = opened;
      conditions.clear('metrics');
      log.info({ address: metrics.address }, 'metrics are served');
    } catch (error) {
      if (isOver) return;
      conditions.set('metrics', `metrics cannot be served: ${toErrorRecord(error).message}`);
      retry = ports.clock.after(RETRY_MS, () => void open());
    }
  };
  end.at('endpoint', async () => {
    isOver = true;
    retry?.cancel();
    folded.end();
    await door?.close();
  });
  void open();
}

/** The library that writes the text is loaded where metrics are on. */
async function openDoor(
  settings: MetricsSettings,
  collector: Collector,
  { isHealthy, exemplars }: { isHealthy: () => boolean; exemplars: Exemplars | undefined },
): Promise<MetricsDoor> {
  const [{ openMetricsDoor }, { MetricsText }] = await Promise.all([
    import('../../metrics/door.ts'),
    import('../../metrics/text.ts'),
  ]);
  const plain = new MetricsText('plain');
  // Without traces there are no exemplars, and all get the text that they always got.
  const open = exemplars && new MetricsText('open', exemplars);
  return await openMetricsDoor(settings, {
    isHealthy,
    metrics: async (format) => {
      const text = format === 'open' ? (open ?? plain) : plain;
      return { type: text.contentType, text: await text.render(await collector.samples()) };
    },
  });
}
