/**
 * What `kubectl get pods` says of pods on a node that has nothing of their images: a node with overlayfs and one with cofa,
 * in turns, in a cluster of Kubernetes' own programs (test/cluster), with 1 Gbit/s and 5 ms between node and registry.
 *
 *     node ops/bench/cluster-pods.ts [--cases 'sklearn; tensorflow; sklearn+rust+tensorflow'] [--rounds 3]
 *                                    [--sides 'overlayfs; cofa'] [--rate 1G] [--rtt 5] [--keep-free 20]
 *                                    [--json FILE] [--picture FILE.svg]
 *     node ops/bench/cluster-pods.ts --from FILE [--picture FILE.svg] [--markdown]    shows what was measured before
 *
 * A case is a pod of an image (ops/images), of several (`a+b`), or copies (`a*3`), applied by one `kubectl apply`. Sides:
 *
 *     overlayfs          containerd 2.4 as it comes, but that its kubelet has images pulled side by side
 *     overlayfs, tuned   the same with the settings of current-containerd.ts
 *     cofa               ops/kubernetes applied as it stands, with a key in its ConfigMap; the images have signed sidecars,
 *                        and a pack that `cofa pack push` has put beside each after one recorded start on another node
 *
 * Each start has a node of its own with an empty disk. It is Ready, its engine has rehearsed, a small pod has run, all is
 * at rest, and the page cache was dropped. What kubectl says comes from one `kubectl get pods --watch`: one call after
 * another would take its processor time from what is measured. Time runs from the call of `kubectl apply`. A kubelet looks
 * once a second whether a container has ended.
 *
 * Prints the listings of all sides at the same seconds (of the round of the middle end), and a table: when all pods were
 * Running and Completed, median and spread; MB over the link until then; processors that the rest of the machine, its
 * kernel included, had busy meanwhile. `--markdown`: the table alone, as docs/kubernetes.md has it. `--json` is written
 * after each start. Each pod must have said the same as on the other sides. `--keep-free`: the engine's, where less of the
 * disk of /tmp is free than the DaemonSet says. Needs root, `ops/judges kubernetes containerd-2.4` and 4 GB of memory.
 * Ctrl-C leaves nothing.
 */
import { statfsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pushEngineImages } from '../../test/cluster/engine-image.ts';
import { makeBase, makeClientImage, push } from '../../test/clients/images.ts';
import { startRegistry } from '../../test/support/registry-server.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { realImage } from '../images/debian.ts';
import { JUDGES, judgeAtHand } from '../images/judges.ts';
import { layoutLayers, pushLayout } from '../images/layout.ts';
import { programOptions } from '../program-options.ts';
import { CONTAINERD_JUDGE, eventsOf, onNewNode, type Place, podOf, startCluster } from './cluster-nodes.ts';
import { interruption } from './interruption.ts';
import { COFA, dropCaches, interrupt, markdownTable, textTable, timed } from './measure.ts';
import {
  type Case,
  casesOf,
  type Change,
  listingAt,
  middleOf,
  momentsOf,
  type PodResults,
  type PodStart,
  rowOf,
  type Side,
  SIDES,
  sidesOf,
  timesTable,
  titleOf,
} from './pod-times.ts';
import { podsPicture } from './pods-picture.ts';
import { parseRate, type Relay, startRelay } from './relay.ts';
import { joinTimeGroup } from './time-group.ts';
import { pushPack } from './ways.ts';

const { values } = programOptions(import.meta.filename, {
  options: {
    cases: { type: 'string', default: 'sklearn; tensorflow; sklearn+rust+tensorflow' },
    rounds: { type: 'string', default: '3' },
    sides: { type: 'string', default: 'overlayfs; cofa' },
    rate: { type: 'string', default: '1G' },
    rtt: { type: 'string', default: '5' },
    'keep-free': { type: 'string', default: '20' },
    from: { type: 'string' },
    json: { type: 'string' },
    picture: { type: 'string' },
    markdown: { type: 'boolean', default: false },
  },
});
/** What starts take of the disk: a part of it. */
const ROOM = 0.03;
/** All pods of a start have ended by then, ms. */
const LIMIT_MS = 600_000;
/** kubectl has begun to watch, ms. */
const WATCHES_MS = 1500;

const say = (line: string) => console.error(`cluster-pods: ${line}`);

interface Image {
  name: string;
  manifest: string;
  layers: ReadonlyArray<{ digest: string; size: number }>;
  sidecarBytes: number;
  packBytes: number;
}

async function main(): Promise<void> {
  const results =
    values.from === undefined
      ? await measured()
      : (JSON.parse(await readFile(values.from, 'utf8')) as PodResults);
  if (results === undefined || results.starts.length === 0) return;
  if (!values.markdown) for (const one of results.cases) console.log(listings(results, one));
  console.log((values.markdown ? markdownTable : textTable)(timesTable(results)));
  if (values.picture !== undefined) await writeFile(values.picture, podsPicture(results, captionOf(results)));
}

async function measured(): Promise<PodResults | undefined> {
  const interrupted = interruption(say);
  interrupted.addEventListener('abort', interrupt);
  const cases = casesOf(values.cases);
  const sides = values.sides.split(';').map((name) => sideOf(name.trim()));
  const programs = judgeAtHand('kubernetes', { onProgress: say });
  const containerd = judgeAtHand(CONTAINERD_JUDGE, { onProgress: say });
  if (programs === undefined || containerd === undefined || !hasRoom()) {
    process.exitCode = 2;
    return undefined;
  }
  const cleanup = new Cleanup();
  const results: PodResults = {
    machine: {
      kernel: (await readFile('/proc/sys/kernel/osrelease', 'utf8')).trim(),
      cores: availableParallelism(),
    },
    kubernetes: JUDGES.kubernetes.version,
    containerd: JUDGES[CONTAINERD_JUDGE].version,
    rate: values.rate,
    rttMs: Number(values.rtt),
    images: [],
    cases: [],
    starts: [],
  };
  try {
    await measure(results, { cases, sides, programs, interrupted, cleanup });
  } catch (error) {
    // What fails since this program is to end is no news.
    if (!interrupted.aborted) {
      console.error(error);
      process.exitCode = 1;
    }
  }
  await cleanup.run().catch((error: unknown) => {
    console.error(error);
    process.exitCode ||= 1;
  });
  return results;
}

/** With less an engine fetches nothing ahead, and is no engine as it should be. */
function hasRoom(): boolean {
  const { bavail, blocks } = statfsSync(tmpdir());
  if (bavail / blocks > Number(values['keep-free']) / 100 + ROOM) return true;
  say(`less than ${values['keep-free']} % of the disk of ${tmpdir()} would be free: --keep-free takes less`);
  return false;
}

function sideOf(name: string): Side {
  const side = SIDES.find((one) => one === name);
  if (side === undefined) throw new Error(`--sides: ${name} is none of: ${SIDES.join('; ')}`);
  return side;
}

/** Fills `results`. */
async function measure(
  results: PodResults,
  o: {
    cases: readonly Case[];
    sides: readonly Side[];
    programs: string;
    interrupted: AbortSignal;
    cleanup: Cleanup;
  },
): Promise<void> {
  const { cases, sides, programs, interrupted, cleanup } = o;
  const group = await joinTimeGroup(`cofa-cluster-pods-${process.pid}`);
  cleanup.defer(() => group.leave());
  const work = await cleanup.tempDir('cluster-pods');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const signer = join(work, 'signer');
  await timed(COFA, ['key', 'create', '--out', signer]);
  await pushOwn(work, registry.host, cleanup);
  const images = new Map<string, Image>();
  for (const name of new Set(cases.flatMap(({ pods }) => pods.map(({ image }) => image)))) {
    interrupted.throwIfAborted();
    images.set(name, await pushImage(name, registry.host, `${signer}.key`));
  }
  results.images = [...images.values()].map((image) => {
    const { name, sidecarBytes, packBytes } = image;
    return { name, bytes: bytesOf([image]), sidecarBytes, packBytes };
  });
  results.cases = cases.map((one) => ({
    ...one,
    bytes: bytesOf(one.pods.map(({ image }) => images.get(image) as Image)),
  }));
  const relay = await startRelay({
    to: { host: '127.0.0.1', port: registry.port },
    rate: parseRate(values.rate),
    rttMs: Number(values.rtt),
  });
  cleanup.defer(() => relay.stop());
  say('the control plane starts');
  const cluster = await startCluster(programs, `${signer}.pub`, cleanup);
  const hosts = { near: registry.host, far: relay.host, keepFree: values['keep-free'] };
  const place: Place = { cluster, programs, ...hosts, seconds: group.seconds, interrupted, say };
  const said = new Map<string, string>();
  for (let round = 1; round <= Number(values.rounds); round++)
    for (const one of cases)
      for (const side of round % 2 === 1 ? sides : sides.toReversed()) {
        const start = await oneStart(place, relay, { one, side, round, images, said });
        results.starts.push(start);
        const ended = (Math.max(...start.changes.map(({ atMs }) => atMs)) / 1000).toFixed(1);
        say(`${one.name}, round ${round} of ${values.rounds}: ${side} ${ended} s`);
        if (values.json !== undefined)
          await writeFile(values.json, `${JSON.stringify(results, undefined, 1)}\n`);
      }
}

/** Layers that several have are counted once. */
const bytesOf = (images: readonly Image[]): number =>
  [
    ...new Map(
      images.flatMap(({ layers }) => layers.map(({ digest, size }) => [digest, size] as const)),
    ).values(),
  ].reduce((sum, size) => sum + size, 0);

/** The images of cofa and of pods' first container. */
async function pushOwn(work: string, host: string, cleanup: Cleanup): Promise<void> {
  say('the image of cofa is made of this checkout');
  await pushEngineImages(work, host, cleanup);
  const config = { Env: ['PATH=/bin'], Cmd: ['/bin/wait'] };
  const pause = await makeClientImage(work, await makeBase(work), 'pause', { big: 1, said: 'up', config });
  await push(pause, host, 'pause');
}

/** With a signed sidecar, and the pack of a recorded start. */
async function pushImage(name: string, host: string, key: string): Promise<Image> {
  const layout = await realImage(name, { onProgress: say });
  const ref = `${host}/${name}:1`;
  await pushLayout(layout, host, name, '1');
  say(`${name}: is indexed, and started once to record it`);
  const { output } = await timed(COFA, ['--json', 'index', '--sign', key, ref]);
  const { sidecarBytes } = JSON.parse(output) as { sidecarBytes: number };
  const packBytes = await pushPack(ref);
  if (packBytes === 0) throw new Error(`no pack of ${name} was made`);
  const layers = await layoutLayers(layout);
  return { name, manifest: layout.manifest.digest, layers, sidecarBytes, packBytes };
}

/** Applies the pods on a new node, and waits for their ends; `said`: what a container of each image has to say, by its name. */
async function oneStart(
  place: Place,
  relay: Relay,
  o: { one: Case; side: Side; round: number; images: ReadonlyMap<string, Image>; said: Map<string, string> },
): Promise<PodStart> {
  const { one, side, round, images, said } = o;
  const { cluster } = place;
  return await onNewNode(place, side, async (node) => {
    await dropCaches();
    const seen: Array<{ at: number; line: string }> = [];
    const watch = cluster.follow(['get', 'pods', '--watch', '--no-headers'], (line) => {
      seen.push({ at: performance.now(), line });
    });
    try {
      await sleep(WATCHES_MS);
      const [own, all, bytes] = [await node.seconds(), await machineSeconds(), relay.counters().toClient];
      const began = performance.now();
      await cluster.apply(...one.pods.map(({ pod, image }) => podOf(pod, image)));
      const changes = await untilEnded(place, one, () =>
        seen.flatMap(({ at, line }) => {
          const row = rowOf(line);
          return row === undefined ? [] : [{ atMs: Math.round(at - began), ...row }];
        }),
      );
      const took = (performance.now() - began) / 1000;
      const others = (await machineSeconds()) - all - ((await node.seconds()) - own);
      const start: PodStart = {
        case: one.name,
        side,
        round,
        changes,
        bytes: relay.counters().toClient - bytes,
        others: Math.max(0, others / took),
      };
      await compareOutputs(place, one, said);
      if (side !== 'cofa') return start;
      const names = [...new Set(one.pods.map(({ image }) => image))];
      const ahead = await node.ahead(names);
      const words = names.map((name) => [name, ahead.get(images.get(name)?.manifest ?? '') ?? '?'] as const);
      return { ...start, ahead: Object.fromEntries(words) };
    } finally {
      await watch.stop();
    }
  });
}

async function untilEnded(place: Place, { pods }: Case, changes: () => Change[]): Promise<Change[]> {
  for (const end = performance.now() + LIMIT_MS; performance.now() < end; await sleep(50)) {
    place.interrupted.throwIfAborted();
    const now = changes();
    const lastOf = (pod: string) => now.findLast((change) => change.pod === pod)?.status;
    if (pods.every(({ pod }) => lastOf(pod) === 'Completed')) return now;
    const failed = now.find(({ status }) => /Err|Failed|BackOff|OOM/.test(status));
    if (failed !== undefined)
      throw new Error(`${failed.pod} is ${failed.status}\n${await eventsOf(place.cluster)}`);
  }
  throw new Error(`pods have not ended: ${JSON.stringify(changes())}\n${await eventsOf(place.cluster)}`);
}

/** Images of ops/images say a line `NAME says …`. */
async function compareOutputs({ cluster }: Place, { pods }: Case, said: Map<string, string>): Promise<void> {
  for (const { pod, image } of pods) {
    const log = await cluster.kubectl(['logs', pod]);
    const line = log.split('\n').find((one) => / (?:says|shows) /.test(one)) ?? log;
    const before = said.get(image) ?? line;
    said.set(image, before);
    if (line !== before) throw new Error(`${pod} has said ${line} and not ${before}`);
  }
}

/** Processor time that the machine had for programs and for itself, s: the first line of /proc/stat, without idle, waits and steal. */
async function machineSeconds(): Promise<number> {
  const [line = ''] = (await readFile('/proc/stat', 'utf8')).split('\n');
  const [user, nice, system, , , irq, softirq] = line.split(/\s+/).slice(1).map(Number);
  return [user, nice, system, irq, softirq].reduce<number>((sum, ticks) => sum + (ticks ?? 0), 0) / 100;
}

/** What kubectl lists on each side at the same moments, side by side. */
function listings(results: PodResults, one: PodResults['cases'][number]): string {
  const starts = sidesOf(results).flatMap((side) => middleOf(results, one, side) ?? []);
  if (starts.length === 0) return '';
  const blocks = momentsOf(results, one).map((moment) => {
    const columns = starts.map((start) => {
      const rows = listingAt(start, moment * 1000);
      const text = rows.map((cells) => cells.map((cell, at) => cell.padEnd(WIDTHS[at] ?? 0)).join(''));
      return [`${start.side}, ${moment} s after apply`, ...text];
    });
    const lines = Math.max(...columns.map(({ length }) => length));
    return Array.from({ length: lines }, (_, at) =>
      columns
        .map((column) => (column[at] ?? '').padEnd(62))
        .join('')
        .trimEnd(),
    ).join('\n');
  });
  return [`${titleOf(one)}`, ...blocks, ''].join('\n\n');
}

const WIDTHS = [15, 8, 20, 11, 4];

function captionOf({ rate, rttMs, containerd, kubernetes }: PodResults): string {
  return `from kubectl apply to Completed; ${rate.replace(/(?=[kMG]$)/, ' ')}bit/s and ${rttMs} ms to the registry; Kubernetes ${kubernetes}, containerd ${containerd}`;
}

await main();
