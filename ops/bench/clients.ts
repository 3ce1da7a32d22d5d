/**
 * docker, `ctr` and a kubelet's calls with an image that is not on the node, until a container of it has ended: on cofa's
 * snapshotter, with sidecar and pack, beside `cofa run`. *Added* is a cold start less a warm one of the same client on overlayfs:
 * what the delivery of the image costs that client. All ways in turns, each with empty daemons, over an emulated link.
 *
 *     node ops/bench/clients.ts [--image demo,java] [--rounds 5] [--rate 1G] [--rtt 5] [--json FILE]
 */
import { writeFileSync } from 'node:fs';
import { startRegistry } from '../../test/support/registry-server.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { realImage } from '../images/debian.ts';
import { layoutLayers, pushLayout } from '../images/layout.ts';
import { programOptions } from '../program-options.ts';
import { clientWays } from './client-ways.ts';
import { criWays } from './cri-ways.ts';
import { type Link, median, type Start, textTable } from './measure.ts';
import { parseRate } from './relay.ts';
import { measureStarts, type Starts } from './starts.ts';
import { CONTAINERD, PACK, prepare, type Way } from './ways.ts';

const { values } = programOptions(import.meta.filename, {
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

/** A client in its two ways; `cofa run` is compared with `ctr`, the client that has least to do. */
interface Client {
  onCofa: Way;
  onOverlayfs: Way;
}

const cleanup = new Cleanup();
try {
  const { docker, dockerOnCofa, ctrOnCofa } = await clientWays(say);
  const cri = await criWays(say);
  const own: Client = { onCofa: PACK, onOverlayfs: CONTAINERD };
  const clients: Client[] = [
    { onCofa: dockerOnCofa, onOverlayfs: docker },
    { onCofa: ctrOnCofa, onOverlayfs: CONTAINERD },
    ...(cri === undefined ? [] : [{ onCofa: cri.onCofa, onOverlayfs: cri.overlayfs }]),
  ];
  const ways = [...new Set([own, ...clients].flatMap(({ onCofa, onOverlayfs }) => [onCofa, onOverlayfs]))];
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const measured: Starts[] = [];
  for (const name of values.image.split(',')) {
    const layout = await realImage(name, { onProgress: say });
    const bytes = (await layoutLayers(layout)).reduce((sum, { size }) => sum + size, 0);
    const at = await prepare({ name, bytes }, registry.host, async (repository) => {
      await pushLayout(layout, registry.host, repository, 'latest');
    });
    for (const way of ways) await way.prepare?.({ name, bytes }, at);
    const starts = await measureStarts({ name, bytes }, at, {
      ways,
      link,
      rounds: Number(values.rounds),
      say,
    });
    measured.push(starts);
    console.log(`\n${textTable(tableOf(starts, own, clients))}`);
  }
  if (values.json !== undefined)
    writeFileSync(values.json, JSON.stringify({ link: values, starts: measured }, undefined, 2));
} finally {
  await cleanup.run();
}

function tableOf({ image, ways }: Starts, own: Client, clients: readonly Client[]): string[][] {
  const of = ({ name }: Way) => ways.find((one) => one.name === name) ?? { cold: [], warm: [] };
  const ms = (starts: readonly Start[]) => median(starts.map(({ totalMs }) => totalMs));
  const added = ({ onCofa, onOverlayfs }: Client) => ms(of(onCofa).cold) - ms(of(onOverlayfs).warm);
  const s = (value: number) => (value / 1000).toFixed(2);
  return [
    [
      `${image}, s, median of ${values.rounds}`,
      'overlayfs',
      'its warm',
      'cold',
      'its warm',
      'added',
      'times cofa run',
    ],
    ...[own, ...clients].map((client) => {
      const { onCofa, onOverlayfs } = client;
      return [
        onCofa.name,
        ...[of(onOverlayfs).cold, of(onOverlayfs).warm, of(onCofa).cold, of(onCofa).warm].map((one) =>
          s(ms(one)),
        ),
        s(added(client)),
        (added(client) / added(own)).toFixed(2),
      ];
    }),
  ];
}
