/** Sends the traces of starts and pulls, where the engine is told to: the fold of actors/start-spans.ts beside that of the state. */
import type { Logger } from 'pino';
import type { Counts } from '../../../actors/counts.ts';
import { idOf } from '../../../actors/node-state.ts';
import type { SpanTree } from '../../../actors/spans.ts';
import type { SpanImage } from '../../../actors/pull-spans.ts';
import { StartSpans } from '../../../actors/start-spans.ts';
import { layersOfImage } from '../../../actors/device.ts';
import { version } from '../../client/version.ts';
import { digestOf } from '../../digest/digest.ts';
import type { LiveFold } from '../../store/live-fold.ts';
import { resourceOf } from '../../traces/otlp.ts';
import type { TraceSender } from '../../traces/sender.ts';
import type { TracesSettings } from '../../traces/settings.ts';
import type { End } from '../end.ts';
import type { SupervisorPorts } from '../ports.ts';

/** How often starts are looked for that are over, ms. */
const LOOK_MS = 1_000;
/** An event comes here so long after its time, ms: of another process, through NATS. */
const ON_ITS_WAY_MS = 3_000;
/** What is not sent when the engine ends is given up after this, ms: `cofa replay export --otlp` has it still. */
const LAST_MS = 2_000;

export interface TracesOptions {
  options: { node: string; traces?: TracesSettings | undefined };
  live: Pick<LiveFold, 'state' | 'listen'>;
  counts: Counts;
  log: Logger;
  end: End;
  ports: SupervisorPorts;
}

/** Nothing where traces are off. */
export function sendTraces(given: TracesOptions): void {
  const { options, live, log, end, ports } = given;
  const { traces, node } = options;
  if (traces === undefined) return;
  const sender = openSender(traces, given);
  sender.catch((error: unknown) => log.warn({ error }, 'traces are not sent'));
  const give = (trees: readonly SpanTree[]) => {
    for (const tree of trees) void sender.then((one) => one.add(tree)).catch(() => {});
  };
  const spans = new StartSpans({
    node,
    imageOf: (manifest) => imageIn(live.state, manifest),
    hash: (text) => digestOf(text).slice('sha256:'.length),
  });
  const silence = live.listen(({ seq, subject, event }) =>
    give(spans.take({ seq, id: idOf(subject), event })),
  );
  const timer = ports.clock.every(LOOK_MS, () => give(spans.settled(ports.clock.wallMs() - ON_ITS_WAY_MS)));
  // Behind `engine.stopped`, with which all starts are over.
  end.at('connections', async () => {
    silence();
    timer.cancel();
    give(spans.end());
    await (await sender.catch(() => undefined))?.close(LAST_MS);
  });
  const { url, encoding, sampler } = traces;
  log.info({ to: new URL(url).host, encoding, sampler: sampler.name }, 'traces are sent');
}

function imageIn(state: LiveFold['state'], manifest: string): SpanImage | undefined {
  const image = state.images.get(manifest) as Parameters<typeof layersOfImage>[0] | undefined;
  return image && { layers: layersOfImage(image), count: image.resolved.layers.length };
}

/** What sends is loaded where traces are on. */
async function openSender(
  settings: TracesSettings,
  { options, counts, log, ports }: TracesOptions,
): Promise<TraceSender> {
  const { TraceSender: Sender } = await import('../../traces/sender.ts');
  return new Sender({
    settings,
    sender: { resource: resourceOf(settings.resource, options.node, version()), version: version() },
    after: (ms, run) => ports.clock.after(ms, run).unref(),
    onFate: (fate, count) => counts.add('trace_spans_total', count, fate),
    onTrouble: (sentence) =>
      sentence === undefined ? log.info('traces are sent again') : log.warn(`${sentence}; spans are dropped`),
  });
}
