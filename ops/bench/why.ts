/**
 * How much of a start `cofa replay why` accounts for: a cold start of each of the bench's images, without a sidecar, with one, and
 * with a startup pack.
 *
 *     node ops/bench/why.ts [IMAGE…] [--ways plain,indexed,packed] [--rate 1G] [--rtt 5] [--least 95]
 *
 * Prints the share of each start's wall time that is accounted for, its cause and its largest parts. The exit code is 1 where a share
 * is below `--least` percent. A busy machine makes starts longer and not less accounted for.
 */
import { join } from 'node:path';
import type { WhyStart } from '../../schemas/replay.ts';
import { loadFile } from '../../src/replay/load.ts';
import { findMount } from '../../src/replay/start-phases.ts';
import { explainStart } from '../../src/replay/why-start.ts';
import { startRegistry } from '../../test/support/registry-server.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { REAL_IMAGES, realImage } from '../images/debian.ts';
import { layoutLayers, pushLayout } from '../images/layout.ts';
import { programOptions } from '../program-options.ts';
import { dropCaches, interrupt, onLink, textTable } from './measure.ts';
import { parseRate } from './relay.ts';
import { onFreshEngine, prepare } from './ways.ts';

const { values, positionals } = programOptions(import.meta.filename, {
  allowPositionals: true,
  options: {
    ways: { type: 'string', default: 'plain,indexed,packed' },
    rate: { type: 'string', default: '1G' },
    rtt: { type: 'string', default: '5' },
    least: { type: 'string', default: '95' },
  },
});
const images = positionals.length > 0 ? positionals : REAL_IMAGES;
const WAYS = ['plain', 'indexed', 'packed'] as const;
const ways = WAYS.filter((way) => values.ways.split(',').includes(way));
const link = { rate: parseRate(values.rate), rttMs: Number(values.rtt) };
const say = (line: string) => console.error(`why: ${line}`);
const cleanup = new Cleanup();
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, interrupt);

interface Row {
  image: string;
  way: string;
  why: WhyStart;
}

try {
  const folder = await cleanup.tempDir('bench-why');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const rows: Row[] = [];
  for (const name of images) {
    const layout = await realImage(name, { onProgress: say });
    const bytes = (await layoutLayers(layout)).reduce((sum, { size }) => sum + size, 0);
    say(`${name}: pushed, indexed and started once for its pack`);
    const at = await prepare({ name, bytes }, registry.host, async (repository) => {
      await pushLayout(layout, registry.host, repository, 'latest');
    });
    for (const way of ways) {
      const file = join(folder, `${name}-${way}.cofa-log`);
      await onLink(at.registry, link, (relay) =>
        onFreshEngine(async (cofa) => {
          await dropCaches();
          await cofa('run', `${relay.host}/${at[way]}:latest`);
          await cofa('events', 'export', '--force', file);
        }),
      );
      const why = await whyOf(file);
      say(`${name}, ${way}: ${shareOf(why).toFixed(1)} % of ${(why.wall.us / 1e6).toFixed(2)} s`);
      rows.push({ image: name, way, why });
    }
  }
  console.log(
    textTable([
      ['image', 'way', 'wall time', 'accounted for', 'cause', 'largest parts'],
      ...rows.map(({ image, way, why }) => [
        image,
        way,
        `${(why.wall.us / 1e6).toFixed(2)} s`,
        `${shareOf(why).toFixed(1)} %`,
        why.cause ?? '',
        largestOf(why),
      ]),
    ]),
  );
  const low = rows.filter(({ why }) => shareOf(why) < Number(values.least));
  if (low.length > 0) {
    say(`${low.length} of ${rows.length} starts are accounted for by less than ${values.least} %`);
    process.exitCode = 1;
  }
} finally {
  await cleanup.run();
}

async function whyOf(file: string): Promise<WhyStart> {
  const loaded = await loadFile(file);
  try {
    return explainStart(loaded.log, findMount(loaded.log, undefined));
  } finally {
    await loaded.close();
  }
}

function shareOf({ wall }: WhyStart): number {
  return (100 * wall.accountedUs) / Math.max(1, wall.us);
}

function largestOf({ wall }: WhyStart): string {
  return wall.parts
    .toSorted((a, b) => b.us - a.us)
    .slice(0, 3)
    .map(({ part, us }) => `${part} ${((100 * us) / wall.us).toFixed(0)} %`)
    .join(', ');
}
