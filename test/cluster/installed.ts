/** cofa as a service of a node, which `cofa install` makes its runtime use. In scene.ts it is a pod instead. */
import { join } from 'node:path';
import { eventually } from '../support/engine.ts';
import type { ClusterNode } from './node.ts';

/** Begins its command lines on a node. */
const COFA = [
  process.execPath,
  join(import.meta.dirname, '../../src/cli/main.ts'),
  '--root',
  '/var/lib/cofa',
] as const;

/** An engine takes long to start where several nodes do at once. */
const SERVE_MS = 180_000;

/** The command line of its service; `options` are those of `cofa up`. */
export const engineService = (...options: string[]): string[] => [
  ...COFA,
  'up',
  '--foreground',
  '--trust',
  'registry',
  '--no-rehearsal',
  ...options,
];

/** Runs `cofa ARGS` there. */
export const cofaOn = (node: ClusterNode, ...args: string[]): Promise<string> =>
  node.run(COFA[0], [...COFA.slice(1), ...args], { timeoutMs: 120_000 });

/** containerd starts images by cofa's snapshotter from now on. */
export async function installInto(node: ClusterNode): Promise<void> {
  const served = () => node.run('test', ['-S', '/var/lib/cofa/run/snapshotter.sock']).then(() => true);
  await eventually('cofa serves', served, SERVE_MS);
  await cofaOn(node, 'install', 'k8s', '--no-unit');
  await node.run('systemctl', ['restart', 'containerd']);
  const isThere = async () =>
    /^io\.containerd\.snapshotter\.v1 +cofa /m.test(await node.run('ctr', ['plugins', 'ls']));
  await eventually('containerd uses cofa', isThere, 30_000);
}

/** CRI-O has these images, which it runs, from cofa's additional image store. */
export async function addTo(node: ClusterNode, refs: readonly string[]): Promise<void> {
  await eventually('cofa serves', () => cofaOn(node, 'status').then(() => true), SERVE_MS);
  await cofaOn(node, 'install', 'crio', '--no-unit');
  for (const ref of refs) await cofaOn(node, 'podman', 'add', ref);
  await node.restart();
}
