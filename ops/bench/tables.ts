/** Results as tables, the last of them what they say of the goals: pure. */
import {
  addedDelays,
  fileGoals,
  fuseGoals,
  type Goal,
  indexGoals,
  memoryGoal,
  sorted,
  startGoals,
  waitGoals,
  warmOn,
  wholeGoals,
} from './goals.ts';
import { median, percentile } from './measure.ts';
import { parseRate } from './relay.ts';
import type { Results } from './results.ts';
import { strangerGoals, strangerTables } from './strangers.ts';

export interface Table {
  title: string;
  /** The first one is the head. */
  rows: string[][];
}

export function tablesOf(results: Results): Table[] {
  const { link } = results;
  const at = `link ${link.rate}bit/s, ${link.rttMs} ms`;
  return [
    ...results.starts.map((starts) => ({
      title: `Start of ${starts.image} (${mb(starts.imageBytes)} MB), ${at}`,
      rows: startRows(starts),
    })),
    ...strangerTables(results.strangers ?? [], rateOf(link)),
    ...results.whole.map((whole) => ({
      title: `${whole.image}: cold start, then all of it read (${mb(whole.read)} MB of files), ${whole.rate}bit/s`,
      rows: wholeRows(whole),
    })),
    ...results.background.map(({ image, ...waits }) => ({
      title: `Reads of ${image} that wait for the registry, ${at}`,
      rows: [
        ['', 'of reads', 'waited', 'median ms', 'nine of ten ms', 'longest ms'],
        ...(['alone', 'prefetch'] as const).map((kind) => [
          { alone: 'nothing else is fetched', prefetch: 'the rest is fetched meanwhile' }[kind],
          `${waits.reads}`,
          `${waits[kind].length}`,
          ...[0.5, 0.9, 1].map((share) => percentile(waits[kind], share).toFixed(1)),
        ]),
      ],
    })),
    ...results.files.map(({ image, times }) => ({
      title: `Files of ${image}, complete, seconds`,
      rows: [
        ['', 'cofa, cold', 'overlayfs, cold', 'cofa, warm', 'overlayfs, warm'],
        ...times.map(({ task, cofa, overlayfs }) => [
          task,
          ...[cofa.cold, overlayfs.cold, cofa.warm, overlayfs.warm].map((ms) => (ms / 1000).toFixed(3)),
        ]),
      ],
    })),
    ...results.index.map(({ image, imageBytes, gunzip, index, sidecarBytes }) => ({
      title: `Index of ${image}`,
      rows: [
        ['', 'CPU s', 'wall s', 'peak MB'],
        ['gunzip of its layers', gunzip.cpuS.toFixed(2), gunzip.wallS.toFixed(2), ''],
        ['cofa index', index.cpuS.toFixed(2), index.wallS.toFixed(2), mb(index.peakBytes)],
        ['ratio', `${(index.cpuS / gunzip.cpuS).toFixed(2)}x`, '', ''],
        ['sidecar / image', `${((100 * sidecarBytes) / imageBytes).toFixed(2)} %`, '', ''],
      ],
    })),
    ...(results.fuse === undefined
      ? []
      : [{ title: 'Reads through FUSE, blocks present', rows: fuseRows(results.fuse) }]),
    ...(results.memory === undefined ? [] : memoryTables(results.memory, at)),
    ...(results.scale.length === 0 ? [] : [{ title: `Large images, ${at}`, rows: scaleRows(results.scale) }]),
    {
      title: 'Goals',
      rows: [
        ['', 'image', 'measure', 'goal', 'measured', ''],
        ...goalsOf(results).map(({ id, of, measure, goal, measured, met }) => [
          id,
          of,
          measure,
          goal,
          measured,
          met ? 'met' : 'missed',
        ]),
      ],
    },
  ];
}

export function goalsOf(results: Results): Array<Goal & { of: string }> {
  const link = rateOf(results.link);
  const of = (image: string, goals: Goal[]) => goals.map((goal) => ({ ...goal, of: image }));
  const { fuse, memory } = results;
  return sorted([
    ...results.starts.flatMap((starts) => of(starts.image, startGoals(starts, link))),
    ...of('held out', strangerGoals(results.strangers ?? [], link)),
    ...results.whole.flatMap((whole) => of(whole.image, wholeGoals([whole]))),
    ...results.background.flatMap((waits) => of(waits.image, waitGoals(waits))),
    ...results.files.flatMap(({ image, times }) => of(image, fileGoals(times.map((one) => ({ ...one }))))),
    ...results.index.flatMap((cost) => of(cost.image, indexGoals(cost))),
    ...(fuse === undefined ? [] : of('', fuseGoals(fuse))),
    ...(memory === undefined ? [] : of('demo', [memoryGoal(memory.count, memory.pss)])),
  ]);
}

const rateOf = ({ rate, rttMs }: Results['link']) => ({ bitsPerSecond: parseRate(rate), rttMs });

export function markdown(tables: readonly Table[]): string {
  const one = ({ title, rows }: Table) => {
    const [head = [], ...body] = rows;
    const line = (cells: string[]) => `| ${head.map((_, at) => cells[at] ?? '').join(' | ')} |`;
    return `## ${title}\n\n${line(head)}\n| ${head.map(() => '---').join(' | ')} |\n${body.map(line).join('\n')}\n`;
  };
  return tables.map(one).join('\n');
}

function startRows({ ways }: Results['starts'][number]): string[][] {
  const delays = addedDelays(ways);
  const added = (name: string) => median(delays[name] ?? []);
  const base = warmOn(ways, 'containerd');
  const warm = warmOn(ways, 'cofa, pack');
  return [
    ['', 'to its end s', 'spread', 'added delay s', 'less than containerd', 'MB'],
    ...ways.map(({ name, cold }) => {
      const all = cold.map(({ totalMs }) => totalMs);
      return [
        name,
        s(median(all)),
        spread(all),
        s(added(name)),
        `${(added('containerd') / added(name)).toFixed(1)}x`,
        mb(median(cold.map(({ bytes }) => bytes))),
      ];
    }),
    ['overlayfs, all local', s(base), '', '', '', ''],
    ['cofa, all local', s(warm), '', '', `${(warm / base).toFixed(2)} of it`, ''],
  ];
}

function wholeRows({ ways }: Results['whole'][number]): string[][] {
  const base = median(ways.find(({ name }) => name === 'containerd')?.totalMs ?? []);
  return [
    ['', 'start s', 'all read s', 'spread', 'of containerd', 'MB'],
    ...ways.map(({ name, startMs, totalMs, bytes }) => [
      name,
      s(median(startMs)),
      s(median(totalMs)),
      spread(totalMs),
      `${(median(totalMs) / base).toFixed(2)}x`,
      mb(median(bytes)),
    ]),
  ];
}

function fuseRows(reads: NonNullable<Results['fuse']>): string[][] {
  const us = (value: number) => value.toFixed(0);
  return [
    ['', 'cofa MB/s', 'bindfs MB/s', 'cofa p50 µs', 'bindfs p50 µs', 'cofa p99 µs', 'bindfs p99 µs'],
    ...reads.map(({ job, cofa, bindfs }) => [
      job,
      mb(cofa.rate),
      mb(bindfs.rate),
      us(cofa.p50Us),
      us(bindfs.p50Us),
      us(cofa.p99Us),
      us(bindfs.p99Us),
    ]),
  ];
}

function memoryTables(memory: NonNullable<Results['memory']>, at: string): Table[] {
  const { count, processes, pss, idlePss, mountMs, starts } = memory;
  const { cofa, containerd } = starts;
  return [
    {
      title: `Memory of all processes, ${count} images mounted`,
      rows: [
        ['', 'RSS MB', 'PSS MB'],
        ...processes.map((one) => [one.name, mb(one.rss), mb(one.pss)]),
        ['all', mb(processes.reduce((n, one) => n + one.rss, 0)), mb(pss)],
        ['before the mounts', '', mb(idlePss)],
        [`at most, while ${cofa.endMs.length} containers start`, '', mb(cofa.peakPss)],
      ],
    },
    {
      title: `${cofa.endMs.length} containers of as many images start at once, ${at}`,
      rows: [
        ['', 'first to end s', 'median s', 'last s'],
        ...(
          [
            ['containerd, nothing on the node', containerd.endMs],
            [`cofa, ${count} images mounted`, cofa.endMs],
          ] as const
        ).map(([name, all]) => [name, s(Math.min(...all)), s(median(all)), s(Math.max(...all))]),
        [`one mount of the ${count}`, s(Math.min(...mountMs)), s(median(mountMs)), s(Math.max(...mountMs))],
      ],
    },
  ];
}

function scaleRows(scales: Results['scale']): string[][] {
  const row = (name: string, of: (scale: Results['scale'][number]) => string) => [name, ...scales.map(of)];
  return [
    row('', ({ name }) => name),
    row('layers', ({ size }) => `${size.layers}`),
    row('files', ({ size }) => `${size.layers * size.filesPerLayer}`),
    row('MB of files', ({ size }) => mb(size.layers * size.filesPerLayer * size.fileBytes)),
    row('MB compressed', ({ imageBytes }) => mb(imageBytes)),
    row('MB of sidecar', ({ sidecarBytes }) => mb(sidecarBytes)),
    row('index, s', ({ index }) => index.wallS.toFixed(1)),
    row('index, CPU s', ({ index }) => index.cpuS.toFixed(1)),
    row('index, peak MB', ({ index }) => mb(index.peakBytes)),
    row('mount, s', ({ mountMs }) => s(mountMs)),
    row('then find, s', ({ findMs }) => s(findMs)),
    row('then a first file, s', ({ firstReadMs }) => s(firstReadMs)),
    row('all of it on the node, s', ({ wholeMs }) => s(wholeMs)),
    row('containerd pulls it, s', ({ pull }) => (typeof pull === 'number' ? s(pull) : `cannot: ${pull}`)),
    row('engine idle, MB', ({ pss }) => mb(pss.idle)),
    row('after the mount, MB', ({ pss }) => mb(pss.mounted)),
    row('at most, MB', ({ pss }) => mb(pss.peak)),
    row('when all is there, MB', ({ pss }) => mb(pss.whole)),
  ];
}

function spread(ms: readonly number[]): string {
  return `${s(Math.min(...ms))}–${s(Math.max(...ms))}`;
}

function s(ms: number): string {
  return (ms / 1000).toFixed(2);
}

function mb(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}
