/**
 * docker and containerd with an image that is not on the node, until a container of it has ended: on overlayfs, and on
 * cofa's snapshotter, beside `cofa run`. The same tag from the same registry over an emulated link. Rounds are
 * interleaved, each with empty daemons. Then the same container again.
 *
 *     node ops/bench/clients.ts [--image demo] [--rounds 5] [--rate 1G] [--rtt 5] [--json FILE]
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { untilAnswered } from '../../src/cli/service.ts';
import { startRegistry } from '../../test/support/registry-server.ts';
import { type Containerd, type Dockerd, startContainerd, startDockerd } from '../../test/support/services.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { NEWER_DOCKER, type Unpacked, unpackedDebs } from '../images/debs.ts';
import { type RealImage, realImage } from '../images/debian.ts';
import { pushLayout } from '../images/layout.ts';
import { COFA, dropCaches, type Link, median, textTable, throughLink, timed } from './measure.ts';
import { parseRate } from './relay.ts';

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

interface Node {
  root: string;
  containerd: Containerd;
  dockerd: Dockerd;
  cofa: (...args: string[]) => Promise<unknown>;
}

/** Milliseconds from the call to the end of the container, and bytes that crossed the link. */
interface Measured {
  coldMs: number;
  warmMs: number;
  bytes: number;
}

interface Way {
  name: string;
  onCofa: boolean;
  /** What the way does once; docker and cofa pull by themselves. */
  pull?: (node: Node, ref: string) => Promise<unknown>;
  run: (node: Node, ref: string) => Promise<unknown>;
}

const docker = ({ dockerd }: Node, ref: string) =>
  dockerd.docker(['run', '--rm', '--network=host', '--quiet', ref]);
const ctr = (snapshotter: string) => (node: Node, ref: string) =>
  node.containerd.ctr(['run', '--rm', '--net-host', `--snapshotter=${snapshotter}`, ref, 'bench']);

const WAYS: Way[] = [
  { name: 'docker, overlayfs', onCofa: false, run: docker },
  { name: 'docker on cofa', onCofa: true, run: docker },
  {
    name: 'containerd, overlayfs',
    onCofa: false,
    pull: ({ containerd }, ref) => containerd.ctr(['images', 'pull', '--plain-http', ref]),
    run: ctr('overlayfs'),
  },
  {
    name: 'containerd on cofa (cofa pull)',
    onCofa: true,
    pull: ({ containerd, cofa }, ref) =>
      cofa('pull', '--address', containerd.socket, '--namespace', 'cofa-test', ref),
    run: ctr('cofa'),
  },
  { name: 'cofa run', onCofa: true, run: ({ cofa }, ref) => cofa('run', ref) },
];

/** Empty daemons. */
async function onFreshNode<T>(
  newer: Unpacked,
  onCofa: boolean,
  work: (node: Node) => Promise<T>,
): Promise<T> {
  const cleanup = new Cleanup();
  try {
    const root = await cleanup.tempDir('bench');
    const cofa = (...args: string[]) => timed(COFA, ['--root', root, ...args]);
    let config = '';
    if (onCofa) {
      await cofa('up', '--snapshotter', '--trust', 'registry');
      cleanup.defer(() => cofa('down', '--force'));
      await untilAnswered(`${root}/run/snapshotter.sock`, 60_000);
    }
    const install = (...args: string[]) => cofa('install', 'docker', '--no-unit', ...args);
    const containerd = await startContainerd({
      path: newer.path,
      configure: async (file) => {
        config = file;
        if (onCofa) await install('--containerd-config', file, '--daemon-json', `${root}/none.json`);
      },
    });
    cleanup.defer(() => containerd.stop());
    const dockerd = await startDockerd({
      path: newer.path,
      containerd,
      configure: async (file) => {
        if (onCofa) await install('--containerd-config', config, '--daemon-json', file);
        // The containerd image store here, too: that is what is compared.
        else writeFileSync(file, '{"features":{"containerd-snapshotter":true},"storage-driver":"overlayfs"}');
      },
    });
    cleanup.defer(() => dockerd.stop());
    return await work({ root, containerd, dockerd, cofa });
  } finally {
    await cleanup.run();
  }
}

async function measure(way: Way, newer: Unpacked, registry: string): Promise<Measured> {
  return await onFreshNode(newer, way.onCofa, (node) =>
    throughLink(registry, link, async (host) => {
      const ref = `${host}/${values.image}:1`;
      await dropCaches();
      const clock = async (work: () => Promise<unknown>) => {
        const began = performance.now();
        await work();
        return performance.now() - began;
      };
      const coldMs = await clock(async () => {
        await way.pull?.(node, ref);
        await way.run(node, ref);
      });
      const warmMs = await clock(() => way.run(node, ref));
      return { coldMs, warmMs };
    }),
  );
}

const cleanup = new Cleanup();
try {
  const newer = await unpackedDebs(NEWER_DOCKER, { onProgress: say });
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  await pushLayout(
    await realImage(values.image as RealImage, { onProgress: say }),
    registry.host,
    values.image,
    '1',
  );
  await timed(COFA, ['index', `${registry.host}/${values.image}:1`]);
  const results = new Map<string, Measured[]>(WAYS.map(({ name }) => [name, []]));
  for (let round = 1; round <= Number(values.rounds); round++) {
    for (const way of WAYS) {
      const measured = await measure(way, newer, registry.host);
      say(`round ${round}: ${way.name} ${(measured.coldMs / 1000).toFixed(2)} s`);
      results.get(way.name)?.push(measured);
    }
  }
  const of = (name: string, pick: (measured: Measured) => number) =>
    median((results.get(name) ?? []).map(pick));
  const rows = WAYS.map(({ name }) => [
    name,
    `${(of(name, ({ coldMs }) => coldMs) / 1000).toFixed(2)} s`,
    `${(of(name, ({ warmMs }) => warmMs) / 1000).toFixed(2)} s`,
    `${(of(name, ({ bytes }) => bytes) / 1e6).toFixed(0)} MB`,
  ]);
  console.log(
    textTable([[`${values.image}, median of ${values.rounds}`, 'cold', 'again', 'fetched'], ...rows]),
  );
  if (values.json !== undefined) {
    writeFileSync(
      values.json,
      JSON.stringify({ link: values, results: Object.fromEntries(results) }, undefined, 2),
    );
  }
} finally {
  await cleanup.run();
}
