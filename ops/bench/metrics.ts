/**
 * What metrics cost a read: two engines of this checkout beside each other, one without metrics, one that Prometheus scrapes.
 * Both serve a file whose blocks are present, of a layer that is not whole, so that each read comes through FUSE. Rounds are
 * interleaved, each reads the same bytes past the page cache.
 *
 *     node ops/bench/metrics.ts [--rounds 8] [--every 1000] [--gib 1]
 *
 * `--every`: ms between two scrapes. Prints medians, and the median of each round's ratio with over without: processor time of
 * the engine's processes, and time.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { readProc, statFields } from '../../src/kernel/proc.ts';
import { pushImage } from '../../test/faults/fault-image.ts';
import { noise } from '../../test/images/nasty.ts';
import { type Engine, mountImage, startEngine } from '../../test/support/engine.ts';
import { freePort } from '../../test/support/ports.ts';
import { startRegistry } from '../../test/support/registry-server.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { programOptions } from '../program-options.ts';
import { median, textTable, timed } from './measure.ts';

const { values } = programOptions(import.meta.filename, {
  options: {
    rounds: { type: 'string', default: '8' },
    every: { type: 'string', default: '1000' },
    gib: { type: 'string', default: '1' },
  },
});

const FILE = 64 << 20;
const TICKS = 100;
const passes = Math.max(1, Math.round((Number(values.gib) * 2 ** 30) / FILE));

interface Side {
  name: string;
  engine: Engine;
  file: string;
  pids: number[];
}

interface Round {
  ms: number;
  cpuMs: number;
  /** Resident memory of the supervisor, MiB. */
  memory: number;
}

const cpuMsOf = (pids: readonly number[]): number =>
  pids.reduce((sum, pid) => {
    const fields = statFields(readProc(`/proc/${pid}/stat`));
    return sum + ((Number(fields[11]) + Number(fields[12])) * 1000) / TICKS;
  }, 0);

const cleanup = new Cleanup();
try {
  const folder = await cleanup.tempDir('bench-metrics');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const files = { read: noise(FILE, 1), 'never-read': noise(8 << 20, 2) };
  const image = await pushImage(join(folder, 'image'), registry.host, 'bench', [files], 'plain');
  const port = await freePort();
  const sides: Side[] = [];
  for (const [name, args] of [
    ['without', []],
    ['with', ['--metrics', String(port)]],
  ] as const) {
    const engine = await startEngine({ args: ['--no-snapshotter', '--node', name, ...args] });
    cleanup.defer(() => engine.stop());
    if (sides.length === 0) await engine.cli(['index', image.ref], { timeoutMs: 180_000 });
    const dir = join(folder, name);
    await mkdir(dir);
    await mountImage(engine, image.ref, dir);
    const file = join(dir, 'read');
    await timed('dd', [`if=${file}`, 'of=/dev/null', 'bs=1M', 'status=none']);
    sides.push({ name, engine, file, pids: Object.values(await engine.pids()) });
  }
  let scrapes = 0;
  const timer = setInterval(() => {
    void fetch(`http://127.0.0.1:${port}/metrics`)
      .then((reply) => reply.text())
      .then(() => (scrapes += 1))
      .catch(() => {});
  }, Number(values.every));
  const results = new Map<string, Round[]>(sides.map(({ name }) => [name, []]));
  for (let round = 0; round < Number(values.rounds); round++)
    for (const side of round % 2 === 0 ? sides : sides.toReversed()) {
      const [cpu, since] = [cpuMsOf(side.pids), performance.now()];
      for (let pass = 0; pass < passes; pass++)
        await timed('dd', [`if=${side.file}`, 'of=/dev/null', 'bs=128k', 'iflag=direct', 'status=none']);
      const ms = performance.now() - since;
      const memory = (Number(readProc(`/proc/${side.engine.pid}/statm`).split(' ')[1]) * 4096) / 2 ** 20;
      results.get(side.name)?.push({ ms, cpuMs: cpuMsOf(side.pids) - cpu, memory });
      console.error(`metrics: round ${round + 1}, ${side.name}`);
    }
  clearInterval(timer);
  const [without = [], having = []] = [results.get('without'), results.get('with')];
  const row = (title: string, of: (round: Round) => number) => [
    title,
    median(without.map(of)).toFixed(0),
    median(having.map(of)).toFixed(0),
    median(having.map((one, at) => of(one) / of(without[at] as Round))).toFixed(3),
  ];
  console.log(
    textTable([
      [`${(passes * FILE) / 2 ** 30} GiB of direct reads`, 'without', `scraped (${scrapes})`, 'ratio'],
      row('processor time of the engine, ms', ({ cpuMs }) => cpuMs),
      row('time, ms', ({ ms }) => ms),
      row('memory of the supervisor, MiB', ({ memory }) => memory),
    ]),
  );
} finally {
  await cleanup.run();
}
