/**
 * `node ops/critest.ts [--snapshotter cofa,overlayfs] [--containerd 2.4] [--focus REGEX] [--skip REGEX] [--keep FOLDER]
 * [--json]`: critest of cri-tools, the suite of the kubelet's interface, on containerd with each snapshotter, with the same
 * images; prints where they differ. Ends with 1 where a test passes on one and fails on another. It makes its images of Debian's
 * busybox and indexes them, so that cofa has them lazily. The tests wait more than they do, so three nodes have a third of them
 * each, unless `--focus` or `--skip` say which ones are to run. Takes root and `ops/judges critest containerd-2.4`. `--keep`: for
 * what critest and the node's services write.
 */
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { parseArgs } from 'node:util';
import * as z from 'zod';
import { type CritestImages, pushCritestImages } from '../test/cluster/critest-images.ts';
import { makeNode } from '../test/cluster/node.ts';
import { eventually } from '../test/support/engine.ts';
import { type RegistryServer, startRegistry } from '../test/support/registry-server.ts';
import { wholeGetsOf } from '../test/clients/images.ts';
import { Cleanup } from '../test/support/temp.ts';
import { textTable } from './bench/measure.ts';
import { containerdPath } from './images/debs.ts';
import { judgeAtHand } from './images/judges.ts';

const { values } = parseArgs({
  options: {
    snapshotter: { type: 'string', default: 'cofa,overlayfs' },
    containerd: { type: 'string', default: '2.4' },
    focus: { type: 'string' },
    skip: { type: 'string' },
    keep: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
});

type Outcome = 'passed' | 'failed' | 'skipped';
interface Result {
  outcome: Outcome;
  /** Of what did not pass: its first line. */
  reason: string;
  seconds: number;
}
interface Run {
  /** By the test's name. */
  results: Map<string, Result>;
  /** Requests for whole layers. */
  layersFetched: number;
}

/** What critest takes to run some of its tests, and a subnet that no other node has. */
interface Part {
  name: string;
  select: readonly string[];
  subnet: string;
}

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

/** What ginkgo writes for `--ginkgo.json-report`. */
const reportSchema = z.array(
  z.object({
    SpecReports: z.array(
      z.object({
        LeafNodeType: z.string(),
        ContainerHierarchyTexts: z.array(z.string()).nullable(),
        LeafNodeText: z.string(),
        State: z.string(),
        /** Nanoseconds. */
        RunTime: z.number(),
        Failure: z.object({ Message: z.string() }).optional(),
      }),
    ),
  }),
);

const say = (line: string) => console.error(`critest: ${line}`);
const critest = judgeAtHand('critest', { onProgress: say });
if (critest === undefined) process.exit(2);
const path = [critest, await containerdPath(values.containerd)].join(delimiter);
const cleanup = new Cleanup();
const runs = new Map<string, Run>();
try {
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const work = await cleanup.tempDir('critest');
  say('makes its images');
  const images = await pushCritestImages(work, registry.host);
  for (const name of values.snapshotter.split(',')) {
    if (name !== 'cofa' && name !== 'overlayfs')
      throw new Error(`--snapshotter is cofa or overlayfs, not ${name}`);
    say(`runs on ${name}`);
    const before = wholeGetsOf(registry, images);
    // Each node is ended, also where another one fails.
    const parts = await Promise.allSettled(
      PARTS.map(async (part) => {
        const folder = join(values.keep ?? work, `${name}-${part.name}`);
        await mkdir(folder, { recursive: true });
        return await tryOn(name, { registry, images, folder, part });
      }),
    );
    const layersFetched = wholeGetsOf(registry, images) - before;
    const results = parts.flatMap((one) => {
      if (one.status === 'rejected') throw one.reason;
      return [...one.value];
    });
    runs.set(name, { results: new Map(results), layersFetched });
  }
} finally {
  await cleanup.run();
}
const outcomesOf = (test: string) =>
  new Set([...runs.values()].map(({ results }) => results.get(test)?.outcome));
const tests = [...new Set([...runs.values()].flatMap(({ results }) => [...results.keys()]))];
const differences = tests.filter((test) => outcomesOf(test).size > 1);
console.log(values.json ? json() : summary());
process.exit(differences.length === 0 ? 0 : 1);

/** Runs a part once, on a node of its own. */
async function tryOn(
  snapshotter: 'cofa' | 'overlayfs',
  {
    registry,
    images,
    folder,
    part,
  }: { registry: RegistryServer; images: CritestImages; folder: string; part: Part },
): Promise<Map<string, Result>> {
  const own = new Cleanup();
  try {
    const main = join(import.meta.dirname, '../src/cli/main.ts');
    const cofa = [process.execPath, main, '--root', '/var/lib/cofa'];
    const up = [...cofa, 'up', '--foreground', '--snapshotter', '--trust', 'registry', '--no-rehearsal'];
    const mirror = `http://${registry.host}`;
    const node = await makeNode({
      path,
      services: snapshotter === 'cofa' ? { cofa: up } : {},
      sandboxImage: images.sandbox,
      subnet: part.subnet,
      mirrors: Object.fromEntries(images.registries.map((name) => [name, mirror])),
      cleanup: own,
    });
    await node.boot();
    if (snapshotter === 'cofa') {
      const served = () => node.run('test', ['-S', '/var/lib/cofa/run/snapshotter.sock']).then(() => true);
      await eventually('cofa serves', served, 60_000);
      const [program, ...args] = [...cofa, 'install', 'k8s', '--no-unit'];
      await node.run(program as string, args);
      await node.run('systemctl', ['restart', 'containerd']);
      const isThere = async () =>
        /^io\.containerd\.snapshotter\.v1 +cofa /m.test(await node.run('ctr', ['plugins', 'ls']));
      await eventually('containerd uses cofa', isThere, 30_000);
    }
    const [report, log] = [join(folder, 'report.json'), join(folder, 'critest.log')];
    // Its tests do not depend on their order; the same order makes runs comparable.
    const args = [
      `--ginkgo.json-report=${report}`,
      '--ginkgo.seed=1',
      '--ginkgo.no-color',
      '--ginkgo.timeout=40m',
      '--nri-socket=/run/nri/nri.sock',
      ...part.select,
    ];
    // It ends with 1 where a test fails; the report says which.
    const script = `exec critest "$@" >${log} 2>&1`;
    await node.run('sh', ['-c', script, 'sh', ...args], { timeoutMs: 45 * 60_000 }).catch(() => {});
    if (values.keep !== undefined)
      for (const service of ['containerd', ...(snapshotter === 'cofa' ? ['cofa'] : [])])
        await writeFile(join(folder, `${service}.log`), node.log(service));
    if (!existsSync(report))
      throw new Error(`critest wrote no report:\n${(await readFile(log, 'utf8')).slice(-3000)}`);
    return resultsOf(JSON.parse(await readFile(report, 'utf8')));
  } finally {
    await own.run();
  }
}

function resultsOf(report: unknown): Map<string, Result> {
  const specs = reportSchema.parse(report).flatMap(({ SpecReports }) => SpecReports);
  const results = new Map<string, Result>();
  for (const { LeafNodeType, ContainerHierarchyTexts, LeafNodeText, State, RunTime, Failure } of specs) {
    const reason = Failure?.Message.trim().split('\n')[0] ?? '';
    // What another part has is skipped without a reason.
    if (LeafNodeType !== 'It' || (State === 'skipped' && reason === '')) continue;
    const name = [...(ContainerHierarchyTexts ?? []), LeafNodeText].join(' ').replace(/^\[k8s\.io\] /, '');
    const outcome = State === 'passed' || State === 'skipped' ? State : 'failed';
    results.set(name, { outcome, reason, seconds: RunTime / 1e9 });
  }
  return results;
}

function json(): string {
  const plain = [...runs].map(([name, { results, layersFetched }]) => [
    name,
    { layersFetched, tests: Object.fromEntries(results) },
  ]);
  return JSON.stringify(Object.fromEntries(plain), undefined, 2);
}

function summary(): string {
  const rows = [...runs].map(([name, { results, layersFetched }]) => {
    const all = [...results.values()];
    const counts = (['passed', 'failed', 'skipped'] as const).map((one) =>
      String(all.filter(({ outcome }) => outcome === one).length),
    );
    const seconds = all.reduce((sum, one) => sum + one.seconds, 0);
    return [name, ...counts, String(layersFetched), `${seconds.toFixed(0)} s`];
  });
  const said = (name: string, test: string) => {
    const { outcome = 'not run', reason = '' } = runs.get(name)?.results.get(test) ?? {};
    return `${name} ${outcome}${reason === '' ? '' : ` (${reason})`}`;
  };
  const [first = ''] = runs.keys();
  const lines = (outcome: Outcome) =>
    tests
      .filter((test) => outcomesOf(test).size === 1 && outcomesOf(test).has(outcome))
      .map((test) => `${outcome} on each: ${test}: ${runs.get(first)?.results.get(test)?.reason ?? ''}`);
  return [
    textTable([['containerd on', 'passed', 'failed', 'skipped', 'layers fetched', 'took'], ...rows]),
    ...lines('skipped'),
    ...lines('failed'),
    ...differences.map(
      (test) => `differs: ${test}: ${[...runs.keys()].map((name) => said(name, test)).join('; ')}`,
    ),
  ].join('\n');
}
