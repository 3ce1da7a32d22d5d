/** crictl of cri-tools: what people have at hand on a node (`ops/judges crictl`). */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { judgeAtHand } from '../../ops/images/judges.ts';
import { runCommand } from '../support/services.ts';

/** Runs it; throws with stderr. */
export type Crictl = (...args: string[]) => Promise<string>;

/** Folder of the program; otherwise it has been said why there is none. */
export const findCrictl = (): string | undefined =>
  judgeAtHand('crictl', { onProgress: (line) => console.log(line) });

/** It asks the runtime that listens at the path `socket`. */
export const crictlAt =
  (folder: string, socket: string): Crictl =>
  (...args) =>
    runCommand(
      join(folder, 'crictl'),
      ['--runtime-endpoint', `unix://${socket}`, '--timeout', '60s', ...args],
      {
        timeoutMs: 90_000,
      },
    );

const Images = z.object({ images: z.array(z.object({ repoTags: z.array(z.string()) })) });
const Stats = z.object({
  stats: z.array(
    z.object({
      attributes: z.object({ id: z.string() }),
      memory: z.object({ workingSetBytes: z.object({ value: z.coerce.number() }) }),
    }),
  ),
});
const Containers = z.object({ containers: z.array(z.object({ id: z.string() })) });

/** What `podByCrictl` was told. */
export interface Told {
  /** Whether the image is listed by its name. */
  isListed: boolean;
  /** What `exec … cat /said` printed. */
  said: string;
  /** What `logs` printed. */
  log: string;
  /** Containers of the pod that use memory, by `stats`. */
  inStats: number;
  /** Containers of the pod after `rm`. */
  left: number;
}

/**
 * Pulls the image, and runs a pod of the node's network with a container that says what `/said` holds, looks into it, and removes
 * all but the image. `folder` is for what it writes.
 */
export async function podByCrictl(crictl: Crictl, ref: string, folder: string): Promise<Told> {
  await mkdir(folder, { recursive: true });
  // The node's network, and processes of its own for each container.
  const linux = { security_context: { namespace_options: { network: 2, pid: 1 } } };
  const config = async (name: string, value: object) => {
    await writeFile(join(folder, name), JSON.stringify({ ...value, linux }));
    return join(folder, name);
  };
  const pod = await config('pod.json', {
    metadata: { name: 'by-crictl', namespace: 'default', uid: `uid-${ref}` },
    log_directory: folder,
  });
  const container = await config('container.json', {
    metadata: { name: 'says' },
    image: { image: ref },
    command: ['/bin/sh', '-c', 'cat /said; while :; do sleep 0.1; done'],
    log_path: 'says.log',
  });
  await crictl('pull', ref);
  const { images } = Images.parse(JSON.parse(await crictl('images', '-o', 'json')));
  const podId = (await crictl('runp', pod)).trim();
  try {
    const id = (await crictl('create', podId, container, pod)).trim();
    await crictl('start', id);
    const said = await crictl('exec', id, 'cat', '/said');
    const log = await crictl('logs', id);
    const { stats } = Stats.parse(JSON.parse(await crictl('stats', '-o', 'json', id)));
    // Its shell would not hear of a friendlier end.
    await crictl('stop', '--timeout', '0', id);
    await crictl('rm', id);
    const ps = ['ps', '-a', '--pod', podId, '-o', 'json'];
    const { containers } = Containers.parse(JSON.parse(await crictl(...ps)));
    return {
      isListed: images.some(({ repoTags }) => repoTags.includes(ref)),
      said,
      log,
      inStats: stats.filter(
        ({ attributes, memory }) => attributes.id === id && memory.workingSetBytes.value > 0,
      ).length,
      left: containers.length,
    };
  } finally {
    await crictl('stopp', podId);
    await crictl('rmp', podId);
  }
}
