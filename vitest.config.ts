import { configDefaults, defineConfig } from 'vitest/config';
import LongestFirst from './test/support/longest-first.ts';

/** A test of all of it, which no other engine may run beside (ops/test). */
const CLUSTER = 'test/cluster/cluster.test.ts';

/**
 * Tests that need root or a daemon (nats-server, docker-registry, containerd, dockerd), or that take more than ten seconds.
 * `npm run test:fast` leaves them out: it is for any user, and takes some two minutes on two cores. `--mode engines` runs them
 * alone, but for the cluster's.
 */
export const ENGINES = [
  'adversary/*',
  'bus/*',
  'cli/{doctor,engine,index,nats-password,service,sign}',
  'client/over-nats',
  'cluster/{cluster,disk-pressure}',
  'console/{follow,large-layer,million,page,starts-page}',
  'clients/*',
  'docs/site',
  'container/{remove-folder,run}',
  'e2e/*',
  'engine/*',
  'faults/*',
  'fetch/{scrub-job,start-jobs}',
  'fleet/{egress,faults,kubernetes,rights,tier,witness}',
  'front-end/{front-end,trace}',
  'fuse/*',
  'image/{erofs,erofs-check,spans,tar-tools,tree}',
  'images/*',
  'index/{cut-spans,image-hints,index-image,rebuild-flat}',
  'install/install',
  'kernel/*',
  'ops/{arm64,bench-fleet-start,install,oci-image,pulled-image,relay,release,systemd}',
  'pack/pack-store',
  'registry/{docker-registry,tarpit,transport}',
  'replay/{engine,live-log,perfetto,slow-starts,start-wall,what-if-engine}',
  'signature/cosign',
  'snapshotter/*',
  'store/{disk-room,event-log,event-log-faults,flawed-records,lock,replay,snapshots,torn-log}',
  'supervisor/{api,discards,in-process,indexers,leftovers,mounts}',
  'support/*',
].map((name) => `test/${name}.test.ts`);

// Tests wait for the kernel, for deadlines and for processes more than they compute, so files run side by side, most of them
// on two cores. Each file finds what it leaves behind by its own marks (test/support/leaks.ts).
export default defineConfig(({ mode }) => ({
  test: {
    include: mode === 'engines' ? ENGINES : ['test/**/*.test.ts'],
    exclude: [
      ...configDefaults.exclude,
      ...(mode === 'fast' ? ENGINES : []),
      ...(mode === 'engines' ? [CLUSTER] : []),
    ],
    globalSetup: ['test/support/global-setup.ts'],
    setupFiles: ['test/support/after-file.ts'],
    // The settings of the machine (src/cli/config-file.ts) are no test's.
    env: { COFA_CONFIG: '/dev/null' },
    pool: 'forks',
    maxWorkers: 2,
    sequence: { sequencer: LongestFirst },
    testTimeout: 120_000,
    hookTimeout: 240_000,
    // A busy machine gives a process its turn late: vitest's own limit is a second.
    expect: { poll: { timeout: 60_000 } },
  },
}));
