/** `cofa replay what-if`: a recorded start, run again in simulated time over another link, with another policy or pack. */
import { type Command, Option } from 'commander';
import { CofaError } from '../../schemas/errors.ts';
import { RATE_HINT, rateOf } from '../replay/what-if/conditions-text.ts';
import { byteOption } from './byte-option.ts';
import { type Context, examples, numberOption } from './context.ts';
import { PREFETCH_HELP, type Prefetch, prefetchOption } from './prefetch-option.ts';
import { addLogOptions } from './replay-why.ts';
import type { SourceOptions } from './replay.ts';

interface WhatIfOptions extends SourceOptions {
  rate?: number;
  rtt?: number;
  /** True: `--pack`; false: `--no-pack`. */
  pack?: boolean;
  hints?: boolean;
  prefetch?: Prefetch;
  workers?: number;
  cores?: number;
  block?: number;
  recordedRate?: number;
  recordedRtt?: number;
  best?: boolean;
}

/** As `cofa up` names it. */
const FETCHERS = '--workers';
const SMALLEST_BLOCK = 4_096;
const LARGEST_BLOCK = 1 << 22;

export function defineWhatIf(command: Command, context: Context): void {
  command
    .summary('say what a start would take over another link, or with another policy')
    .description(
      'Run a recorded start again in simulated time: its reads go through the decisions of the engine itself, over another link, with another policy, with or without a startup pack. Says how long it would take, what would be fetched and what reads would wait for. What no option changes is as it was recorded. The last mount of the log, unless --mount names one.',
    )
    .option('--mount <id>', 'id, directory or reference of a mount')
    .optionsGroup('What would be otherwise:')
    .option('--rate <bits>', 'of the link, bits a second: 100M, 1G, or max', rateOption('--rate'))
    .option('--rtt <ms>', 'a round trip to the registry', milliseconds('--rtt'))
    .option('--pack', 'a startup pack of this start is there')
    .option('--no-pack', 'no startup pack is there')
    .option('--no-hints', 'nothing says before what the start will read')
    .option('--prefetch <how>', PREFETCH_HELP, prefetchOption)
    .option(`${FETCHERS} <n>`, 'fetcher processes', whole(FETCHERS, 256))
    .option('--cores <n>', 'processors', whole('--cores', 1_024))
    .option('--block <size>', 'blocks of another size than 64 KiB: a power of two', blockOption)
    .option('--best', 'try every policy over this link, and say which would have been fastest')
    .optionsGroup('Where the log says too little of the recorded start:')
    .addOption(new Option('--recorded-rate <bits>', 'of its link').argParser(rateOption('--recorded-rate')))
    .option('--recorded-rtt <ms>', 'a round trip of its link', milliseconds('--recorded-rtt'))
    .optionsGroup('Which log:');
  addLogOptions(command).action(async (file: string | undefined, options: WhatIfOptions) => {
    const { load } = await import('./replay.ts');
    const { mount, recordedRate, recordedRtt, cores, block, prefetch, workers: fetchers } = options;
    const { findMount } = await import('../replay/start-phases.ts');
    const { recordingOf } = await import('../replay/what-if/extract.ts');
    const { whatIf } = await import('../replay/what-if/what-if.ts');
    const { renderWhatIf } = await import('../replay/what-if/text.ts');
    const { mount: _, ...source } = options;
    const loaded = await load(context, file, source);
    try {
      const { log } = loaded;
      for (const note of log.notes) context.output.note(note);
      const recording = recordingOf(log, findMount(log, mount), {
        link: {
          ...(recordedRate === undefined ? {} : { rate: recordedRate }),
          ...(recordedRtt === undefined ? {} : { rttMs: recordedRtt }),
        },
      });
      const changes = {
        rate: options.rate,
        rttMs: options.rtt,
        ahead: aheadOf(options),
        prefetch,
        fetchers,
        cores,
        block,
      };
      const what = whatIf(recording, changes, { best: options.best === true });
      context.output.data(what, () => `${renderWhatIf(what, 100).join('\n')}\n`);
    } finally {
      await loaded.close();
    }
  });
  command.addHelpText(
    'after',
    `
The recorded start is run under its own conditions as well: how far that is off is how far to trust the rest. docs/what-if.md
says what the model leaves out.`,
  );
  examples(command, [
    ['cofa replay what-if --rate 100M --rtt 20', 'the last start of the engine, over a slower link'],
    ['cofa replay what-if start.cofa-log --pack', 'of an exported log, with a startup pack'],
    ['cofa replay what-if --mount app:1 --no-pack --prefetch off', ''],
    ['cofa replay what-if --rate 50M --rtt 80 --best', 'which policy would have been fastest'],
  ]);
}

function aheadOf({ pack, hints }: WhatIfOptions): 'pack' | 'none' | 'nothing' | undefined {
  if (pack === true && hints === false)
    throw new CofaError('invalid-argument', '--pack and --no-hints exclude each other', {
      hint: 'a start with a pack asks for no hints',
    });
  if (hints === false) return 'nothing';
  return pack === undefined ? undefined : pack ? 'pack' : 'none';
}

/** Bits a second of `100M`, `1G`, or `max`. Error: `invalid-argument` naming the option. */
function rateOption(name: string): (text: string) => number {
  return (text) => {
    const rate = rateOf(text);
    if (rate !== undefined) return rate;
    throw new CofaError(
      'invalid-argument',
      `${name}: ${JSON.stringify(text)} is not a rate in bits a second`,
      { hint: RATE_HINT },
    );
  };
}

const milliseconds = (name: string) => numberOption(name, { min: 0, max: 60_000, integer: false });
const whole = (name: string, max: number) => numberOption(name, { min: 1, max, integer: true });

function blockOption(text: string): number {
  const size = byteOption('--block')(text);
  if (Number.isInteger(Math.log2(size)) && size >= SMALLEST_BLOCK && size <= LARGEST_BLOCK) return size;
  throw new CofaError('invalid-argument', `--block: ${JSON.stringify(text)} is not a size of blocks`, {
    hint: 'a power of two from 4Ki to 4Mi',
  });
}
