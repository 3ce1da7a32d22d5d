/**
 * docker and containerd with an image that is not on the node, until a container of it has ended: on overlayfs, and on
 * cofa's snapshotter, beside `cofa run`. The same image from the same registry over an emulated link, with sidecar and
 * pack. Rounds are interleaved, each with empty daemons. Then the same container when all of the image is on the node.
 *
 *     node ops/bench/clients.ts [--image demo] [--rounds 5] [--rate 1G] [--rtt 5] [--json FILE]
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { startRegistry } from '../../test/support/registry-server.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { realImage } from '../images/debian.ts';
import { layoutLayers, pushLayout } from '../images/layout.ts';
import { clientWays } from './client-ways.ts';
import { type Link, median, type Start, textTable } from './measure.ts';
import { parseRate } from './relay.ts';
import { measureStarts } from './starts.ts';
import { CONTAINERD, PACK, prepare } from './ways.ts';

const { values } = parseArgs({
  options: {
    image: { type: 'string', default: 'demo' },
    rounds: { type: 'string', default: '5' },
    rate: { type: 'string', default: '1G' },
    rtt: { type: 'string', default: '5' },
    json: { type: 'string' },
  },
});
const link: Link = { rate: parseRate(values.rate), rttMs: Number(values.rtt) };
const say = (line: string) => console.error(`bench: ${line}`);

const cleanup = new Cleanup();
try {
  const { docker, dockerOnCofa, ctrOnCofa } = await clientWays(say);
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const layout = await realImage(values.image, { onProgress: say });
  const bytes = (await layoutLayers(layout)).reduce((sum, { size }) => sum + size, 0);
  const image = { name: values.image, bytes };
  const at = await prepare(image, registry.host, async (repository) => {
    await pushLayout(layout, registry.host, repository, 'latest');
  });
  const ways = [docker, dockerOnCofa, CONTAINERD, ctrOnCofa, PACK];
  const starts = await measureStarts(image, at, { ways, link, rounds: Number(values.rounds), say });
  const seconds = (of: readonly Start[]) =>
    of.length === 0 ? '' : `${(median(of.map(({ totalMs }) => totalMs)) / 1000).toFixed(2)} s`;
  const rows = starts.ways.map(({ name, cold, warm }) => [
    name,
    seconds(cold),
    seconds(warm),
    `${(median(cold.map((one) => one.bytes)) / 1e6).toFixed(0)} MB`,
  ]);
  const head = [`${values.image}, median of ${values.rounds}`, 'cold', 'all local', 'fetched'];
  console.log(textTable([head, ...rows]));
  if (values.json !== undefined)
    writeFileSync(values.json, JSON.stringify({ link: values, starts }, undefined, 2));
} finally {
  await cleanup.run();
}
