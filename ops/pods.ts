/**
 * Pods that all start at once, on cofa's snapshotter and on overlayfs in turns (test/support/many-pods.ts).
 *
 *     node ops/pods.ts [--pods 50] [--containerd 1.6|1.7|2.1|2.2|2.3|2.4] [--snapshotter cofa,overlayfs] [--rounds 1] [--new] [--json]
 *
 * Prints a table of what they took. `--new`: with an engine of the first second, that neither rehearses nor gives way.
 */
import { type ManyPodsReport, manyPods } from '../test/support/many-pods.ts';
import { byProcess, engineTime } from './bench/engine-time.ts';
import { median, textTable } from './bench/measure.ts';
import { processSeconds } from './bench/process-time.ts';
import { containerdPath } from './images/debs.ts';
import { programOptions } from './program-options.ts';

const { values } = programOptions(import.meta.filename, {
  options: {
    pods: { type: 'string', default: '50' },
    snapshotter: { type: 'string', default: 'cofa' },
    containerd: { type: 'string', default: '1.6' },
    rounds: { type: 'string', default: '1' },
    new: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
  },
});
const snapshotters = values.snapshotter.split(',').map((name) => {
  if (name !== 'cofa' && name !== 'overlayfs')
    throw new Error(`--snapshotter is cofa or overlayfs, not ${name}`);
  return name;
});
const path = await containerdPath(values.containerd);
const say = (line: string) => console.error(`pods: ${line}`);

/** Of the engine by process, and of containerd itself. */
function times(root: string | undefined, containerd: number): Map<string, number> {
  const all = root === undefined ? new Map<string, number>() : byProcess(engineTime(root));
  return all.set('containerd', processSeconds(containerd));
}

const reports: ManyPodsReport[] = [];
for (let round = 0; round < Number(values.rounds); round++) {
  for (const snapshotter of round % 2 === 0 ? snapshotters : snapshotters.toReversed()) {
    const report = await manyPods({
      pods: Number(values.pods),
      snapshotter,
      onProgress: (line) => say(`${snapshotter}: ${line}`),
      asInstalled: !values.new,
      times,
      ...(path === undefined ? {} : { path }),
    });
    say(`${snapshotter}: ${JSON.stringify(report.readyMs)} ${JSON.stringify(report.processorS)}`);
    reports.push(report);
  }
}
if (values.json) console.log(JSON.stringify(reports, undefined, 2));
else console.log(table());
process.exit(reports.every(({ failures, left }) => failures.length + left.length === 0) ? 0 : 1);

function table(): string {
  const rows = snapshotters.map((name) => {
    const of = reports.filter(({ snapshotter }) => snapshotter === name);
    const seconds = (pick: (one: ManyPodsReport) => number) => (median(of.map(pick)) / 1000).toFixed(1);
    const processes = new Set(of.flatMap(({ processorS }) => Object.keys(processorS)));
    const shares = [...processes].map(
      (one) => `${one} ${median(of.map(({ processorS }) => processorS[one] ?? 0)).toFixed(1)}`,
    );
    return [
      `${of[0]?.containerd ?? ''} ${name}`,
      seconds(({ readyMs }) => readyMs.first),
      seconds(({ readyMs }) => readyMs.median),
      seconds(({ readyMs }) => readyMs.last),
      seconds(({ stopMs }) => stopMs),
      `${of.reduce((sum, { failures }) => sum + failures.length, 0)}`,
      `${of.reduce((sum, { left }) => sum + left.length, 0)}`,
      shares.join(', '),
    ];
  });
  const head = ['s', 'first', 'median', 'last', 'stopped', 'failed', 'left', 'processor seconds'];
  return textTable([head, ...rows]);
}
