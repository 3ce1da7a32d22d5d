/**
 * The same start through docker and through containerd: on overlayfs, and on cofa's snapshotter with the image's sidecar
 * and pack in the registry. All daemons are new and empty; docker is a newer one than Debian 12's, with containerd's image
 * store in both of its ways.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Containerd, startContainerd, startDockerd } from '../../test/support/services.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { NEWER_DOCKER, unpackedDebs } from '../images/debs.ts';
import { timed } from './measure.ts';
import {
  after,
  CALM_MS,
  type Cofa,
  type FreshNode,
  onFreshSnapshotter,
  PULL_LIMIT_MS,
  untilWhole,
  type Way,
} from './ways.ts';

export interface ClientWays {
  /** On overlayfs. */
  docker: Way;
  dockerOnCofa: Way;
  /** `cofa pull` and `ctr run`. */
  ctrOnCofa: Way;
}

/** Fetches the newer docker where the cache lacks it. */
export async function clientWays(say: (line: string) => void): Promise<ClientWays> {
  const { path } = await unpackedDebs(NEWER_DOCKER, { onProgress: say });
  return {
    docker: {
      name: 'docker',
      onFreshNode: (_image, at, host, work) =>
        withDaemons(path, undefined, (daemons) => work(dockerNode(daemons, `${host}/${at.plain}:latest`))),
    },
    dockerOnCofa: onCofa('docker on cofa', path, dockerNode),
    ctrOnCofa: onCofa('ctr on cofa', path, ctrNode),
  };
}

function onCofa(name: string, path: string, node: (daemons: Daemons, ref: string) => FreshNode): Way {
  return {
    name,
    onFreshNode: (_image, at, host, work) =>
      onFreshSnapshotter((cofa, root) =>
        withDaemons(path, { root, cofa }, (daemons) => work(node(daemons, `${host}/${at.packed}:latest`))),
      ),
  };
}

interface Engine {
  root: string;
  cofa: Cofa;
}

interface Daemons {
  /** Where their programs are. */
  path: string;
  containerd: Containerd;
  docker: (...args: string[]) => ReturnType<typeof timed>;
  /** Whose snapshotter they use; undefined: overlayfs. */
  engine: Engine | undefined;
}

/** Both daemons, up for as long as any other way's. */
async function withDaemons<T>(
  path: string,
  engine: Engine | undefined,
  work: (daemons: Daemons) => Promise<T>,
): Promise<T> {
  const cleanup = new Cleanup();
  try {
    const client = await cleanup.tempDir('docker');
    const install = (...args: string[]) => engine?.cofa('install', 'docker', '--no-unit', ...args);
    let config = '';
    const containerd = await startContainerd({
      path,
      configure: async (file) => {
        config = file;
        await install('--containerd-config', file, '--daemon-json', join(client, 'none.json'));
      },
    });
    cleanup.defer(() => containerd.stop());
    const dockerd = await startDockerd({
      path,
      containerd,
      configure: async (file) => {
        if (engine === undefined) writeFileSync(file, CONTAINERD_STORE);
        else await install('--containerd-config', config, '--daemon-json', file);
      },
    });
    cleanup.defer(() => dockerd.stop());
    await sleep(CALM_MS);
    const docker = (...args: string[]) =>
      timed('docker', ['--host', `unix://${dockerd.socket}`, '--config', client, ...args], { PATH: path });
    return await work({ path, containerd, docker, engine });
  } finally {
    await cleanup.run();
  }
}

/** What `cofa install docker` chooses as well: the two stores differ in more than the snapshotter. */
const CONTAINERD_STORE = '{"features":{"containerd-snapshotter":true},"storage-driver":"overlayfs"}';

function dockerNode({ docker, engine }: Daemons, ref: string): FreshNode {
  const run = (options: string[], ...command: string[]) =>
    docker('run', '--rm', '--network=host', '--quiet', ...options, ref, ...command);
  return {
    start: () => run([]),
    warm: async () => {
      if (engine !== undefined) await untilWhole(engine.cofa);
      await run([]);
      return await run([]);
    },
    shell: (line) => run(['--entrypoint', 'sh'], '-c', line),
  };
}

function ctrNode({ path, containerd, engine }: Daemons, ref: string): FreshNode {
  const cofa = engine?.cofa as Cofa;
  const at = ['--address', containerd.socket, '--namespace', 'cofa-test'];
  const run = (...command: string[]) =>
    timed(
      'ctr',
      [...at, 'run', '--rm', '--net-host', '--snapshotter=cofa', ref, 'bench', ...command].flat(),
      { PATH: path },
    );
  return {
    start: async () => {
      const pulled = await cofa('pull', '--address', containerd.socket, '--namespace', 'cofa-test', ref);
      return after(pulled.totalMs, await run());
    },
    warm: async () => {
      await untilWhole(cofa, { limitMs: PULL_LIMIT_MS });
      await run();
      return await run();
    },
    shell: (line) => run('sh', '-c', line),
  };
}
