/** What was measured against the goals: pure, so that a stored result can be judged again. */

/** Medians of one image's starts: ms, bytes. */
export interface StartFigures {
  /** By way: added delay, cold start minus warm start on overlayfs. */
  added: Readonly<Record<string, number>>;
  /** Bytes over the link until the end of the cold start, by way. */
  fetched: Readonly<Record<string, number>>;
  warm: { overlayfs: number; cofa: number };
  imageBytes: number;
  sidecarBytes: number;
  packBytes: number;
  link: { bitsPerSecond: number | undefined; rttMs: number };
}

export interface Goal {
  id: string;
  measure: string;
  goal: string;
  measured: string;
  met: boolean;
}

/** Undefined where nothing was measured for a goal. */
export function startGoals(figures: StartFigures): Goal[] {
  const { added, fetched, warm, imageBytes, sidecarBytes, packBytes, link } = figures;
  const goals: Goal[] = [];
  const atLeast = (id: string, measure: string, ratio: number, least: number) =>
    goals.push({ id, measure, goal: `≥ ${least}x`, measured: `${ratio.toFixed(1)}x`, met: ratio >= least });
  const atMost = (id: string, measure: string, ratio: number, most: number) =>
    goals.push({ id, measure, goal: `≤ ${most}x`, measured: `${ratio.toFixed(2)}x`, met: ratio <= most });
  const share = (id: string, measure: string, part: number, most: number) => {
    const percent = (100 * part) / imageBytes;
    goals.push({
      id,
      measure,
      goal: `≤ ${most} %`,
      measured: `${percent.toFixed(1)} %`,
      met: percent <= most,
    });
  };
  const containerd = added['containerd'];
  const pack = added['cofa, pack'];
  const demand = added['cofa, no pack'];
  const unprepared = added['cofa, unprepared'];
  const peer = added['eStargz, unoptimized'];
  /** Bytes at the link's rate, and three round trips, ms. */
  const limit = (bytes: number) =>
    (link.bitsPerSecond === undefined ? 0 : (bytes * 8_000) / link.bitsPerSecond) + 3 * link.rttMs;
  if (containerd !== undefined && pack !== undefined)
    atLeast('P1', 'added delay with pack: containerd / cofa', containerd / pack, 20);
  if (pack !== undefined)
    atMost('P3', 'added delay with pack / the link alone', pack / limit(sidecarBytes + packBytes), 2);
  if (peer !== undefined && demand !== undefined)
    atLeast('P4', 'added delay without pack: eStargz unoptimized / cofa', peer / demand, 2);
  if (containerd !== undefined && unprepared !== undefined) {
    atLeast('P5', 'added delay, unprepared: containerd / cofa', containerd / unprepared, 3);
    atMost('P5', 'added delay, unprepared / the link alone', unprepared / limit(imageBytes), 1.4);
  }
  atMost('P5b', 'warm start: cofa / overlayfs', warm.cofa / warm.overlayfs, 1);
  const bytes = fetched['cofa, pack'];
  if (bytes !== undefined && packBytes > 0)
    atMost('P8', 'bytes fetched with pack / blocks that the start reads, compressed', bytes / packBytes, 1.2);
  share('P9', 'sidecar / image', sidecarBytes, 2);
  if (packBytes > 0) share('P9', 'sidecar and pack / image', sidecarBytes + packBytes, 10);
  return goals;
}

/** `time`: what cofa took of it, and what the other did. */
export function fileGoals(
  times: ReadonlyArray<{ task: string; cofa: Record<string, number>; overlayfs: Record<string, number> }>,
): Goal[] {
  return times.flatMap(({ task, cofa, overlayfs }) =>
    Object.keys(cofa).map((cache): Goal => {
      const ratio = (overlayfs[cache] ?? 0) / (cofa[cache] ?? 1);
      const measure = `complete image, ${task}, ${cache}: overlayfs / cofa`;
      return { id: 'P7', measure, goal: '≥ 1.0x', measured: `${ratio.toFixed(2)}x`, met: ratio >= 1 };
    }),
  );
}

export function fuseGoals(
  reads: ReadonlyArray<{ job: string; cofa: FuseFigures; bindfs: FuseFigures }>,
): Goal[] {
  return reads.flatMap(({ job, cofa, bindfs }): Goal[] => {
    const rate = cofa.rate / bindfs.rate;
    const late = cofa.p99Us / bindfs.p99Us;
    const throughput: Goal = {
      id: 'P12',
      measure: `FUSE, ${job}: throughput, cofa / bindfs`,
      goal: '≥ 0.7x',
      measured: `${rate.toFixed(2)}x`,
      met: rate >= 0.7,
    };
    if (!job.startsWith('4 KiB')) return [throughput];
    return [
      throughput,
      {
        id: 'P12',
        measure: `FUSE, ${job}: p99, cofa / bindfs`,
        goal: '≤ 2x',
        measured: `${late.toFixed(2)}x`,
        met: late <= 2,
      },
    ];
  });
}

interface FuseFigures {
  rate: number;
  p99Us: number;
}

export function indexGoals(cost: {
  gunzip: { cpuS: number };
  index: { cpuS: number; peakBytes: number };
}): Goal[] {
  const ratio = cost.index.cpuS / cost.gunzip.cpuS;
  const megabytes = cost.index.peakBytes / 1e6;
  return [
    {
      id: 'P10',
      measure: 'index / one gunzip, processor time',
      goal: '≤ 2x',
      measured: `${ratio.toFixed(2)}x`,
      met: ratio <= 2,
    },
    {
      id: 'P10',
      measure: 'index, peak memory of its largest process',
      goal: '≤ 300 MB',
      measured: `${megabytes.toFixed(0)} MB`,
      met: megabytes <= 300,
    },
  ];
}

export function memoryGoal(count: number, pss: number): Goal {
  const megabytes = pss / 1e6;
  return {
    id: 'P11',
    measure: `${count} images mounted, memory of all processes (PSS)`,
    goal: '≤ 400 MB',
    measured: `${megabytes.toFixed(0)} MB`,
    met: megabytes <= 400,
  };
}
