/** `cofa replay export --otlp`: the spans of a log into a file, or to a collector. */
import { open, rename, rm, stat } from 'node:fs/promises';
import { defined } from '../../schemas/defined.ts';
import { CofaError } from '../../schemas/errors.ts';
import { version } from '../client/version.ts';
import type { ReplayLog } from '../replay/replay-log.ts';
import { spanTrees } from '../replay/spans.ts';
import { otlpSpans, type OtlpSpan, requestOf, resourceOf } from '../traces/otlp.ts';
import { tracesChoice } from '../traces/settings.ts';
import type { Context } from './context.ts';
import { noNewFile } from '../replay/new-file.ts';

interface Wanted {
  /** Id of the mount whose start alone is wanted. */
  mount: string | undefined;
  /** A file that exists may be replaced. */
  replace: boolean;
}

/** A request to a collector has so many spans. */
const BATCH = 512;

/**
 * All of what is asked for, whatever a sampler would say. Errors: `conflict` where the file exists; `unavailable`, `unauthorized` as the
 * collector says; those of the file system.
 */
export async function exportSpans(
  log: ReplayLog,
  target: string,
  wanted: Wanted,
  context: Context,
): Promise<void> {
  const isUrl = /^https?:\/\//.test(target);
  const done = isUrl ? await sendAll(log, target, wanted, context) : await writeAll(log, target, wanted);
  const result = defined({ format: 'otlp' as const, ...done, mount: wanted.mount });
  context.output.data(result, () => {
    const where = isUrl
      ? `${done.to} has them`
      : `${target}: a request a line, for a collector's otlpjsonfile receiver`;
    return `${done.spans} spans of ${done.traces} traces; ${where}\n`;
  });
}

async function sendAll(log: ReplayLog, url: string, { mount }: Wanted, context: Context) {
  // The options say where; the environment how.
  const { settings, notes } = tracesChoice({ traces: url }, { ...process.env, OTEL_SDK_DISABLED: undefined });
  for (const note of notes) context.output.warn(note);
  if (settings === undefined)
    throw new CofaError('invalid-argument', 'the collector cannot be spoken to as OTEL_* says');
  const { TraceSender } = await import('../traces/sender.ts');
  const sender = new TraceSender({
    settings,
    sender: senderOf(log, settings.resource),
    after: (ms, run) => {
      const timer = setTimeout(run, ms);
      return { cancel: () => clearTimeout(timer) };
    },
    onTrouble: (sentence) => {
      if (sentence !== undefined) context.output.warn(`${sentence}; trying again`);
    },
  });
  const stop = context.signal();
  let [traces, spans] = [0, 0];
  try {
    let batch: OtlpSpan[] = [];
    for (const tree of spanTrees(log, mount)) {
      stop.throwIfAborted();
      traces += 1;
      spans += tree.spans.length;
      batch.push(...otlpSpans(tree));
      for (; batch.length >= BATCH; batch = batch.slice(BATCH)) await sender.send(batch.slice(0, BATCH));
    }
    if (batch.length > 0) await sender.send(batch);
  } finally {
    await sender.close(0);
  }
  const { origin, pathname } = new URL(settings.url);
  return { to: `${origin}${pathname}`, traces, spans };
}

async function writeAll(log: ReplayLog, path: string, { mount, replace }: Wanted) {
  if (!replace && (await stat(path).catch(() => undefined)) !== undefined)
    throw new CofaError('conflict', `${path} exists`, { hint: 'another name, or --force' });
  const { settings } = tracesChoice({ traces: 'http://localhost' }, process.env);
  const sender = senderOf(log, settings?.resource ?? {});
  const draft = `${path}.${process.pid}.draft`;
  const file = await open(draft, 'w', 0o600).catch((cause: unknown) => {
    throw noNewFile(path, cause);
  });
  let [traces, spans] = [0, 0];
  try {
    for (const tree of spanTrees(log, mount)) {
      traces += 1;
      spans += tree.spans.length;
      await file.write(`${JSON.stringify(requestOf(otlpSpans(tree), sender))}\n`);
    }
    await file.close();
    await rename(draft, path);
  } catch (error) {
    await file.close().catch(() => {});
    await rm(draft, { force: true });
    throw error;
  }
  return { file: path, to: undefined, traces, spans };
}

const senderOf = (log: ReplayLog, resource: Readonly<Record<string, string>>) => ({
  resource: resourceOf(resource, log.node, version()),
  version: version(),
});
