/**
 * A node: containerd (or CRI-O) and other services in mount and process namespaces of their own, with /etc, /run and /var of
 * their own at the usual paths, so that manifests fit as they are. Its first process starts them, and again when they end,
 * as systemd does. Killed, it takes everything with it: that is its reboot, after which /run is empty and the disk is as it was.
 * Network, devices and cgroups are the machine's.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdir, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { connectCri } from '../clients/cri.ts';
import { cgroupControllers, removeCgroups } from '../support/cgroups.ts';
import { CONMON, removeConmonCgroups } from '../support/crio.ts';
import { eventually } from '../support/engine.ts';
import { type RunOptions, runCommand } from '../support/services.ts';
import { makeSmallDisk } from '../support/small-disk.ts';
import type { Cleanup } from '../support/temp.ts';

export interface NodeOptions {
  /** With containerd (or CRI-O) and runc, and what `services` names. */
  path: string;
  /** CRI-O runs the pods, not containerd. */
  crio?: CrioPrograms;
  /** What runs beside it: by name the program and its arguments. */
  services: Readonly<Record<string, readonly string[]>>;
  /** Settings of containerd's service: a file of systemd, whose ExecStartPost= is carried out. */
  dropIn?: string;
  /** Files of its /etc. */
  etc?: Readonly<Record<string, string>>;
  /** Of pods' first container. */
  sandboxImage: string;
  /** Addresses of pods, where other nodes on this machine have the usual ones: such as `192.0.2.0/24`. */
  subnet?: string;
  /** Ports of the node lead to pods. For those that run in a network of their own: rules of its kernel are changed. */
  hostPorts?: boolean;
  /** Where containerd finds a registry that has no such address: name to `http://HOST:PORT`. */
  mirrors: Readonly<Record<string, string>>;
  /** Of a disk of its own; by default it has a folder of the machine's. */
  diskBytes?: number;
  cleanup: Cleanup;
}

export interface CrioPrograms {
  /** Folder of crio and pinns. */
  folder: string;
  /** Path of the program. */
  runc: string;
}

export interface ClusterNode {
  /** Its disk: `etc/upper`, `state/cofa` … */
  disk: string;
  boot(): Promise<void>;
  /** Kills every process on it at once. */
  kill(): Promise<void>;
  /** Ends containerd or CRI-O, and waits for the next one. */
  restart(): Promise<void>;
  /** Runs a program on it; throws with stderr. */
  run(command: string, args: string[], options?: RunOptions): Promise<string>;
  /** What a service wrote. */
  log(name: string): string;
}

/** Prepares it; `boot` starts it. */
export async function makeNode(options: NodeOptions): Promise<ClusterNode> {
  const { cleanup, path, mirrors, etc = {}, diskBytes } = options;
  const disk =
    diskBytes === undefined ? await cleanup.tempDir('node') : await makeSmallDisk(cleanup, diskBytes);
  const at = (name: string) => join(disk, name);
  const put = async (name: string, text: string, mode = 0o644) => {
    await mkdir(join(at(name), '..'), { recursive: true });
    await writeFile(at(name), text, { mode });
  };
  for (const folder of OVERLAYS)
    for (const name of ['upper', 'work']) await mkdir(at(`${folder}/${name}`), { recursive: true });
  for (const name of [...STATES.map((one) => `state/${one}`), 'log', 'sysctl'])
    await mkdir(at(name), { recursive: true });
  await put('etc/upper/containerd/config.toml', containerdConfig(options));
  if (options.crio !== undefined) {
    for (const [name, text] of Object.entries(crioFiles(options.crio, options)))
      await put(`etc/upper/${name}`, text);
    await put('usr/local/upper/bin/crio-runc', restrictedRunc(options.crio.runc), 0o755);
  }
  await put('etc/upper/cni/net.d/10-pods.conflist', JSON.stringify(networkOf(options)));
  for (const [host, address] of Object.entries(mirrors))
    await put(
      `etc/upper/containerd/certs.d/${host}/hosts.toml`,
      `server = "${address}"\n[host."${address}"]\n  capabilities = ["pull", "resolve"]\n`,
    );
  for (const [name, text] of Object.entries(etc)) await put(`etc/upper/${name}`, text);
  await put('usr/local/upper/bin/systemctl', SYSTEMCTL, 0o755);
  for (const [name, value] of Object.entries(SYSCTLS))
    await put(`sysctl/${name.replaceAll('/', '.')}`, `${value}\n`);

  const log = (name: string) => readFileSync(at(`log/${name}`), 'utf8');
  let unshare: ChildProcess | undefined;
  let init: number | undefined;
  const run = (command: string, args: string[], o: RunOptions = {}) =>
    runCommand('nsenter', ['--target', String(init), '--mount', '--pid', '--', command, ...args], {
      ...o,
      env: { PATH: path, ...o.env },
    });
  const main = options.crio === undefined ? 'containerd' : 'crio';
  const serves = async () => {
    if (options.crio === undefined) await run('ctr', ['version'], { timeoutMs: 5000 });
    else await answers(`/proc/${init}/root${CRIO_SOCKET}`);
    return true;
  };
  const kill = async () => {
    if (unshare === undefined) return;
    const ended = new Promise((resolve) => unshare?.once('close', resolve));
    if (init !== undefined) process.kill(init, 'SIGKILL');
    else unshare.kill('SIGKILL');
    await ended;
    unshare = undefined;
    init = undefined;
    // A machine forgets them. Those that a mount used go with it, some moments after the node's processes.
    await eventually('no loop device is left', async () => (await loopsOn(disk)).length === 0, 3000).catch(
      async () => {
        for (const loop of await loopsOn(disk)) await runCommand('losetup', ['-d', loop]);
      },
    );
    removeCgroups(CGROUP);
    if (options.crio !== undefined) removeConmonCgroups(log('crio'));
  };
  cleanup.defer(kill);
  return {
    disk,
    kill,
    run,
    restart: async () => {
      const pid = () => run('cat', [`/run/${main}.pid`]);
      const before = await pid();
      await run('systemctl', ['restart', main]);
      await eventually(`another ${main}`, async () => (await pid()) !== before && (await serves()), 60_000);
    },
    log,
    boot: async () => {
      for (const controller of cgroupControllers())
        await mkdir(join(controller, CGROUP), { recursive: true });
      const namespaces = ['--mount', '--propagation', 'private', '--pid', '--fork', '--kill-child=KILL'];
      const script = setUp({ [main]: [main], ...options.services }, afterStart(options.dropIn));
      const command = [
        '--pdeathsig',
        'KILL',
        '--',
        'unshare',
        ...namespaces,
        'sh',
        '-euc',
        script,
        'node',
        disk,
      ];
      const child = spawn('setpriv', command, {
        stdio: 'ignore',
        env: { ...process.env, PATH: path, TMPDIR: '/run' },
      });
      unshare = child;
      init = await eventually('the node’s first process', () => {
        if (child.exitCode !== null) throw new Error(`it ended with ${child.exitCode}`);
        return (
          Number(readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').trim()) || undefined
        );
      });
      await eventually(main, async () => {
        if (child.exitCode !== null) throw new Error(`the node ended with ${child.exitCode}`);
        return await serves();
      });
    },
  };
}

/** Where CRI-O listens, on its node. */
export const CRIO_SOCKET = '/run/crio/crio.sock';

/** Throws where CRI-O does not answer there. */
async function answers(socket: string): Promise<void> {
  const cri = connectCri(socket, { timeoutMs: 5000 });
  try {
    await cri.runtime.version({});
  } finally {
    cri.close();
  }
}

/** Below it are those of a kubelet's pods. */
export const CGROUP = `cofa-node-${process.pid}`;
/** What the node may write without changing the machine. */
const OVERLAYS = ['etc', 'usr/local', 'var/lib', 'var/log'] as const;
/** Of /var/lib, on the disk itself. */
const STATES = ['cofa', 'containerd', 'containers', 'crio', 'kubelet'] as const;
/** What a kubelet and CNI's plugins set for the whole machine. They find it set already. */
const SYSCTLS = {
  'vm/overcommit_memory': 1,
  'vm/panic_on_oom': 0,
  'kernel/panic': 10,
  'kernel/panic_on_oops': 1,
  'kernel/keys/root_maxkeys': 1_000_000,
  'kernel/keys/root_maxbytes': 25_000_000,
  'net/ipv4/ip_forward': 1,
};

/** What ops/kubernetes/configure.yaml asks of systemd; the same for CRI-O. */
const SYSTEMCTL = `#!/bin/sh
case "$*" in
  'restart containerd' | 'restart crio') kill "$(cat "/run/$2.pid")" ;;
  *) exit 1 ;;
esac
`;

/** What systemd runs when containerd says that it is ready; nothing without such a file. */
const afterStart = (dropIn = ''): string =>
  /^ExecStartPost=-(.*)$/m.exec(dropIn)?.[1]?.replaceAll('$$', '$') ?? ':';

const setUp = (services: NodeOptions['services'], after: string): string => `
disk=$1
for dir in ${OVERLAYS.join(' ')}; do
  mount -t overlay overlay -o "lowerdir=/$dir,upperdir=$disk/$dir/upper,workdir=$disk/$dir/work" "/$dir"
done
for dir in ${STATES.join(' ')}; do
  mkdir -p "/var/lib/$dir"
  mount --bind "$disk/state/$dir" "/var/lib/$dir"
done
mount -t proc proc /proc
for name in ${Object.keys(SYSCTLS).join(' ')}; do
  mount --bind "$disk/sysctl/$(echo "$name" | tr / .)" "/proc/sys/$name"
done
mount -t tmpfs tmpfs /run
mkdir -p /run/netns /run/lock /run/proc
# Pods with users of their own may have a /proc where there is one that nothing covers.
mount -t proc proc /run/proc
mount --make-rshared /
keep() {
  name=$1
  shift
  while :; do
    "$@" >>"$disk/log/$name" 2>&1 &
    pid=$!
    echo $pid >"/run/$name.pid"
    if [ "$name" = containerd ]; then
      until ctr version >/dev/null 2>&1 || ! kill -0 $pid 2>/dev/null; do sleep 0.1; done
      ${after} >>"$disk/log/after-start" 2>&1 || :
    fi
    wait $pid || :
    sleep 0.5
  done
}
${Object.entries(services)
  .map(([name, command]) => `keep ${name} ${command.map((word) => `'${word}'`).join(' ')} &`)
  .join('\n')}
while :; do sleep 1; done
`;

/** Addresses for documentation; each pod has a pair of interfaces of its own, which ends with it. */
const networkOf = ({ subnet = '203.0.113.0/24', hostPorts = false }: NodeOptions) => ({
  cniVersion: '0.4.0',
  name: 'pods',
  plugins: [
    { type: 'ptp', ipam: { type: 'host-local', subnet, routes: [{ dst: '0.0.0.0/0' }] } },
    ...(hostPorts ? [{ type: 'portmap', capabilities: { portMappings: true }, snat: true }] : []),
  ],
});

const containerdConfig = ({ sandboxImage }: NodeOptions): string => `version = 3
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = ${JSON.stringify(sandboxImage)}
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "/etc/containerd/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
`;

/** Below /etc. What it does not say is as CRI-O has it by default. */
function crioFiles({ folder }: CrioPrograms, { sandboxImage, mirrors }: NodeOptions): Record<string, string> {
  const quoted = JSON.stringify;
  return {
    'crio/crio.conf': `[crio]
[crio.api]
listen = ${quoted(CRIO_SOCKET)}
stream_port = "0"
[crio.runtime]
default_runtime = "runc"
conmon = ${quoted(CONMON)}
conmon_cgroup = "pod"
cgroup_manager = "cgroupfs"
pinns_path = ${quoted(join(folder, 'pinns'))}
irqbalance_config_file = ""
irqbalance_config_restore_file = "disable"
# It takes nft(8), and CRI-O 1.34.0 dies of a pod with such a port where there is none.
disable_hostport_mapping = true
[crio.runtime.runtimes.runc]
runtime_path = "/usr/local/bin/crio-runc"
runtime_root = "/run/runc"
[crio.image]
pause_image = ${quoted(sandboxImage)}
# What the image says.
pause_command = ""
[crio.network]
network_dir = "/etc/cni/net.d"
plugin_dirs = ["/usr/lib/cni"]
[crio.nri]
enable_nri = true
nri_listen = "/run/nri/nri.sock"
`,
    'containers/storage.conf': `[storage]
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
`,
    'containers/policy.json': '{ "default": [{ "type": "insecureAcceptAnything" }] }\n',
    'containers/registries.conf.d/mirrors.conf': Object.entries(mirrors)
      .map(
        ([name, address]) =>
          `[[registry]]\nprefix = ${quoted(name)}\nlocation = ${quoted(new URL(address).host)}\ninsecure = true\n`,
      )
      .join('\n'),
  };
}

/** A root that may not make processes less likely to be killed: what containerd's setting `restrict_oom_score_adj` is for. */
const restrictedRunc = (runc: string): string => `#!/bin/sh
previous=
for word; do
  [ "$previous" != --bundle ] || sed -i 's/"oomScoreAdj": *-[0-9]*/"oomScoreAdj":0/' "$word/config.json"
  previous=$word
done
exec ${runc} "$@"
`;

/**
 * Loop devices on files of the engine. By inodes: the kernel names files of a namespace that has ended in a way of its own. A file of
 * its FUSE mount has the layer's name, and a path of its own once the mount has ended.
 */
async function loopsOn(disk: string): Promise<string[]> {
  const root = join(disk, 'state/cofa');
  const find = ['-xdev', '(', '-name', 'device', '-o', '-name', 'flat.erofs', ')', '-printf', '%i\\n'];
  const inodes = new Set((await runCommand('find', [root, ...find])).trim().split('\n'));
  const layers = new Set(await readdir(join(root, 'layers')).catch(() => []));
  const device = String((await stat(root)).dev);
  const listed = await runCommand('losetup', [
    '--list',
    '--noheadings',
    '--raw',
    '--output',
    'NAME,BACK-INO,BACK-MAJ:MIN,BACK-FILE',
  ]);
  return listed.split('\n').flatMap((line) => {
    // It pads what is raw, and writes each blank as \x20.
    const [, name = '', inode = '', major, minor, file = ''] =
      /^(\S+) (\d+) (?:\\x20)*(\d+):(\d+)(?:\\x20)* (\S*)/.exec(line) ?? [];
    const isOfDisk = inodes.has(inode) && String(Number(major) * 256 + Number(minor)) === device;
    return isOfDisk || layers.has(file.slice(1)) ? [name] : [];
  });
}
