/** `cofa replay`: the event log, step by step: in a terminal view, or as data for scripts. */
import type { Command } from 'commander';
import { defined } from '../../schemas/defined.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { ReplayEventLine } from '../../schemas/replay.ts';
import type { LoadedLog } from '../replay/load.ts';
import type { ReplayLog } from '../replay/replay-log.ts';
import type { ListenFlags } from '../console/address.ts';
import { addListenOptions, checkWebFlags } from './console-options.ts';
import { type Context, examples, numberOption } from './context.ts';
import { renderEvent } from './events.ts';
import { logSource } from './log-source.ts';
import { defineTraceExport } from './replay-export.ts';
import { defineWhatIf } from './replay-what-if.ts';
import { defineWhy } from './replay-why.ts';

export interface SourceOptions {
  image?: string;
  mount?: string;
  from?: string;
  to?: string;
  nats?: string;
  natsCa?: string;
  node?: string;
  partial?: boolean;
}

interface ReplayOptions extends SourceOptions, ListenFlags {
  web?: boolean;
  at?: string;
  diff?: string[];
  events?: boolean;
  break?: string;
  type?: string;
  count?: number;
  follow?: boolean;
}

export function define(command: Command, context: Context): void {
  command
    .description(
      'Look at an event log as it went: step, jump and play through it, see the state of the node at any moment, stop where something happens, ask why a read or a start was slow. FILE is an exported log; without it the log of the engine is read, also when the engine is stopped or has crashed. Opens a view in the terminal unless one of --at, --diff, --events, --break is given.',
    )
    .argument('[file]', 'a file that `cofa events export` wrote');
  addSourceOptions(command);
  command
    .option('--follow', 'the view goes on with what the running engine does')
    .option('--web', 'as a page in a browser, as cofa console serves it');
  addListenOptions(command);
  command
    .optionsGroup('For scripts:')
    .option('--at <moment>', 'print the state at this moment')
    .option('--diff <moments...>', 'print what is different between two moments')
    .option('--events', 'print the events')
    .option('--break <condition>', 'print the first event that fulfils it; with --events: all of them')
    .option('--type <glob>', 'with --events: only of this type, such as mount.*')
    .option(
      '-n, --count <n>',
      'with --events: at most so many',
      numberOption('--count', { min: 1, max: Number.MAX_SAFE_INTEGER, integer: true }),
    )
    .action(async (file: string | undefined, options: ReplayOptions) => {
      const { file: path, moments } = splitDiff(file, options.diff);
      const modes = [options.at, moments, options.events ?? options.break].filter((one) => one !== undefined);
      if (modes.length > 1)
        throw new CofaError('invalid-argument', '--at, --diff and --events or --break exclude each other');
      if (options.web === true && modes.length > 0)
        throw new CofaError(
          'invalid-argument',
          '--web and --at, --diff, --events or --break exclude each other',
        );
      checkWebFlags(options.web === true, options);
      if (options.web === true) {
        const { serve } = await import('./console.ts');
        const { image, mount, from, to, nats, natsCa, node, partial } = options;
        await serve(context, path, options, defined({ image, mount, from, to, nats, natsCa, node, partial }));
        return;
      }
      if (modes.length === 0) {
        await view(context, path, options);
        return;
      }
      const { parseMoment } = await import('../replay/moments.ts');
      const { parseCondition } = await import('../replay/conditions.ts');
      // What is wrong with the call is said before a long log is read.
      const at = options.at === undefined ? undefined : parseMoment(options.at);
      const pair = moments?.map(parseMoment);
      const condition = options.break === undefined ? undefined : parseCondition(options.break);
      const type =
        options.type === undefined ? undefined : parseCondition(`event ${JSON.stringify(options.type)}`);
      const loaded = await load(context, path, options);
      try {
        const { log } = loaded;
        for (const note of log.notes) context.output.note(note);
        if (at !== undefined) await showState(context, log, at, loaded);
        else if (pair !== undefined) await showDiff(context, log, pair, loaded);
        else await showEvents(context, log, { ...options, condition, type });
      } finally {
        await loaded.close();
      }
    });
  command.addHelpText(
    'after',
    `
Moments: 1234 (a sequence), #12 (so many events of this log), 2026-11-24T12:00:03Z, 12:00:03, -10m (before the end; of a
running engine's log: ago), +3s (after the first event), start, end.

Conditions: block 4711 present, block 4711 absent, read > 100ms, read failed, job > 1s, event mount.*, layer 3f2a,
image app:1, mount /mnt/x, text "no such"; joined with and, or.

Exit codes: 3 when no event fulfils --break, and the usual ones (cofa help exit-codes).`,
  );
  examples(command, [
    ['cofa replay', 'the view; ? shows its keys'],
    ['cofa replay start.cofa-log', 'of an exported log, anywhere'],
    ['cofa replay --web start.cofa-log', 'the same as a page in a browser'],
    ['cofa replay --from -10m --image app:1', 'the last ten minutes of one image'],
    ['cofa replay --json start.cofa-log --at end', 'the state at its end'],
    ['cofa replay --diff 120 340', 'what changed between two sequences'],
    ["cofa replay --break 'read > 100ms'", 'the first slow read'],
    ['cofa replay why --read slowest', 'what it waited for'],
    ['cofa replay what-if --rate 100M --rtt 20', 'what the last start would take over another link'],
    ['cofa replay export --start --perfetto start.json', 'the last start, for ui.perfetto.dev'],
  ]);
  command.enablePositionalOptions();
  defineWhy(command.command('why [file]'), context);
  defineTraceExport(command.command('export [file]'), context);
  defineWhatIf(command.command('what-if [file]'), context);
}

export function addSourceOptions(command: Command): void {
  command
    .option('--image <ref>', 'only the events of this image, its layers and its mounts')
    .option('--mount <id>', 'only the events of this mount (id or directory) and its image')
    .option('--from <moment>', 'begin with this sequence or time; the state before it is known all the same')
    .option('--to <moment>', 'end with this sequence or time')
    .option('--partial', 'of a damaged file take what is whole')
    .option('--nats <url>', "the engine's own NATS, when it does not run and was started with --nats")
    .option('--nats-ca <file>', 'authority that has signed the certificate of that NATS')
    .option('--node <name>', 'whose log, when several nodes share that NATS');
}

/** Reads the log that the options name, with progress. */
export async function load(
  context: Context,
  file: string | undefined,
  options: SourceOptions,
): Promise<LoadedLog> {
  const { parseMoment } = await import('../replay/moments.ts');
  const { loadFile, loadLive } = await import('../replay/load.ts');
  const { ProgressView } = await import('./progress.ts');
  const progress = new ProgressView('replay', context.output.progress);
  const range = {
    image: options.image,
    mount: options.mount,
    from: options.from === undefined ? undefined : parseMoment(options.from),
    to: options.to === undefined ? undefined : parseMoment(options.to),
    partial: options.partial,
    signal: context.signal(),
    onProgress: (events: number, done?: number, total?: number) =>
      progress.update('log', { label: `${events} events`, done: done ?? 0, total }),
  };
  try {
    if (file !== undefined) return await loadFile(file, range);
    const loaded = await loadLive(logSource(context.root, options), range);
    const { pathsOfRoot } = await import('../image/file-paths.ts');
    const { shapesOfRoot } = await import('../replay/shapes.ts');
    loaded.log.paths = pathsOfRoot(context.root);
    loaded.log.shapes = shapesOfRoot(context.root);
    return loaded;
  } finally {
    progress.stop();
  }
}

async function view(context: Context, file: string | undefined, options: ReplayOptions): Promise<void> {
  if (context.output.json)
    throw new CofaError('invalid-argument', 'say what is to be printed as JSON', {
      hint: '--at, --diff, --events, --break, or: cofa replay why',
    });
  const { checkTerminal } = await import('../replay/view/terminal.ts');
  const { runView } = await import('../replay/view/run.ts');
  checkTerminal();
  const loaded = await load(context, file, options);
  try {
    await runView(loaded, { write: context.sink.out, follow: options.follow === true });
  } finally {
    await loaded.close();
  }
}

/** Moments refer to now while the log grows. */
const nowOf = (loaded: LoadedLog): number | undefined =>
  loaded.follow === undefined ? undefined : Date.now();

type Moment = ReturnType<typeof import('../replay/moments.ts').parseMoment>;

async function showState(context: Context, log: ReplayLog, at: Moment, loaded: LoadedLog): Promise<void> {
  const { positionOf } = await import('../replay/moments.ts');
  const { describeState } = await import('../replay/state-document.ts');
  const { renderState } = await import('../replay/state-text.ts');
  const state = describeState(log, positionOf(at, log, nowOf(loaded)));
  context.output.data(state, () => renderState(state));
}

async function showDiff(
  context: Context,
  log: ReplayLog,
  pair: readonly Moment[],
  loaded: LoadedLog,
): Promise<void> {
  const { positionOf } = await import('../replay/moments.ts');
  const { describeState, diffStates } = await import('../replay/state-document.ts');
  const { renderDiff } = await import('../replay/state-text.ts');
  const [a, b] = pair.map((moment) => describeState(log, positionOf(moment, log, nowOf(loaded))));
  if (a === undefined || b === undefined) return;
  const diff = diffStates(a, b);
  context.output.data(diff, () => renderDiff(diff));
}

async function showEvents(
  context: Context,
  log: ReplayLog,
  options: {
    events?: boolean;
    count?: number;
    condition: import('../replay/conditions.ts').Condition | undefined;
    type: import('../replay/conditions.ts').Condition | undefined;
  },
): Promise<void> {
  const { canMatch } = await import('../replay/conditions.ts');
  const { find } = await import('../replay/search.ts');
  const most = options.events === true ? (options.count ?? Number.POSITIVE_INFINITY) : 1;
  let shown = 0;
  for (let index = 0; index < log.count && shown < most; index++) {
    if (options.condition !== undefined) {
      const next = find(log, { condition: options.condition }, index, log.count);
      if (next === undefined) break;
      index = next;
    }
    if (options.type !== undefined && !canMatch(options.type, log.timeline.typeAt(index))) continue;
    const line = eventLine(log, index);
    context.output.line(line, () => renderEvent(line));
    shown += 1;
  }
  if (options.condition !== undefined && options.events !== true && shown === 0)
    throw new CofaError('not-found', 'no event of the log fulfils the condition', {
      hint: 'cofa replay --help describes conditions',
    });
}

export function eventLine(log: ReplayLog, index: number): ReplayEventLine {
  const { seq, at, subject, type, data, strange } = log.timeline.eventAt(index);
  return defined({
    seq,
    position: index + 1,
    time: new Date(at).toISOString(),
    subject,
    type,
    data,
    strange,
  });
}

/** `--diff` takes what follows it, so a FILE behind its two moments is among them. Also: `--diff A..B`. */
function splitDiff(
  file: string | undefined,
  diff: string[] | undefined,
): { file: string | undefined; moments: string[] | undefined } {
  if (diff === undefined) return { file, moments: undefined };
  const words =
    diff.length > 0 && diff[0]?.includes('..') ? [...diff[0].split('..'), ...diff.slice(1)] : diff;
  const [a, b, last, ...more] = words;
  if (a === undefined || b === undefined || more.length > 0 || (last !== undefined && file !== undefined))
    throw new CofaError('invalid-argument', '--diff takes two moments', { hint: 'such as: --diff 120 340' });
  return { file: file ?? last, moments: [a, b] };
}
