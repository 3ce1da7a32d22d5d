/** The rows of a waterfall: what a start's document has, as bars on a time line. */
import type { Waterfall } from '../../../../schemas/replay.ts';
import { formatUs } from '../../../replay/format.ts';
import { formatBytes, shortDigest } from '../../../terminal/table.ts';

export interface Bar {
  /** µs since the beginning. */
  from: number;
  us: number;
  /** Name of a colour of the style sheet. */
  colour: string;
}

export interface Row {
  kind: 'part' | 'path' | 'program' | 'fetch' | 'read' | 'file';
  name: string;
  bars: Bar[];
  /** In words, for the line below and for those who hear the page. */
  text: string;
}

/** Colours of what a fetch does. */
export const STEP_COLOURS: Record<string, string> = {
  queue: '--track-strong',
  wait: '--track-strong',
  lookup: '--bad',
  'first-byte': '--trace',
  transfer: '--layer',
  verify: '--image',
  write: '--mount',
  other: '--muted',
  reply: '--muted',
};

/** From the top: parts, the critical path, programs, fetches, reads, files. */
export function rowsOf(fall: Waterfall): Row[] {
  return [
    ...partRows(fall),
    pathRow(fall),
    ...programRows(fall),
    ...fetchRows(fall),
    ...readRows(fall),
    ...fileRows(fall),
  ];
}

function partRows({ phases }: Waterfall): Row[] {
  return phases.map(({ part, command, startUs, us, what }) => ({
    kind: 'part',
    name: command === undefined ? part : `${command} and its children`,
    bars: [{ from: startUs, us, colour: '--layer' }],
    text: `${part}: ${formatUs(us)} from +${formatUs(startUs)} on: ${what}`,
  }));
}

function pathRow({ path }: Waterfall): Row {
  const waited = path.filter(({ part }) => part === 'reads').reduce((sum, { us }) => sum + us, 0);
  return {
    kind: 'path',
    name: 'critical path',
    bars: path.map(({ part, startUs, us }) => ({
      from: startUs,
      us,
      colour: part === 'reads' ? '--trace' : part === 'program' ? '--good' : '--layer',
    })),
    text: `critical path: ${path.length} stretches one after the other; for ${formatUs(waited)} of it a read waited`,
  };
}

function programRows({ programs, us: whole }: Waterfall): Row[] {
  return programs.map(({ name, pid, startUs, seenUs, lastUs, cpuUs, childrenUs }) => {
    const children = childrenUs > 0 ? `; its children that ended worked ${formatUs(childrenUs)}` : '';
    return {
      kind: 'program',
      name,
      bars: [{ from: startUs, us: Math.max(0, Math.min(lastUs, whole) - startUs), colour: '--good' }],
      text: `program ${name}, process ${pid}: worked ${formatUs(cpuUs)}, from +${formatUs(startUs)} on; seen at samples, at +${formatUs(seenUs)} first and at +${formatUs(lastUs)} last${children}`,
    };
  });
}

function fetchRows({ jobs }: Waterfall): Row[] {
  return jobs.map((job) => {
    const steps = job.steps.map(({ step, us }) => `${step} ${formatUs(us)}`).join(', ');
    const who = job.waited === 0 ? 'no read waited for it' : `${job.waited} reads waited for it`;
    const failed = job.error === undefined ? '' : `; failed: ${job.error}`;
    return {
      kind: 'fetch',
      name: `${job.class} ${formatBytes(job.bytes)}`,
      bars:
        job.steps.length === 0
          ? [{ from: job.startUs, us: job.us, colour: '--muted' }]
          : job.steps.map(({ step, startUs, us }) => ({
              from: job.startUs + startUs,
              us,
              colour: STEP_COLOURS[step] ?? '--muted',
            })),
      text: `fetch ${job.job} of layer ${shortDigest(job.layer)}, ${job.class}, ${formatBytes(job.bytes)}${job.fetcher === '' ? '' : `, ${job.fetcher}`}: ${formatUs(job.us)} from +${formatUs(Math.max(0, job.startUs))} on (${steps}); ${who}${failed}`,
    };
  });
}

function readRows({ reads }: Waterfall): Row[] {
  return reads.map((read) => ({
    kind: 'read',
    name: read.paths[0] ?? `block ${read.block}`,
    bars: [
      {
        from: read.startUs,
        us: read.us,
        colour: read.errno !== 0 ? '--bad' : read.isCritical ? '--trace' : '--muted',
      },
    ],
    text: `read ${read.id}: blocks ${read.block} to ${read.block + read.blocks - 1} waited ${formatUs(read.us)} from +${formatUs(read.startUs)} on${read.isCritical ? ', on the critical path' : ''}${read.errno === 0 ? '' : `, ended with errno ${read.errno}`}${read.paths.length === 0 ? '' : `; ${read.paths.join(', ')}`}`,
  }));
}

function fileRows({ files }: Waterfall): Row[] {
  return files.map((file) => ({
    kind: 'file',
    name: file.path,
    bars: [{ from: file.startUs, us: file.us, colour: '--image' }],
    text: `${file.path}: ${file.reads} reads waited ${formatUs(file.waitedUs)} in all, from +${formatUs(file.startUs)} on`,
  }));
}
