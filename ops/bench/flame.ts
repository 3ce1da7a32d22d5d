/**
 * Where the processors are during the first start of an image: a profile of the caller and of all processes of the engine, of one
 * stretch of time.
 *
 *     node ops/bench/flame.ts [--image java] [--way pack] [--until output] [--rounds 3] [--picture FILE.svg]
 *
 * `--way`: `pack`, `no-pack` or `unprepared`. `--until`: `mount` (the image is mounted) or `output` (the container's first). The link has
 * 1 Gbit/s and 5 ms; the engine is up and has rehearsed. Of some rounds that of the middle duration is shown. A process that is profiled is slower, and
 * native threads (zlib, SHA-256, ISA-L) are in no profile: of each process the processor time of its other threads stands beside.
 */
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startRegistry } from '../../test/support/registry-server.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { realImage } from '../images/debian.ts';
import { layoutLayers, pushLayout } from '../images/layout.ts';
import { programOptions } from '../program-options.ts';
import { type CpuProfile, foldProfile, type Frame, ownTimes } from './cpu-profiles.ts';
import { engineTime, timeBetween, type EngineTime } from './engine-time.ts';
import { flamePicture } from './flame-picture.ts';
import { dropCaches, onLink, textTable } from './measure.ts';
import { onFreshEngine, prepare } from './ways.ts';

const { values } = programOptions(import.meta.filename, {
  options: {
    image: { type: 'string', default: 'java' },
    way: { type: 'string', default: 'pack' },
    until: { type: 'string', default: 'output' },
    rounds: { type: 'string', default: '3' },
    picture: { type: 'string' },
  },
});
const WAYS = { pack: 'packed', 'no-pack': 'indexed', unprepared: 'plain' } as const;
const LINK = { rate: 1e9, rttMs: 5 };
/** µs between two samples. */
const INTERVAL_US = 200;
/** Functions that are named, and the least time of each, ms. */
const MOST = 25;
const LEAST_MS = 1;

interface Round {
  /** µs of the monotonic clock. */
  window: readonly [number, number];
  /** By process, s of its threads. */
  cpu: EngineTime;
  /** Names of the engine's processes. */
  names: Map<number, string>;
  profiles: Array<{ pid: number; thread: number; profile: CpuProfile }>;
}

async function main(): Promise<void> {
  const way = WAYS[values.way as keyof typeof WAYS];
  if (way === undefined) {
    console.error(`flame: --way is one of ${Object.keys(WAYS).join(', ')}; see --help`);
    process.exit(2);
  }
  const cleanup = new Cleanup();
  try {
    const folder = await cleanup.tempDir('flame');
    const registry = await startRegistry();
    cleanup.defer(() => registry.stop());
    const layout = await realImage(values.image);
    const bytes = (await layoutLayers(layout)).reduce((sum, { size }) => sum + size, 0);
    const at = await prepare({ name: values.image, bytes }, registry.host, async (repository) => {
      await pushLayout(layout, registry.host, repository, 'latest');
    });
    const rounds: Round[] = [];
    for (let round = 0; round < Number(values.rounds); round++) {
      const profiles = join(folder, String(round));
      await mkdir(profiles);
      rounds.push(
        await onLink(registry.host, LINK, (relay) => oneStart(`${relay.host}/${at[way]}:latest`, profiles)),
      );
    }
    const [middle] = rounds.toSorted((a, b) => length(a) - length(b)).slice(rounds.length >> 1);
    if (middle !== undefined) await report(middle);
  } finally {
    await cleanup.run();
  }
}

const length = ({ window: [from, to] }: Round): number => to - from;

const nowUs = (): number => Number(process.hrtime.bigint() / 1000n);

async function oneStart(ref: string, profiles: string): Promise<Round> {
  // Every process of Node below writes one when it ends.
  process.env.NODE_OPTIONS = `--cpu-prof --cpu-prof-dir=${profiles} --cpu-prof-interval=${INTERVAL_US}`;
  const { names, ...measured } = await onFreshEngine(async (cofa, root) => {
    const { output } = await cofa('status', '--json');
    const { processes } = JSON.parse(output) as { processes: Array<{ pid: number; name: string }> };
    await dropCaches();
    const [before, from] = [engineTime(root), nowUs()];
    const ran = await cofa('run', ref);
    const cpu = timeBetween(before, engineTime(root));
    const untilMs = values.until === 'mount' ? await mountedAfter(cofa, from) : ran.firstOutputMs;
    return {
      window: [from, from + untilMs * 1000] as const,
      cpu,
      names: new Map(processes.map(({ pid, name }) => [pid, name])),
    };
  }).finally(() => {
    delete process.env.NODE_OPTIONS;
  });
  const files = (await readdir(profiles)).filter((file) => file.endsWith('.cpuprofile'));
  const read = files.map(async (file) => {
    // CPU.20261202.013000.PID.THREAD.001.cpuprofile
    const [pid, thread] = file.split('.').slice(3, 5).map(Number);
    const profile = JSON.parse(await readFile(join(profiles, file), 'utf8')) as CpuProfile;
    return { pid: pid ?? 0, thread: thread ?? 0, profile };
  });
  return { ...measured, names, profiles: await Promise.all(read) };
}

/** From the call to `mount.mounted` in the log, ms. */
async function mountedAfter(
  cofa: (...args: string[]) => Promise<{ output: string }>,
  fromUs: number,
): Promise<number> {
  const { output } = await cofa('events', '--json', '--since-start', '--no-follow');
  const events = output
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { type: string; time: string });
  const mounted = events.findLast(({ type }) => type === 'mount.mounted');
  if (mounted === undefined) throw new Error('no mount is in the log');
  const wallMs = Date.now() - (nowUs() - fromUs) / 1000;
  return Date.parse(mounted.time) - wallMs;
}

async function report({ window, cpu, names, profiles }: Round): Promise<void> {
  const threads: Array<[string, Frame]> = [];
  for (const { pid, thread, profile } of profiles) {
    const frame = foldProfile(profile, window);
    if (frame.us < LEAST_MS * 1000) continue;
    // From its sources or from its bundle (src/cli/bundle.ts).
    const isClient = profile.nodes.some(({ callFrame }) => /\/src\/cli\/|\/run\.cjs$/.test(callFrame.url));
    const name = names.get(pid) ?? (isClient ? 'cofa run' : `process ${pid}`);
    threads.push([thread === 0 ? name : `${name}, thread ${thread}`, frame]);
  }
  threads.sort(([, a], [, b]) => b.us - a.us);
  console.log(
    `${values.image}, ${values.way}: ${Math.round(length({ window } as Round) / 1000)} ms to the ${values.until}\n`,
  );
  console.log(
    textTable([
      ['JavaScript of', 'ms', 'of it its collector', 'in native code'],
      ...threads.map(([name, frame]) => [
        name,
        ms(frame.us),
        ms(frame.children.get('(garbage collector)')?.us ?? 0),
        ms(frame.children.get('(program)')?.us ?? 0),
      ]),
    ]),
  );
  console.log(`\nprocessor time until the end of the container, by thread, s`);
  console.log(
    textTable([
      ['thread', 's'],
      ...[...cpu]
        .filter(([, seconds]) => seconds >= 0.01)
        .toSorted(([, a], [, b]) => b - a)
        .map(([name, seconds]) => [name, seconds.toFixed(2)]),
    ]),
  );
  console.log('\nfunctions by themselves');
  console.log(
    textTable([
      ['function', 'ms'],
      ...ownTimes(threads.map(([, frame]) => frame))
        .slice(0, MOST)
        .map(([name, us]) => [name, ms(us)]),
    ]),
  );
  if (values.picture === undefined) return;
  const title = `First start of ${values.image}, ${values.way}: ${Math.round(length({ window } as Round) / 1000)} ms to the ${values.until}`;
  const caption =
    'JavaScript of each process, callers above what they call; blue: cofa, red: libraries, yellow: Node, grey: native code and collector';
  await writeFile(values.picture, flamePicture(threads, title, caption));
}

const ms = (us: number): string => (us / 1000).toFixed(1);

await main();
