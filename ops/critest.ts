/**
 * `node ops/critest.ts [--runtime containerd-2.4|crio] [--with overlayfs,cofa] [--focus REGEX] [--skip REGEX] [--keep FOLDER]
 * [--again 5] [--json]`: critest of cri-tools, the suite of the kubelet's interface, on nodes without cofa and on nodes with it, with the same
 * images; prints what each test came to, and where the sides differ. Ends with 1 where they do, but for what docs/crio.md says. It
 * makes its images of Debian's busybox and indexes them, so that cofa has them lazily. The tests wait more than they do, so three
 * nodes have a third of them each, unless `--focus` or `--skip` say which ones are to run. What differs is run again, `--again` times on each
 * side: a test that differs from run to run is no difference between the sides. All of it is in a network of its own.
 * Takes root and `ops/judges critest containerd-2.4 crio`. `--keep`: for what critest and the nodes' services write.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { BUSYBOX, pushCritestImages } from '../test/cluster/critest-images.ts';
import { wholeGetsOf } from '../test/clients/images.ts';
import { startRegistry } from '../test/support/registry-server.ts';
import { Cleanup } from '../test/support/temp.ts';
import { type Part, programsOf, type Side, SIDES, tryOn } from './critest/nodes.ts';
import {
  compared,
  type Difference,
  isNews,
  type Known,
  type Outcome,
  type Result,
  type Run,
  summary,
} from './critest/report.ts';
import { unpackedDebs } from './images/debs.ts';
import { programOptions } from './program-options.ts';

const { values } = programOptions(import.meta.filename, {
  options: {
    runtime: { type: 'string', default: 'containerd-2.4' },
    with: { type: 'string', default: SIDES.join() },
    focus: { type: 'string' },
    skip: { type: 'string' },
    keep: { type: 'string' },
    again: { type: 'string', default: '5' },
    json: { type: 'boolean', default: false },
    // It is in its own network already.
    inside: { type: 'boolean', default: false },
  },
});

/** On containerd there is none. */
const KNOWN: readonly Known[] =
  values.runtime === 'crio'
    ? [
        {
          test: /UserNamespaces .*NamespaceMode_POD/,
          why: 'docs/crio.md: pods with users of their own do not start on layers of an additional store',
        },
      ]
    : [];

const select = (focus: string | undefined, skip?: string): string[] => [
  ...(focus === undefined ? [] : [`--ginkgo.focus=${focus}`]),
  ...(skip === undefined ? [] : [`--ginkgo.skip=${skip}`]),
];
const FIRST = String.raw`\[k8s\.io\] Security Context`;
const SECOND = String.raw`\[k8s\.io\] (NRI|SELinux|AppArmor|Image|Idempotence)`;
const PARTS: readonly Part[] =
  values.focus === undefined && values.skip === undefined
    ? [
        { name: '1', select: select(FIRST), subnet: '192.0.2.0/24' },
        { name: '2', select: select(SECOND), subnet: '198.51.100.0/24' },
        { name: '3', select: select(undefined, `${FIRST}|${SECOND}`), subnet: '203.0.113.0/24' },
      ]
    : [{ name: '1', select: select(values.focus, values.skip), subnet: '203.0.113.0/24' }];

const say = (line: string) => console.error(`critest: ${line}`);
const sides = values.with.split(',').map((name) => {
  const side = SIDES.find((one) => one === name);
  if (side === undefined) throw new Error(`--with is ${SIDES.join(' or ')}, not ${name}`);
  return side;
});
const programs = await programsOf(values.runtime, say);
if (programs === undefined) process.exit(2);
if (!values.inside) {
  // There is no way to Debian's packages from the network of its own.
  await unpackedDebs(BUSYBOX, { onProgress: say });
  process.exit(inOwnNetwork());
}

const cleanup = new Cleanup();
const runs = new Map<string, Run>();
try {
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const work = await cleanup.tempDir('critest');
  say('makes its images');
  const images = await pushCritestImages(work, registry.host);
  for (const side of sides) {
    say(`runs on ${values.runtime} with ${side}`);
    const before = wholeGetsOf(registry, images);
    // Each node is ended, also where another one fails.
    const parts = await Promise.allSettled(
      PARTS.map(async (part) => {
        const folder = join(values.keep ?? work, `${side}-${part.name}`);
        const keepLogs = values.keep !== undefined;
        return await tryOn(side, { programs, registry, images, folder, part, keepLogs });
      }),
    );
    const layersFetched = wholeGetsOf(registry, images) - before;
    const results = parts.flatMap((one) => {
      if (one.status === 'rejected') throw one.reason;
      return [...one.value];
    });
    runs.set(side, { results: new Map(results), layersFetched });
  }
  await runAgain(compared(runs, KNOWN).differences.filter(isNews), async (side, part) => {
    const folder = join(values.keep ?? work, `${side}-${part.name}`);
    return await tryOn(side, { programs, registry, images, folder, part, keepLogs: false });
  });
} finally {
  await cleanup.run();
}
console.log(values.json ? json() : summary(runs, KNOWN));
const { differences, gone } = compared(runs, KNOWN);
process.exit(differences.some(isNews) || gone.length > 0 ? 1 : 0);

/** Tests that differ are run again, on both sides: some of them fail now and then on each. */
async function runAgain(
  different: readonly Difference[],
  on: (side: Side, part: Part) => Promise<Map<string, Result>>,
): Promise<void> {
  if (different.length === 0 || sides.length < 2) return;
  const quoted = different.map(({ test }) => test.replaceAll(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`));
  const part = { select: select(quoted.join('|')), subnet: '203.0.113.0/24' };
  for (const side of sides) {
    const again = new Map<string, Outcome[]>();
    for (let round = 1; round <= Number(values.again); round++) {
      say(`runs ${different.length} tests on ${side} again`);
      for (const [test, { outcome }] of await on(side, { ...part, name: `again-${round}` }))
        again.set(test, [...(again.get(test) ?? []), outcome]);
    }
    const run = runs.get(side);
    if (run !== undefined) runs.set(side, { ...run, again });
  }
}

/** Runs this program again where ports and rules of the kernel are not the machine's. Its exit code. */
function inOwnNetwork(): number {
  const script = 'ip link set lo up && exec "$@"';
  const self = [process.execPath, import.meta.filename, ...process.argv.slice(2), '--inside'];
  const args = ['--pdeathsig', 'TERM', '--', 'unshare', '--net', '--', 'sh', '-c', script, 'sh', ...self];
  const { status, error } = spawnSync('setpriv', args, { stdio: 'inherit' });
  if (error !== undefined) throw error;
  return status ?? 1;
}

function json(): string {
  const plain = [...runs].map(([name, { results, layersFetched }]) => [
    name,
    { layersFetched, tests: Object.fromEntries(results) },
  ]);
  return JSON.stringify(Object.fromEntries(plain), undefined, 2);
}
