/** `cofa replay export`: a start, or a stretch of the log, for the viewers of traces (--perfetto), or for OpenTelemetry (--otlp). */
import type { Command } from 'commander';
import { defined } from '../../schemas/defined.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { ReplayLog } from '../replay/replay-log.ts';
import type { Stretch } from '../replay/trace-events.ts';
import { formatBytes } from '../terminal/table.ts';
import { type Context, examples } from './context.ts';
import { addLogOptions } from './replay-why.ts';
import type { SourceOptions } from './replay.ts';

interface ExportOptions extends SourceOptions {
  perfetto?: string;
  otlp?: string;
  start?: boolean;
  force?: boolean;
}

export function defineTraceExport(command: Command, context: Context): void {
  command
    .summary('write a start, or a stretch of the log, as a trace')
    .description(
      'Write a start (--start for the last one, --mount), or a stretch of the log, as a trace: mounts with their phases, reads that waited, the fetches that they waited for, and events. ui.perfetto.dev, chrome://tracing and speedscope open the file of --perfetto; nothing is sent anywhere. --otlp writes the spans that cofa up --traces would send, or sends them to a collector.',
    )
    .option('--perfetto <file>', "write Chrome's Trace Event Format, which Perfetto opens, into this file")
    .option(
      '--otlp <file|url>',
      "write OpenTelemetry's JSON, a request a line; or send it to this http(s)://… (OTEL_EXPORTER_OTLP_* say how)",
    )
    .option('--mount <id>', 'the start of this mount: id, directory or reference')
    .option('--start', 'that of the last mount of the log')
    .option('--force', 'replace the file if it exists');
  addLogOptions(command).action(async (file: string | undefined, options: ExportOptions) => {
    const { perfetto: out, otlp, mount, start, force = false, ...source } = options;
    if ((out === undefined) === (otlp === undefined))
      throw new CofaError('invalid-argument', 'say one of --perfetto and --otlp', {
        hint: 'such as: cofa replay export --start --perfetto start.json',
      });
    if (mount !== undefined && start === true)
      throw new CofaError('invalid-argument', '--mount and --start exclude each other');
    const { load } = await import('./replay.ts');
    const loaded = await load(context, file, source);
    try {
      const { log } = loaded;
      for (const note of log.notes) context.output.note(note);
      if (out === undefined) {
        const { exportSpans } = await import('./replay-otlp.ts');
        const { findMount } = await import('../replay/start-phases.ts');
        const wanted = mount === undefined && start !== true ? undefined : findMount(log, mount).id;
        await exportSpans(log, otlp as string, { mount: wanted, replace: force }, context);
        return;
      }
      const { stretch, id } = await stretchOf(log, mount, start === true);
      const { writeTrace } = await import('../replay/trace-file.ts');
      const { entries, bytes } = await writeTrace(log, stretch, out, { replace: force, mount: id });
      const time = (at: number) => new Date(at).toISOString();
      const result = {
        file: out,
        format: 'perfetto',
        entries,
        bytes,
        fromTime: time(stretch.from),
        toTime: time(stretch.to),
        mount: id,
      } as const;
      context.output.data(
        defined(result),
        () => `${out}: ${entries} entries, ${formatBytes(bytes)}; open it at https://ui.perfetto.dev\n`,
      );
    } finally {
      await loaded.close();
    }
  });
  examples(command, [
    ['cofa replay export --start --perfetto start.json', 'the last start of the engine'],
    ['cofa replay export start.cofa-log --mount /mnt/demo --perfetto start.json', 'of an exported log'],
    ['cofa replay export --from -10m --perfetto now.json', 'the last ten minutes'],
    ['cofa replay export start.cofa-log --otlp http://127.0.0.1:4318', 'to an OpenTelemetry collector'],
  ]);
}

async function stretchOf(
  log: ReplayLog,
  mount: string | undefined,
  isStart: boolean,
): Promise<{ stretch: Stretch; id: string | undefined }> {
  if (mount === undefined && !isStart) {
    const { wholeOf } = await import('../replay/trace-events.ts');
    return { stretch: wholeOf(log), id: undefined };
  }
  const { findMount } = await import('../replay/start-phases.ts');
  const { explainStart } = await import('../replay/why-start.ts');
  const { mount: id, time, us } = explainStart(log, findMount(log, mount));
  const from = Date.parse(time);
  return { stretch: { from, to: from + us / 1000 }, id };
}
