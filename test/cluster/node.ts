/**
 * A node: containerd and other services in mount and process namespaces of their own, with /etc, /run and /var of
 * their own at the usual paths, so that manifests fit as they are. Its first process starts them, and again when they end,
 * as systemd does. Killed, it takes everything with it: that is its reboot, after which /run is empty and the disk is as it was.
 * Network, devices and cgroups are the machine's.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { mkdir, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { eventually } from '../support/engine.ts';
import { type RunOptions, runCommand } from '../support/services.ts';
import type { Cleanup } from '../support/temp.ts';

export interface NodeOptions {
  /** With containerd and runc, and what `services` names. */
  path: string;
  /** What runs beside containerd: by name the program and its arguments. */
  services: Readonly<Record<string, readonly string[]>>;
  /** Settings of containerd's service: a file of systemd, whose ExecStartPost= is carried out. */
  dropIn?: string;
  /** Files of its /etc. */
  etc?: Readonly<Record<string, string>>;
  /** Of pods' first container. */
  sandboxImage: string;
  /** Addresses of pods, where other nodes on this machine have the usual ones: such as `192.0.2.0/24`. */
  subnet?: string;
  /** Where containerd finds a registry that has no such address: name to `http://HOST:PORT`. */
  mirrors: Readonly<Record<string, string>>;
  cleanup: Cleanup;
}

export interface ClusterNode {
  /** Its disk: `etc/upper`, `state/cofa` … */
  disk: string;
  boot(): Promise<void>;
  /** Kills every process on it at once. */
  kill(): Promise<void>;
  /** Runs a program on it; throws with stderr. */
  run(command: string, args: string[], options?: RunOptions): Promise<string>;
  /** What a service wrote. */
  log(name: string): string;
}

/** Prepares it; `boot` starts it. */
export async function makeNode(options: NodeOptions): Promise<ClusterNode> {
  const { cleanup, path, mirrors, etc = {} } = options;
  const disk = await cleanup.tempDir('node');
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
  await put('etc/upper/cni/net.d/10-pods.conflist', JSON.stringify(networkOf(options.subnet)));
  for (const [host, address] of Object.entries(mirrors))
    await put(
      `etc/upper/containerd/certs.d/${host}/hosts.toml`,
      `server = "${address}"\n[host."${address}"]\n  capabilities = ["pull", "resolve"]\n`,
    );
  for (const [name, text] of Object.entries(etc)) await put(`etc/upper/${name}`, text);
  await put('usr/local/upper/bin/systemctl', SYSTEMCTL, 0o755);
  for (const [name, value] of Object.entries(SYSCTLS))
    await put(`sysctl/${name.replaceAll('/', '.')}`, `${value}\n`);

  let unshare: ChildProcess | undefined;
  let init: number | undefined;
  const run = (command: string, args: string[], o: RunOptions = {}) =>
    runCommand('nsenter', ['--target', String(init), '--mount', '--pid', '--', command, ...args], {
      ...o,
      env: { PATH: path, ...o.env },
    });
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
  };
  cleanup.defer(kill);
  return {
    disk,
    kill,
    run,
    log: (name) => readFileSync(at(`log/${name}`), 'utf8'),
    boot: async () => {
      for (const controller of cgroupControllers())
        await mkdir(join(controller, CGROUP), { recursive: true });
      const namespaces = ['--mount', '--propagation', 'private', '--pid', '--fork', '--kill-child=KILL'];
      const script = setUp({ containerd: ['containerd'], ...options.services }, afterStart(options.dropIn));
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
      await eventually('containerd', async () => {
        if (child.exitCode !== null) throw new Error(`the node ended with ${child.exitCode}`);
        await run('ctr', ['version'], { timeoutMs: 5000 });
        return true;
      });
    },
  };
}

/** Below it are those of a kubelet's pods. */
export const CGROUP = `cofa-node-${process.pid}`;
/** What the node may write without changing the machine. */
const OVERLAYS = ['etc', 'usr/local', 'var/lib', 'var/log'] as const;
/** Of /var/lib, on the disk itself. */
const STATES = ['cofa', 'containerd', 'kubelet'] as const;
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

/** What ops/kubernetes/configure.yaml asks of systemd. */
const SYSTEMCTL = `#!/bin/sh
[ "$*" = 'restart containerd' ] || exit 1
kill "$(cat /run/containerd.pid)"
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
const networkOf = (subnet = '203.0.113.0/24') => ({
  cniVersion: '0.4.0',
  name: 'pods',
  plugins: [{ type: 'ptp', ipam: { type: 'host-local', subnet, routes: [{ dst: '0.0.0.0/0' }] } }],
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

function cgroupControllers(): string[] {
  const folder = '/sys/fs/cgroup';
  if (existsSync(join(folder, 'cgroup.controllers'))) return [folder];
  return readdirSync(folder)
    .map((name) => join(folder, name))
    .filter((one) => existsSync(join(one, 'cgroup.procs')));
}

function removeCgroups(name: string): void {
  const remove = (folder: string) => {
    for (const entry of readdirSync(folder, { withFileTypes: true }))
      if (entry.isDirectory()) remove(join(folder, entry.name));
    rmdirSync(folder);
  };
  for (const controller of cgroupControllers())
    if (existsSync(join(controller, name))) remove(join(controller, name));
}

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
