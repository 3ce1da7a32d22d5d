/** Nodes that critest runs on: containerd or CRI-O, with cofa or without. */
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import type { CritestImages } from '../../test/cluster/critest-images.ts';
import { addTo, engineService, installInto } from '../../test/cluster/installed.ts';
import { CRIO_SOCKET, makeNode } from '../../test/cluster/node.ts';
import type { RegistryServer } from '../../test/support/registry-server.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { containerdPath, newestRunc } from '../images/debs.ts';
import { judgeAtHand } from '../images/judges.ts';
import { type Result, resultsOf } from './report.ts';

/** What has the images' files: cofa, or what the runtime has of its own. */
export const SIDES = ['overlayfs', 'cofa'] as const;
export type Side = (typeof SIDES)[number];

export interface Programs {
  /** With critest and the runtime. */
  path: string;
  crio?: { folder: string; runc: string };
}

/** What critest takes to run some of its tests, and a subnet that no other node has. */
export interface Part {
  name: string;
  select: readonly string[];
  subnet: string;
}

/** The programs of a runtime: `crio`, or `containerd-VERSION`. Undefined where one was not built: `onProgress` hears which. */
export async function programsOf(
  runtime: string,
  onProgress: (line: string) => void,
): Promise<Programs | undefined> {
  const critest = judgeAtHand('critest', { onProgress });
  if (critest === undefined) return undefined;
  if (runtime !== 'crio') {
    const path = await containerdPath(runtime.replace('containerd-', ''), { onProgress });
    return { path: [critest, path].join(delimiter) };
  }
  const folder = judgeAtHand('crio', { onProgress });
  if (folder === undefined) return undefined;
  const runc = await newestRunc({ onProgress });
  return {
    path: [critest, folder, runc, process.env.PATH].join(delimiter),
    crio: { folder, runc: join(runc, 'runc') },
  };
}

/** Runs a part once, on a node of its own; `folder` gets what critest writes, and what services wrote where `keepLogs` says so. */
export async function tryOn(
  side: Side,
  o: {
    programs: Programs;
    registry: RegistryServer;
    images: CritestImages;
    folder: string;
    part: Part;
    keepLogs: boolean;
  },
): Promise<Map<string, Result>> {
  const { programs, registry, images, folder, part } = o;
  const { path, crio } = programs;
  const own = new Cleanup();
  await mkdir(folder, { recursive: true });
  try {
    const up = engineService(crio === undefined ? '--snapshotter' : '--no-snapshotter');
    const mirror = `http://${registry.host}`;
    const node = await makeNode({
      path,
      ...(crio === undefined ? {} : { crio }),
      services: side === 'cofa' ? { cofa: up } : {},
      sandboxImage: images.sandbox,
      subnet: part.subnet,
      hostPorts: true,
      mirrors: Object.fromEntries(images.registries.map((name) => [name, mirror])),
      cleanup: own,
    });
    await node.boot();
    if (side === 'cofa') await (crio === undefined ? installInto(node) : addTo(node, images.kept));
    const [report, log] = [join(folder, 'report.json'), join(folder, 'critest.log')];
    // Its tests do not depend on their order; the same order makes runs comparable.
    const args = [
      `--ginkgo.json-report=${report}`,
      '--ginkgo.seed=1',
      '--ginkgo.no-color',
      '--ginkgo.timeout=40m',
      '--nri-socket=/run/nri/nri.sock',
      ...(crio === undefined ? [] : [`--runtime-endpoint=unix://${CRIO_SOCKET}`]),
      ...part.select,
    ];
    // It ends with 1 where a test fails; the report says which.
    const script = `exec critest "$@" >${log} 2>&1`;
    await node.run('sh', ['-c', script, 'sh', ...args], { timeoutMs: 45 * 60_000 }).catch(() => {});
    if (o.keepLogs)
      for (const service of [
        crio === undefined ? 'containerd' : 'crio',
        ...(side === 'cofa' ? ['cofa'] : []),
      ])
        await writeFile(join(folder, `${service}.log`), node.log(service));
    if (!existsSync(report))
      throw new Error(`critest wrote no report:\n${(await readFile(log, 'utf8')).slice(-3000)}`);
    return resultsOf(JSON.parse(await readFile(report, 'utf8')));
  } finally {
    await own.run();
  }
}
