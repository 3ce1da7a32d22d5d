/**
 * A crowd: containers of several images that all start at once on a node that has nothing of them; the same again at
 * once, while an engine still does what no reader waits for; and once more when all of it is on the node. On cofa, and
 * on a current, tuned containerd (current-containerd.ts), each on a node of its own, in turns.
 *
 *     node ops/bench/crowd.ts [--images gcc,rails,r,arrow,tomcat] [--containers 20,50] [--ways 'cofa, pack; containerd 2.4, tuned']
 *                             [--rounds 1] [--rate 1G] [--rtt 5] [--no-rest] [--program COFA] [--json FILE]
 *
 *     --images NAMES     of ops/images; containers take them in turns
 *     --containers N,…   how many start at once
 *     --ways NAMES       of: 'containerd'; 'containerd 2.4, tuned'; 'cofa, pack'; 'cofa, no pack'; 'cofa, unprepared'
 *     --rate, --rtt      of the emulated link: bits a second, ms
 *     --no-rest          leaves out the third phase, which waits until all is on the node
 *     --program COFA     of another checkout: each way of cofa also with it
 *     --json FILE        all figures
 *
 * Prints for each way and phase when the first, the middle and the last container had ended, in s from the common beginning,
 * the processor time of the whole machine meanwhile, the engine's share of it, and what the engine's processes took.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startRegistry } from '../../test/support/registry-server.ts';
import { type Containerd, type ContainerdOptions, startContainerd } from '../../test/support/services.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { realImage } from '../images/debian.ts';
import { layoutLayers, pushLayout } from '../images/layout.ts';
import { programOptions } from '../program-options.ts';
import { TUNED_NAME, tunedContainerd } from './current-containerd.ts';
import { byProcess, engineTime, type EngineTime, timeBetween } from './engine-time.ts';
import { COFA, dropCaches, type Link, median, onLink, textTable } from './measure.ts';
import { parseRate } from './relay.ts';
import { CALM_MS, onFreshEngine, prepare, PULL_LIMIT_MS, type Repositories, untilWhole } from './ways.ts';

const { values } = programOptions(import.meta.filename, {
  options: {
    images: { type: 'string', default: 'gcc,rails,r,arrow,tomcat' },
    containers: { type: 'string', default: '20,50' },
    ways: { type: 'string', default: `${TUNED_NAME}; cofa, pack` },
    rounds: { type: 'string', default: '1' },
    rate: { type: 'string', default: '1G' },
    rtt: { type: 'string', default: '5' },
    rest: { type: 'boolean', default: true },
    program: { type: 'string' },
    json: { type: 'string' },
  },
  allowNegative: true,
});
const link: Link = { rate: parseRate(values.rate), rttMs: Number(values.rtt) };
const say = (line: string) => console.error(`crowd: ${line}`);

/** USER_HZ of every architecture that cofa runs on. */
const TICKS = 100;

interface Phase {
  /** From the common beginning to the end of each container, ms. */
  endMs: number[];
  /** Processor time of the whole machine meanwhile, s. */
  machine: number;
  /** Of the engine's processes, s. */
  engine: Record<string, number>;
}

/** A node that has nothing of the images. */
interface Node {
  /** All that a user does for a container. */
  start(at: Repositories, n: number): Promise<unknown>;
  /** The same where its image was pulled. */
  again(at: Repositories, n: number): Promise<unknown>;
  /** Resolves when all of these images is on the node. */
  whole(images: readonly Repositories[]): Promise<void>;
  /** Of the engine; empty without one. */
  times(): EngineTime;
}

interface CrowdWay {
  name: string;
  onFreshNode<T>(host: string, work: (node: Node) => Promise<T>): Promise<T>;
}

function cofaWay(name: string, repository: 'plain' | 'indexed' | 'packed', program: string): CrowdWay {
  return {
    name,
    onFreshNode: (host, work) =>
      onFreshEngine(async (cofa, root) => {
        // As with ctr each has a network of its own: servers of one image have one port.
        const start = (at: Repositories) =>
          cofa('run', '--network', 'none', `${host}/${at[repository]}:latest`);
        return await work({
          start,
          again: start,
          // The rest of an image comes while it is mounted.
          whole: async (images) => {
            const dirOf = (at: Repositories) => join(root, `whole-${at[repository]}`);
            for (const at of images) {
              await mkdir(dirOf(at));
              await cofa('mount', `${host}/${at[repository]}:latest`, dirOf(at));
            }
            await untilWhole(cofa);
            for (const at of images) await cofa('unmount', dirOf(at));
          },
          times: () => engineTime(root),
        });
      }, program),
  };
}

function containerdWay(name: string, options: ContainerdOptions): CrowdWay {
  return {
    name,
    onFreshNode: async (host, work) => {
      const daemon = await startContainerd(options);
      try {
        await sleep(CALM_MS);
        return await work(containerdNode(daemon, host));
      } finally {
        await daemon.stop();
      }
    },
  };
}

function containerdNode(daemon: Containerd, host: string): Node {
  const patient = { timeoutMs: PULL_LIMIT_MS };
  const refOf = (at: Repositories) => `${host}/${at.plain}:latest`;
  const again = (at: Repositories, n: number) =>
    daemon.ctr(['run', '--rm', refOf(at), `crowd-${n}`], patient);
  return {
    start: async (at, n) => {
      await daemon.ctr(['images', 'pull', '--plain-http', refOf(at)], patient);
      return await again(at, n);
    },
    again,
    whole: async () => {},
    times: () => new Map(),
  };
}

async function chosenWays(): Promise<CrowdWay[]> {
  const wanted = values.ways.split(';').map((one) => one.trim());
  const tuned = wanted.includes(TUNED_NAME) ? await tunedContainerd(say) : undefined;
  const programs = [
    { suffix: '', program: COFA },
    ...(values.program === undefined ? [] : [{ suffix: ' (other)', program: values.program }]),
  ];
  const all = [
    containerdWay('containerd', {}),
    ...(tuned === undefined ? [] : [containerdWay(TUNED_NAME, tuned)]),
    ...programs.flatMap(({ suffix, program }) => [
      { ...cofaWay('cofa, pack', 'packed', program), suffix },
      { ...cofaWay('cofa, no pack', 'indexed', program), suffix },
      { ...cofaWay('cofa, unprepared', 'plain', program), suffix },
    ]),
  ];
  return all
    .filter(({ name }) => wanted.includes(name))
    .map((way) => ({ ...way, name: `${way.name}${'suffix' in way ? way.suffix : ''}` }));
}

/** Time that the processors worked since the machine is up, s: all but idle and iowait of /proc/stat. */
function busySeconds(): number {
  const [line = ''] = readFileSync('/proc/stat', 'utf8').split('\n');
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = line.split(/\s+/).slice(1).map(Number);
  return (user + nice + system + irq + softirq) / TICKS;
}

async function phase(node: Node, work: ReadonlyArray<() => Promise<unknown>>): Promise<Phase> {
  const [times, busy, began] = [node.times(), busySeconds(), performance.now()];
  const endMs = await Promise.all(
    work.map(async (one) => {
      await one();
      return performance.now() - began;
    }),
  );
  const engine = Object.fromEntries(byProcess(timeBetween(times, node.times())));
  return { endMs, machine: busySeconds() - busy, engine };
}

const PHASES = ['cold', 'again, at once', 'again, at rest'] as const;
type Phases = Partial<Record<(typeof PHASES)[number], Phase>>;

/** All phases of one way. */
async function measure(
  way: CrowdWay,
  images: readonly Repositories[],
  count: number,
  registry: string,
): Promise<Phases> {
  return await onLink(registry, link, (relay) =>
    way.onFreshNode(relay.host, async (node) => {
      await dropCaches();
      const of = (kind: 'start' | 'again', from: number) =>
        Array.from(
          { length: count },
          (_, n) => () => node[kind](images[n % images.length] as Repositories, from + n),
        );
      const phases: Phases = { cold: await phase(node, of('start', 0)) };
      phases['again, at once'] = await phase(node, of('again', count));
      if (values.rest) {
        await node.whole(images);
        phases['again, at rest'] = await phase(node, of('again', 2 * count));
      }
      return phases;
    }),
  );
}

const sorted = ({ endMs }: Phase) => endMs.toSorted((a, b) => a - b);
const seconds = (ms: number) => (ms / 1000).toFixed(2);

function table(results: ReadonlyMap<string, Phases[]>): string[][] {
  const rows = [['', '', 'first', 'median', 'last', 'machine', 'engine', 'of it']];
  for (const name of PHASES) {
    for (const [way, rounds] of results) {
      const found = rounds.flatMap((phases) => phases[name] ?? []);
      if (found.length === 0) continue;
      const mid = (of: (one: Phase) => number) => median(found.map(of));
      const processes = new Set(found.flatMap(({ engine }) => Object.keys(engine)));
      const shares = [...processes].map(
        (process) => [process, mid(({ engine }) => engine[process] ?? 0)] as const,
      );
      const engine = shares.reduce((sum, [, share]) => sum + share, 0);
      rows.push([
        name,
        way,
        seconds(mid((one) => sorted(one)[0] ?? 0)),
        seconds(mid((one) => median(one.endMs))),
        seconds(mid((one) => sorted(one).at(-1) ?? 0)),
        mid(({ machine }) => machine).toFixed(1),
        shares.length === 0 ? '' : engine.toFixed(1),
        shares.map(([process, share]) => `${process} ${share.toFixed(1)}`).join(', '),
      ]);
    }
  }
  return rows;
}

async function prepared(name: string, registry: string): Promise<Repositories> {
  const layout = await realImage(name, { onProgress: say });
  const bytes = (await layoutLayers(layout)).reduce((sum, { size }) => sum + size, 0);
  say(`preparing ${name}, ${(bytes / 1e6).toFixed(0)} MB`);
  return await prepare({ name, bytes }, registry, async (repository) => {
    await pushLayout(layout, registry, repository, 'latest');
  });
}

const cleanup = new Cleanup();
try {
  const ways = await chosenWays();
  if (ways.length === 0) throw new Error(`no way is named ${values.ways}; see --help`);
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const images: Repositories[] = [];
  for (const name of values.images.split(',')) images.push(await prepared(name, registry.host));
  const all: Record<string, Record<string, Phases[]>> = {};
  for (const count of values.containers.split(',').map(Number)) {
    const results = new Map<string, Phases[]>();
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const way of round % 2 === 0 ? ways : ways.toReversed()) {
        const phases = await measure(way, images, count, registry.host);
        results.set(way.name, [...(results.get(way.name) ?? []), phases]);
        for (const [name, { endMs }] of Object.entries(phases))
          say(
            `${count} at once, round ${round + 1}, ${way.name}, ${name}: median ${seconds(median(endMs))}, last ${seconds(Math.max(...endMs))} s`,
          );
      }
    }
    all[count] = Object.fromEntries(results);
    console.log(
      `\n${count} containers of ${images.length} images at once; s, processor seconds\n\n${textTable(table(results))}`,
    );
    if (values.json !== undefined)
      writeFileSync(values.json, `${JSON.stringify({ link: values, all }, null, 2)}\n`);
  }
} finally {
  await cleanup.run();
}
