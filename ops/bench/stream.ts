/**
 * An image without a sidecar, as its node indexes it: what the indexer's process takes from its order to its answer,
 * behind an emulated link, beside the link alone and beside plain tools.
 *
 * Command line: node ops/bench/stream.ts [--image NAME | --synthetic LAYERSxFILESxBYTES] [--rounds 5] [--rate 1G]
 *   [--rtt 5] [--before PATH]
 *
 *   --image NAME     of ops/images/debian.ts (default demo)
 *   --synthetic SIZE an image of ops/images/synthetic.ts, such as 4x500x65536
 *   --before PATH    another checkout, whose indexer takes turns with this one's
 *
 * Prints medians: wall time, processor time of the indexer with its threads, both also for each MB of tar, and the
 * median ratio of the pairs where there is another checkout. Indexers have rehearsed, as those at hand have.
 */
import { type ChildProcess, execFile, fork, spawn } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { statFields } from '../../src/kernel/proc.ts';
import type { ToIndexer } from '../../src/index/orders.ts';
import { NODE_FLAGS } from '../../src/process/node-flags.ts';
import { RegistryClient, type ResolvedImage } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { Layout } from '../../src/store/layout.ts';
import { startRegistry } from '../../test/support/registry-server.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { type RealImage, realImage } from '../images/debian.ts';
import { blobPath, type ImageLayout, layoutLayers, pushLayout } from '../images/layout.ts';
import { syntheticImage } from '../images/synthetic.ts';
import { programOptions } from '../program-options.ts';
import { dropCaches, median, textTable } from './measure.ts';

const { values } = programOptions(import.meta.filename, {
  options: {
    image: { type: 'string', default: 'demo' },
    synthetic: { type: 'string' },
    rounds: { type: 'string', default: '5' },
    rate: { type: 'string', default: '1G' },
    rtt: { type: 'string', default: '5' },
    before: { type: 'string' },
  },
});

interface Run {
  wallMs: number;
  /** Of the indexer, with its threads. */
  cpuMs: number;
}

/** An indexer rehearses for two to four seconds on idle cores. */
const REHEARSAL_MS = 7_000;
/** Of /proc/PID/stat, a second. */
const TICKS = 100;

const cleanup = new Cleanup();

async function main(): Promise<void> {
  const layout = await imageOf();
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  await pushLayout(layout, registry.host, 'stream', 'latest');
  const host = await startLink(registry.host);
  const image = await resolveImage(`${host}/stream:latest`);
  const layers = await layoutLayers(layout);
  const programs = new Map([['here', resolve(fileURLToPath(new URL('../..', import.meta.url)))]]);
  if (values.before !== undefined) programs.set('before', resolve(values.before));
  const found = new Map<string, Run[]>();
  const note = (name: string, run: Run) => found.set(name, [...(found.get(name) ?? []), run]);
  for (let round = 0; round < Number(values.rounds); round++) {
    const turns = [...programs];
    for (const [name, path] of round % 2 === 0 ? turns : turns.toReversed())
      note(name, await indexing(path, image));
    note(
      'link alone',
      await shell(layers.map(({ digest }) => `curl -sf http://${host}/v2/stream/blobs/${digest} >/dev/null`)),
    );
    const files = layers.map(({ digest }) => blobPath(layout.directory, digest));
    note('igzip | sha256sum', await shell(files.map((file) => `igzip -dc <'${file}' | sha256sum`)));
    console.error(
      `round ${round + 1}: ${[...found].map(([name, runs]) => `${name} ${shown(runs.at(-1) as Run)}`).join(', ')}`,
    );
  }
  print(
    found,
    layers.reduce((sum, { size }) => sum + size, 0),
  );
}

const shown = ({ wallMs, cpuMs }: Run): string => `${wallMs.toFixed(0)} (${cpuMs.toFixed(0)})`;

function print(found: ReadonlyMap<string, Run[]>, bytes: number): void {
  const mb = bytes / 1e6;
  const rows = [...found].map(([name, runs]) => {
    const wall = median(runs.map(({ wallMs }) => wallMs));
    const cpu = median(runs.map(({ cpuMs }) => cpuMs));
    return [name, wall.toFixed(0), cpu.toFixed(0), (mb / (wall / 1000)).toFixed(0), (cpu / mb).toFixed(2)];
  });
  console.log(`${mb.toFixed(1)} MB compressed, ${values.rounds} rounds`);
  console.log(textTable([['', 'wall ms', 'cpu ms', 'MB/s', 'cpu ms/MB'], ...rows]));
  const before = found.get('before');
  if (before === undefined) return;
  const ratio = (of: (run: Run) => number) =>
    median((found.get('here') ?? []).map((run, at) => of(run) / of(before[at] as Run))).toFixed(3);
  console.log(
    `here / before, median of pairs: wall ${ratio((run) => run.wallMs)}, cpu ${ratio((run) => run.cpuMs)}`,
  );
}

async function imageOf(): Promise<ImageLayout> {
  if (values.synthetic === undefined)
    return await realImage(values.image as RealImage, { onProgress: (line) => console.error(line) });
  const [count = 1, filesPerLayer = 100, fileBytes = 65_536] = values.synthetic.split('x').map(Number);
  const folder = await cleanup.tempDir('stream-image');
  return await syntheticImage(folder, { layers: count, filesPerLayer, fileBytes }, console.error);
}

/** In a process of its own: it must not wait for this one. */
async function startLink(to: string): Promise<string> {
  const relay = fileURLToPath(new URL('relay.ts', import.meta.url));
  const child = spawn(process.execPath, [relay, '--to', to, '--rate', values.rate, '--rtt', values.rtt], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  cleanup.defer(async () => void child.kill('SIGTERM'));
  for await (const text of child.stdout.setEncoding('utf8')) {
    const found = /127\.0\.0\.1:\d+/.exec(text as string);
    if (found !== null) return found[0];
  }
  throw new Error('the relay ended');
}

async function resolveImage(reference: string): Promise<ResolvedImage> {
  const client = new RegistryClient();
  try {
    return await client.resolve(parseReference(reference));
  } finally {
    await client.close();
  }
}

async function indexing(checkout: string, image: ResolvedImage): Promise<Run> {
  const root = await cleanup.tempDir('stream');
  const layout = new Layout(root);
  await layout.prepare();
  await writeFile(layout.in('run/engine.json'), JSON.stringify({ registry: {} }));
  const child = fork(join(checkout, 'src/indexer/main.ts'), ['rehearse', root], {
    serialization: 'advanced',
    execArgv: [...NODE_FLAGS],
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  await sleep(REHEARSAL_MS);
  await dropCaches();
  const before = await cpuOf(child);
  const began = performance.now();
  let cpuMs = 0;
  const answer = await new Promise<{ kind: string }>((done, failed) => {
    child.on('message', (message: { kind: string }) => {
      if (message.kind !== 'done' && message.kind !== 'failed') return;
      done(message);
    });
    child.once('exit', (code) => failed(new Error(`the indexer ended with ${code}`)));
    child.send({ root, manifest: image.descriptor.digest, image } satisfies ToIndexer);
    void poll(child, (ticks) => {
      cpuMs = ticks - before;
    });
  });
  const wallMs = performance.now() - began;
  if (answer.kind !== 'done') throw new Error(JSON.stringify(answer));
  if (child.exitCode === null) await new Promise((ended) => child.once('exit', ended));
  return { wallMs, cpuMs };
}

/** Reads the process's time until it is gone: the last one counts. */
async function poll(child: ChildProcess, note: (ms: number) => void): Promise<void> {
  for (;;) {
    const ms = await cpuOf(child).catch(() => undefined);
    if (ms === undefined) return;
    note(ms);
    await sleep(10);
  }
}

/** ms. */
async function cpuOf({ pid }: ChildProcess): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = statFields(stat);
  const ms = ((Number(fields[11]) + Number(fields[12])) * 1000) / TICKS;
  if (fields[0] === 'Z') throw new Error('it has ended');
  return ms;
}

/** As many lines of shell side by side as there are cores, each with its whole processor time. */
async function shell(lines: string[]): Promise<Run> {
  const script = `xargs -P ${availableParallelism()} -d '\\n' -n 1 sh -c <<'END'\n${lines.join('\n')}\nEND\ntimes`;
  const began = performance.now();
  const { stdout } = await promisify(execFile)('sh', ['-c', script]);
  const wallMs = performance.now() - began;
  const times = stdout.trim().split('\n').at(-1) ?? '';
  const cpuMs = [...times.matchAll(/(\d+)m([\d.]+)s/g)].reduce(
    (sum, [, minutes, seconds]) => sum + Number(minutes) * 60_000 + Number(seconds) * 1000,
    0,
  );
  return { wallMs, cpuMs };
}

try {
  await main();
} finally {
  await cleanup.run();
}
