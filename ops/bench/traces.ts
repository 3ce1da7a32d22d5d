/**
 * What traces cost a start: engines of this checkout beside each other, without traces, with a collector that takes them, and
 * with an address on which no process listens. A round mounts an image of which nothing is present, reads a file and unmounts; rounds are
 * interleaved.
 *
 *     node ops/bench/traces.ts [--rounds 20]
 *
 * Prints medians of the time of a round, of the supervisor's processor time, and its memory.
 */
import { mkdir, readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { readProc, statFields } from '../../src/kernel/proc.ts';
import { pushImage } from '../../test/faults/fault-image.ts';
import { noise } from '../../test/images/nasty.ts';
import { type Engine, mountImage, startEngine } from '../../test/support/engine.ts';
import { freePort } from '../../test/support/ports.ts';
import { startRegistry } from '../../test/support/registry-server.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { programOptions } from '../program-options.ts';
import { median, textTable } from './measure.ts';

const { values } = programOptions(import.meta.filename, {
  options: { rounds: { type: 'string', default: '20' } },
});

const TICKS = 100;
const FILE = 8 << 20;
/** A start is over so long after its last read, and its spans are sent, ms. */
const OVER_MS = 45_000;

interface Side {
  name: string;
  engine: Engine;
  ms: number[];
  cpuMs: number;
}

const cpuMsOf = (pid: number): number => {
  const fields = statFields(readProc(`/proc/${pid}/stat`));
  return ((Number(fields[11]) + Number(fields[12])) * 1000) / TICKS;
};

const cleanup = new Cleanup();
try {
  const folder = await cleanup.tempDir('bench-traces');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const image = await pushImage(join(folder, 'image'), registry.host, 'bench', [{ read: noise(FILE, 1) }]);
  let requests = 0;
  const collector = createServer((request, response) => {
    request.resume().on('end', () => (requests++, response.end()));
  });
  await new Promise<void>((resolve) => collector.listen(0, '127.0.0.1', resolve));
  cleanup.defer(() => void collector.close());
  const { port } = collector.address() as AddressInfo;
  const sides: Side[] = [];
  for (const [name, args] of [
    ['without', []],
    ['taken', ['--traces', `http://127.0.0.1:${port}`]],
    ['away', ['--traces', `http://127.0.0.1:${await freePort()}`]],
  ] as const) {
    const engine = await startEngine({ args: ['--no-snapshotter', '--node', name, ...args] });
    cleanup.defer(() => engine.stop());
    if (sides.length === 0) await engine.cli(['index', image.ref], { timeoutMs: 180_000 });
    await mkdir(join(folder, name));
    sides.push({ name, engine, ms: [], cpuMs: cpuMsOf(engine.pid) });
  }
  for (let round = 0; round < Number(values.rounds); round++)
    for (const { name, engine, ms } of round % 2 === 0 ? sides : sides.toReversed()) {
      const dir = join(folder, name);
      const since = performance.now();
      await mountImage(engine, image.ref, dir);
      await readFile(join(dir, 'read'));
      ms.push(performance.now() - since);
      await engine.client.call('unmount', { dir });
      await engine.client.call('prune', { all: true });
      console.error(`traces: round ${round + 1}, ${name}`);
    }
  // The last starts are over, and sent.
  await sleep(OVER_MS);
  console.log(
    textTable([
      [
        `${values.rounds} starts (${requests} requests)`,
        'a start, ms',
        'supervisor, ms a start',
        'memory, MiB',
      ],
      ...sides.map(({ name, engine, ms, cpuMs }) => [
        name,
        median(ms).toFixed(0),
        ((cpuMsOf(engine.pid) - cpuMs) / ms.length).toFixed(1),
        ((Number(readProc(`/proc/${engine.pid}/statm`).split(' ')[1]) * 4096) / 2 ** 20).toFixed(0),
      ]),
    ]),
  );
} finally {
  await cleanup.run();
}
