/**
 * The order of test files. Where vitest has no times of an earlier run, as in a fresh clone, it begins with the largest files. Those
 * that take longest would then come anywhere, and one of them at the end leaves a processor idle.
 */
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** Files of more than 25 s. Their order matters little. */
const LONG = [
  'e2e/lazy-mount',
  // The release that it builds is what others install.
  'ops/release',
  'clients/containerd',
  'clients/docker',
  'replay/slow-starts',
  'ops/oci-image',
  'engine/incidents',
  'faults/supervision',
  'faults/forged-sidecar',
  'e2e/untouched',
  'faults/registry-away',
  'console/page',
  'engine/scrub',
  'engine/cache',
  'clients/daemonset',
  'ops/systemd',
  'console/starts-page',
  'faults/killed-processes',
  'faults/engine-swap',
  'clients/image-service',
  'faults/recovery',
  'clients/disk-pressure',
  'faults/pressure',
  'faults/bad-bytes',
  'ops/arm64',
  'console/follow',
  'faults/nats-away',
  'e2e/hints',
  'supervisor/indexers',
  'faults/cold-readers',
  'clients/crio',
  'clients/churn',
  'fleet/egress',
].map((name) => `/test/${name}.test.ts`);

export default class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification) => {
      const found = LONG.findIndex((name) => moduleId.endsWith(name));
      return found < 0 ? LONG.length : found;
    };
    return (await super.sort(files)).toSorted((a, b) => place(a) - place(b));
  }
}
