/**
 * The manifests of ops/kubernetes: read by a YAML parser, and the DaemonSet's container, with its mounts and their
 * propagation, started by runc on this machine's root file system. containerd is 1.7 and the newest that is here, with this test as
 * the kubelet. test/cluster has a kubelet, a cluster and the engine's image, where Kubernetes was built.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { containerdPath } from '../../ops/images/debs.ts';
import { untilServed } from '../snapshotter/served.ts';
import { eventually, runCofa, startEngine } from '../support/engine.ts';
import { startRegistry } from '../support/registry-server.ts';
import { type Containerd, runCommand, startContainerd } from '../support/services.ts';
import { Cleanup, mountsBelow } from '../support/temp.ts';
import { parseYaml } from '../support/yaml.ts';
import { connectCri, type Cri } from './cri.ts';
import { index, makeBase, makeClientImage, push } from './images.ts';
import { containerds, newestContainerd } from './versions.ts';

const FOLDER = join(import.meta.dirname, '../../ops/kubernetes');
const CHECKOUT = join(import.meta.dirname, '../..');

interface VolumeMount {
  name: string;
  mountPath: string;
  mountPropagation?: 'Bidirectional';
  readOnly?: boolean;
}

interface PodSpec {
  hostPID?: boolean;
  automountServiceAccountToken: boolean;
  containers: Array<{
    command: string[];
    args?: string[];
    env: Array<{ name: string; value: string }>;
    securityContext: { privileged?: boolean };
    volumeMounts: VolumeMount[];
  }>;
  initContainers?: Array<{ volumeMounts: VolumeMount[] }>;
  volumes: Array<{ name: string; hostPath?: { path: string }; secret?: { optional: boolean } }>;
  runtimeClassName?: string;
}

interface Manifest {
  kind: string;
  handler?: string;
  automountServiceAccountToken?: boolean;
  spec: { selector: { matchLabels: object }; template: { metadata: { labels: object }; spec: PodSpec } };
}

const parsed = new Map<string, Manifest[]>();
const manifests = (file: string): Manifest[] => {
  const known = parsed.get(file);
  if (known !== undefined) return known;
  const found = parseYaml<Manifest>(readFileSync(join(FOLDER, file)));
  parsed.set(file, found);
  return found;
};
const podOf = (file: string): PodSpec =>
  (manifests(file).find(({ kind }) => kind === 'DaemonSet') as Manifest).spec.template.spec;

describe('the manifests', () => {
  test('ask nothing of the API server', () => {
    const all = [...manifests('cofa.yaml'), ...manifests('configure.yaml')];
    expect(all.map(({ kind }) => kind)).toEqual(['ServiceAccount', 'RuntimeClass', 'DaemonSet', 'DaemonSet']);
    expect(all[0]?.automountServiceAccountToken).toBe(false);
    for (const file of ['cofa.yaml', 'configure.yaml'])
      expect(podOf(file).automountServiceAccountToken).toBe(false);
  });

  test('name only what they have', () => {
    const all = [...manifests('cofa.yaml'), ...manifests('configure.yaml')];
    for (const { kind, spec } of all) {
      if (kind !== 'DaemonSet') continue;
      expect(spec.template.metadata.labels).toEqual(spec.selector.matchLabels);
      const { containers, initContainers = [], volumes } = spec.template.spec;
      const wanted = [...containers, ...initContainers].flatMap(({ volumeMounts = [] }) => volumeMounts);
      expect(wanted.map(({ name }) => name).toSorted()).toEqual(volumes.map(({ name }) => name).toSorted());
    }
    expect(podOf('cofa.yaml').runtimeClassName).toBe(all[1]?.handler);
  });
});

const VERSIONS = containerds(['1.7', newestContainerd()]);

describe.each(VERSIONS)('the DaemonSet’s container, containerd %s', (version) => {
  const cleanup = new Cleanup();
  const refs: Record<string, string> = {};
  let work: string;
  let root: string;
  let containerd: Containerd;
  let cri: Cri;
  let logs: string;
  let engine: { ended: Promise<void> } | undefined;

  beforeAll(async () => {
    work = await cleanup.tempDir('ds');
    root = await cleanup.tempDir('ds-root');
    // A kubelet takes a folder for Bidirectional only where it is shared, as all are under systemd.
    await runCommand('mount', ['--bind', root, root]);
    // An engine that is stopped by its test has taken it away already.
    cleanup.defer(() => (mountsBelow(root).length > 0 ? runCommand('umount', ['-l', root]) : undefined));
    await runCommand('mount', ['--make-shared', root]);
    const registry = await startRegistry();
    cleanup.defer(() => registry.stop());
    const base = await makeBase(work);
    for (const [name, big] of [
      ['lazy', 1],
      ['plain', 2],
      ['pause', 3],
    ] as const) {
      const config = { Env: ['PATH=/bin'], Cmd: ['/bin/wait'] };
      const image = await makeClientImage(work, base, name, { big, said: `I am ${name}`, config });
      refs[name] = await push(image, registry.host, name);
    }
    await index(refs.lazy as string);
    cleanup.defer(async () => {
      await stop();
      // An engine outside takes away what the one inside has left.
      const last = await startEngine({ root, workers: 1, args: ['--snapshotter'] });
      await last.stop();
    });
    const directory = await cleanup.tempDir('ctrd');
    const path = (await containerdPath(version)) as string;
    containerd = await startContainerd({
      path,
      configVersion: version === '1.7' ? 2 : 3,
      configure: async (file) => {
        const args = ['--root', root, 'install', 'k8s', '--daemonset', '--containerd-config', file];
        expect(await runCofa(args, { env: { PATH: path } })).toMatchObject({ code: 0, stderr: '' });
      },
      sandboxImage: refs.pause as string,
      directory,
    });
    cleanup.defer(() => containerd.stop());
    cri = connectCri(containerd.socket);
    cleanup.defer(() => cri.close());
    await eventually('CRI', async () => (await cri.runtime.version({})).runtimeVersion !== '');
    logs = join(work, 'logs');
    await mkdir(logs);
  }, 300_000);
  afterAll(async () => await cleanup.run());

  /** As the kubelet has it started. */
  async function start(): Promise<void> {
    const bundle = join(work, 'bundle');
    await mkdir(join(bundle, 'rootfs'), { recursive: true });
    for (const name of ['bin', 'sbin', 'lib', 'lib64'])
      await symlink(`usr/${name}`, join(bundle, 'rootfs', name)).catch(() => {});
    await writeFile(join(bundle, 'config.json'), JSON.stringify(specOf(podOf('cofa.yaml'), root)));
    const log = openSync(join(work, 'engine.log'), 'a');
    const args = [
      '--pdeathsig',
      'TERM',
      '--',
      'runc',
      '--root',
      join(work, 'runc'),
      'run',
      '--bundle',
      bundle,
      NAME,
    ];
    const child: ChildProcess = spawn('setpriv', args, { stdio: ['ignore', log, log] });
    closeSync(log);
    engine = { ended: new Promise((resolve) => child.once('close', () => resolve())) };
    const isOver = engine.ended.then(async () => {
      throw new Error(await readFile(join(work, 'engine.log'), 'utf8'));
    });
    isOver.catch(() => {});
    const client = await Promise.race([untilServed(join(root, 'run/snapshotter.sock')), isOver]);
    client.close();
  }

  async function stop(): Promise<void> {
    if (engine === undefined) return;
    await runCommand('runc', ['--root', join(work, 'runc'), 'kill', NAME, 'TERM']).catch(() => {});
    await engine.ended;
    engine = undefined;
  }

  const flats = () => mountsBelow(join(root, 'flats'));

  test('a pod of its runtime class starts while there is no cofa, and no other does', async () => {
    await expect(cri.runPod('early', logs)).rejects.toThrow();
    const pod = await cri.runPod('bootstrap', logs, { handler: 'cofa-bootstrap' });
    await pod.pull(refs.plain as string);
    const container = await pod.start('bootstrap', refs.plain as string, { command: ['/bin/wait'] });
    expect((await cri.exec(container, 'cat', '/said')).stdout).toBe('I am plain\n');
    await pod.stop();
  });

  test('serves the node’s containerd, and its mounts are the node’s', async () => {
    await start();
    const pod = await untilDialed(() => cri.runPod('lazy', logs));
    await cri.pull(refs.lazy as string);
    const container = await pod.start('lazy', refs.lazy as string, { command: ['/bin/wait'] });
    expect((await cri.exec(container, 'sh', '-c', 'echo mine > /mine; cat /said')).stdout).toBe(
      'I am lazy\n',
    );
    expect(flats().length).toBeGreaterThan(0);

    // Another engine takes the place of this one: the mounts wait for it, and the pod goes on. Of the layer that is read
    // afterwards nothing has come before, unless the machine is very slow.
    const before = flats();
    await stop();
    expect(flats()).toEqual(before);
    await start();
    expect(flats()).toEqual(before);
    const cmd = ['cat', '/data/big', '/mine'];
    const { stdout } = await cri.runtime.execSync({ containerId: container, cmd, timeout: 20n });
    const expected = await readFile(join(work, 'image-lazy/2/data/big'));
    expect(Buffer.concat([expected, Buffer.from('mine\n')]).equals(stdout)).toBe(true);
    await untilDialed(() => pod.stop());
  });
});

/**
 * As the kubelet repeats what fails: containerd dials a snapshotter again only some seconds after it was not there, and until
 * then answers every call with that failure (`backoffConfig.MaxDelay` where its server loads proxy plugins).
 */
const untilDialed = async <T>(call: () => Promise<T>): Promise<T> =>
  (await eventually('containerd has found its snapshotter', async () => ({ value: await call() }))).value;

const NAME = `cofa-ds-${process.pid}`;

/** What containerd's CRI plugin makes of the pod's first container, for `runc`; `root` stands for its path of the state. */
function specOf({ containers, volumes, hostPID = false }: PodSpec, root: string): object {
  const {
    command,
    args: more = [],
    env,
    securityContext,
    volumeMounts,
  } = containers[0] as PodSpec['containers'][number];
  const state = env.find(({ name }) => name === 'COFA_ROOT')?.value as string;
  const inTest = (path: string) => (path === state ? root : path);
  expect(securityContext.privileged).toBe(true);
  const bind = (source: string, destination: string, ...options: string[]) => ({
    destination,
    source,
    type: 'bind',
    options: ['rbind', ...options],
  });
  const mounts = volumeMounts.flatMap(({ name, mountPath, mountPropagation }) => {
    const path = volumes.find((volume) => volume.name === name)?.hostPath?.path;
    // There is no secret, no containerd of the node's, and it finds registries without hosts.toml.
    if (path === undefined || ['/run/containerd', '/etc/containerd/certs.d'].includes(path)) return [];
    return [
      bind(inTest(path), inTest(mountPath), mountPropagation === 'Bidirectional' ? 'rshared' : 'rprivate'),
    ];
  });
  const bounding = BigInt(`0x${/^CapBnd:\s*(\S+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]}`);
  const all = CAPABILITIES.filter((_, bit) => ((bounding >> BigInt(bit)) & 1n) === 1n).map(
    (name) => `CAP_${name}`,
  );
  return {
    ociVersion: '1.0.2',
    process: {
      terminal: false,
      user: { uid: 0, gid: 0 },
      // Its images are not signed.
      args: [...(command as string[]), ...more, '--trust', 'registry'],
      env: [
        'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
        'HOME=/root',
        ...env.map(({ name, value }) => `${name}=${inTest(value)}`),
        `COFA_TEST_RUN=${process.env.COFA_TEST_RUN}`,
      ],
      cwd: '/',
      capabilities: { bounding: all, effective: all, permitted: all },
      noNewPrivileges: false,
    },
    root: { path: 'rootfs', readonly: false },
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'rw'] },
      { destination: '/tmp', type: 'tmpfs', source: 'tmpfs' },
      { destination: '/run', type: 'tmpfs', source: 'tmpfs' },
      ...['/usr', '/etc'].map((path) => bind(path, path, 'ro', 'rprivate')),
      bind(CHECKOUT, '/opt/cofa', 'ro', 'rprivate'),
      ...mounts,
    ],
    linux: {
      cgroupsPath: `/${NAME}`,
      resources: { devices: [{ allow: true, access: 'rwm' }] },
      namespaces: ['ipc', 'uts', 'mount', ...(hostPID ? [] : ['pid'])].map((type) => ({ type })),
      // As CRI has it where a mount is Bidirectional.
      rootfsPropagation: 'rshared',
    },
  };
}

/** By their numbers, linux/capability.h. */
const CAPABILITIES =
  `CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST
  NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE
  SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM
  BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`.split(/\s+/);
