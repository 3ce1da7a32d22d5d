/**
 * The order of test files. Where vitest has no times of an earlier run, as in a fresh clone, it begins with the largest files. Those
 * that take longest would then come anywhere, and one of them at the end leaves a processor idle.
 *
 * Two of those that work would have half a processor less each, and two of those that wait would leave the processors idle. So while
 * one of the first kind runs, the second place is for some of the other kind.
 */
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** Files of more than 25 s that keep a processor busy and more, with the seconds that they take beside others. */
const WORK = [
  ['e2e/lazy-mount', 230],
  // The release that it builds is what others install. Its engine of 0.1.0 knows its loop devices by the root's path alone.
  ['ops/release', 240],
  ['clients/containerd', 200],
  ['clients/docker', 165],
  ['e2e/untouched', 90],
  ['ops/oci-image', 70],
  ['console/page', 55],
  ['ops/systemd', 55],
  ['ops/arm64', 50],
  ['clients/daemonset', 50],
  ['console/starts-page', 45],
  ['console/large-layer', 25],
] as const;

/** Files of more than 25 s that wait most of the time: for deadlines, slow links and what is quiet for a while. */
const WAIT = [
  ['replay/slow-starts', 120],
  ['cluster/disk-pressure', 100],
  ['engine/incidents', 60],
  ['faults/power-loss', 60],
  ['faults/registry-away', 55],
  ['engine/cache', 55],
  ['faults/supervision', 55],
  ['faults/forged-sidecar', 50],
  ['faults/engine-swap', 50],
  ['engine/scrub', 45],
  ['faults/killed-processes', 45],
  ['engine/metrics-rise', 45],
  ['clients/crio', 40],
  ['replay/start-wall', 40],
  ['clients/disk-pressure', 40],
  ['faults/bad-bytes', 40],
  ['clients/image-service', 40],
  ['faults/recovery', 35],
  ['e2e/hints', 35],
  ['e2e/startup-pack', 35],
  ['faults/pressure', 35],
  ['faults/nats-away', 35],
  ['replay/perfetto', 30],
  ['console/follow', 30],
  ['faults/cold-readers', 30],
  ['clients/churn', 30],
  ['clients/podman', 30],
  ['supervisor/indexers', 30],
  ['fleet/egress', 30],
  ['fleet/witness', 25],
] as const;

/** Both kinds in the order in which they begin where each has a place of its own. */
const LONG = [...begins(WORK), ...begins(WAIT)]
  .toSorted((a, b) => a.at - b.at)
  .map(({ name }) => `/test/${name}.test.ts`);

export default class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification) => {
      const found = LONG.findIndex((name) => moduleId.endsWith(name));
      return found < 0 ? LONG.length : found;
    };
    return (await super.sort(files)).toSorted((a, b) => place(a) - place(b));
  }
}

/** One after the other; seconds. */
function begins(
  files: ReadonlyArray<readonly [name: string, seconds: number]>,
): Array<{ name: string; at: number }> {
  let end = 0;
  return files.map(([name, seconds]) => {
    const at = end;
    end += seconds;
    return { name, at };
  });
}
