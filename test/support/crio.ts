/** CRI-O with a root of its own: it touches neither the machine's images nor its pods. */
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { judgeAtHand } from '../../ops/images/judges.ts';
import { type Cri, connectCri } from '../clients/cri.ts';
import { removeCgroups } from './cgroups.ts';
import {
  endProcesses,
  type Network,
  runCommand,
  type Service,
  startService,
  writeEmptyNetwork,
} from './services.ts';
import { type Cleanup, mountsBelow } from './temp.ts';

/** Of Debian: what watches a container of CRI-O. */
export const CONMON = '/usr/bin/conmon';
/** Of Debian: what CRI-O starts containers with. */
const PROGRAMS = { conmon: CONMON, runc: '/usr/sbin/runc' } as const;

/** Folder of the programs; otherwise why there are no tests with CRI-O here. */
export function findCrio(): { folder: string } | { missing: string } {
  for (const path of Object.values(PROGRAMS))
    if (!existsSync(path)) return { missing: `${path} is not there: ops/install test` };
  let missing = '';
  const folder = judgeAtHand('crio', { onProgress: (line) => (missing = line) });
  return folder === undefined ? { missing } : { folder };
}

export interface Crio {
  /** Its own storage. */
  graphroot: string;
  runroot: string;
  storageConf: string;
  /** Folder of what changes its settings: crio.conf.d. */
  dropIns: string;
  /** Path at which it listens. */
  socket: string;
  cri: Cri;
  /** Ends at once, and leaves pods as they are. */
  kill(): Promise<void>;
  /** Again, on the same storage. */
  start(): Promise<void>;
  /** What it wrote since its first start. */
  log(): string;
}

/**
 * `configure` gets the paths of storage.conf and crio.conf.d before the first start. `pauseImage`: of which pods have their own
 * container.
 */
export async function startCrio(
  cleanup: Cleanup,
  options: {
    folder: string;
    pauseImage: string;
    configure: (storageConf: string, dropIns: string) => Promise<void>;
  },
): Promise<Crio> {
  const work = await cleanup.tempDir('crio');
  const at = (name: string) => join(work, name);
  for (const name of ['storage', 'run', 'conf.d', 'logs']) await mkdir(at(name), { recursive: true });
  const [graphroot, storageConf, dropIns, config] = [
    at('storage'),
    at('storage.conf'),
    at('conf.d'),
    at('crio.conf'),
  ] as const;
  await writeFile(
    storageConf,
    `[storage]\ndriver = "overlay"\nrunroot = "${at('run')}"\ngraphroot = "${graphroot}"\n`,
  );
  const network = await writeEmptyNetwork(work);
  await writeFile(config, crioConfig({ work, network, ...options }));
  await options.configure(storageConf, dropIns);

  const socket = at('c.sock');
  let service: Service | undefined;
  let cri: Cri | undefined;
  let log = '';
  const start = async () => {
    const client = connectCri(socket);
    cri = client;
    service = await startService({
      name: 'crio',
      command: join(options.folder, 'crio'),
      args: ['--config', config, '--config-dir', dropIns],
      directory: work,
      keep: true,
      env: { CONTAINERS_STORAGE_CONF: storageConf },
      ready: () =>
        client.runtime.version({}).then(
          () => true,
          () => false,
        ),
    });
  };
  const kill = async () => {
    cri?.close();
    if (service === undefined) return;
    const { pid } = service;
    process.kill(pid, 'SIGKILL');
    await endProcesses((one) => one === pid);
    log = service.log();
    service = undefined;
  };
  cleanup.defer(async () => {
    await kill();
    // Those that watch containers end these.
    await endProcesses((_pid, line) => line.includes(work));
    removeConmonCgroups(log);
    for (const point of mountsBelow(work).toReversed())
      await runCommand('umount', ['-l', '--', point]).catch(() => {});
  });
  await start();
  return {
    graphroot,
    runroot: at('run'),
    storageConf,
    dropIns,
    socket,
    get cri() {
      return cri as Cri;
    },
    kill,
    start,
    log: () => service?.log() ?? log,
  };
}

/**
 * Removes the groups of what has watched its containers: CRI-O leaves them to the kubelet, which removes a pod's. `log`: what it wrote;
 * each container's id is in it.
 */
export function removeConmonCgroups(log: string): void {
  for (const id of new Set(log.match(/\b[0-9a-f]{64}\b/g))) removeCgroups(`crio-conmon-${id}`);
}

/** Everything that it would write elsewhere is below its own folder. */
function crioConfig(o: { work: string; folder: string; pauseImage: string; network: Network }): string {
  const { work, folder, pauseImage, network } = o;
  const quoted = JSON.stringify;
  const at = (name: string) => quoted(join(work, name));
  return `[crio]
log_dir = ${at('logs')}
version_file = ${at('run/version')}
version_file_persist = ${at('version')}
clean_shutdown_file = ${at('clean.shutdown')}
[crio.api]
listen = ${at('c.sock')}
stream_port = "0"
[crio.runtime]
default_runtime = "runc"
conmon = ${quoted(PROGRAMS.conmon)}
conmon_cgroup = "pod"
cgroup_manager = "cgroupfs"
pinns_path = ${quoted(join(folder, 'pinns'))}
namespaces_dir = ${at('run')}
container_exits_dir = ${at('run/exits')}
container_attach_socket_dir = ${at('run')}
decryption_keys_path = ${at('keys')}
hooks_dir = []
cdi_spec_dirs = []
irqbalance_config_file = ""
irqbalance_config_restore_file = "disable"
[crio.runtime.runtimes.runc]
runtime_path = ${quoted(PROGRAMS.runc)}
runtime_root = ${at('run/runc')}
[crio.image]
pause_image = ${quoted(pauseImage)}
signature_policy_dir = ${at('policies')}
[crio.network]
network_dir = ${quoted(network.configs)}
plugin_dirs = [${quoted(network.programs)}]
[crio.nri]
enable_nri = false
[crio.stats]
`;
}
