/** `cofa install` and `uninstall` on files as Debian and people have them, with the real containerd as a judge. */
import { execFile, execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { containerdPath, NEWEST_CONTAINERD, unpackedDebs } from '../../ops/images/debs.ts';
import { type Found, judgeInstalls } from '../../src/cli/doctor-installs.ts';
import { newestContainerd } from '../clients/versions.ts';
import { runCofa } from '../support/engine.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());
let etc: string;
let files: Record<'toml' | 'json' | 'unit', string>;

/** As Debian's package has it. */
const DEBIAN = [
  'version = 2',
  '',
  '[plugins]',
  '  [plugins."io.containerd.grpc.v1.cri"]',
  '    [plugins."io.containerd.grpc.v1.cri".cni]',
  '      bin_dir = "/usr/lib/cni"',
  '',
].join('\n');

beforeEach(async () => {
  etc = await cleanup.tempDir('etc');
  files = {
    toml: join(etc, 'containerd/config.toml'),
    json: join(etc, 'docker/daemon.json'),
    unit: join(etc, 'systemd/cofa.service'),
  };
});

function put(path: string, text: string): void {
  mkdirSync(join(path, '..'), { recursive: true });
  writeFileSync(path, text, { mode: 0o640 });
}

const get = (path: string) => (existsSync(path) ? readFileSync(path, 'utf8') : undefined);
const all = () => Object.values(files).map(get);

async function cofa(...args: string[]) {
  const where = ['--containerd-config', files.toml, '--daemon-json', files.json, '--unit', files.unit];
  // The machine's own is no test's.
  where.push('--storage-conf', join(etc, 'containers/storage.conf'));
  const { code, stdout, stderr } = await runCofa(['--root', '/srv/co fa', ...args, ...where]);
  return { code, stdout, stderr };
}

interface Dump {
  code: number;
  text: string;
}

async function dump(): Promise<Dump> {
  const { stdout } = await promisify(execFile)('containerd', ['--config', files.toml, 'config', 'dump']);
  return { code: 0, text: stdout };
}

describe('install', () => {
  test.each([
    ['Debian’s configuration', DEBIAN],
    ['no configuration', undefined],
    ['the whole default', execFileSync('containerd', ['config', 'default'], { encoding: 'utf8' })],
  ])('k8s into %s: containerd takes it, and uninstall leaves no trace', async (_, before) => {
    if (before !== undefined) put(files.toml, before);
    const shown = await cofa('install', 'k8s', '--dry-run');
    expect(shown.stdout).toContain('+ [proxy_plugins.cofa]');
    expect(shown.code).toBe(0);
    expect(all()).toEqual([before, undefined, undefined]);

    const done = await cofa('install', 'k8s');
    expect(done).toMatchObject({ code: 0, stderr: '' });
    expect(done.stdout).toContain('systemctl restart containerd');
    const { text } = await dump();
    expect(text).toContain('address = "/srv/co fa/run/snapshotter.sock"');
    expect(text).toContain('snapshotter = "cofa"');
    expect(text).toContain('disable_snapshot_annotations = false');
    expect(get(files.toml)).toContain('capabilities = ["rebase", "remap-ids"]');
    // A kubelet measures the disk of this folder.
    expect(get(files.toml)).toMatch(/\[proxy_plugins\.cofa\.exports\]\n {2}root = "\/srv\/co fa"\n/);
    if (before === DEBIAN) expect(text).toContain('bin_dir = "/usr/lib/cni"');
    if (before !== undefined) expect(statSync(files.toml).mode & 0o777).toBe(0o640);

    const again = all();
    expect((await cofa('install', 'k8s')).stdout).toContain('nothing to do');
    // What is there for pods stays when containerd alone is asked for.
    expect((await cofa('install', 'containerd')).stdout).toContain('nothing to do');
    expect(all()).toEqual(again);

    expect((await cofa('uninstall', 'k8s')).code).toBe(0);
    expect((await dump()).text).not.toContain('snapshotter = "cofa"');
    expect((await dump()).text).toContain('[proxy_plugins.cofa]');
    expect(get(files.toml)).toContain('capabilities = ["rebase", "remap-ids"]');
    expect(get(files.toml)).toContain('root = "/srv/co fa"');
    expect((await cofa('uninstall')).code).toBe(0);
    expect(all()).toEqual([before, undefined, undefined]);
    expect((await cofa('uninstall')).stdout).toContain('nothing to do');
  });

  const newest = newestContainerd();

  test.each([
    ['Debian’s configuration', newest],
    ['the whole default', '2.1'],
    ...(newest === '2.1' ? [] : [['the whole default', newest] as const]),
    ['one that unpacks for others', newest],
  ] as const)('for containerd 2, into %s of %s: pods use cofa, and ctr may', async (kind, version) => {
    const path = (await containerdPath(version)) as string;
    const env = { PATH: path };
    const containerd2 = async (...args: string[]) =>
      (await promisify(execFile)('containerd', args, { env: { ...process.env, ...env } })).stdout;
    const own =
      "version = 3\n[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\n  platform = 'linux'\n  snapshotter = 'native'\n";
    const before = kind.startsWith('Debian')
      ? DEBIAN
      : kind.startsWith('one')
        ? own
        : await containerd2('config', 'default');
    put(files.toml, before);
    const install = (target: string) =>
      runCofa(
        [
          ['--root', '/srv/co fa', target, ...(target === 'install' ? ['k8s'] : []), '--no-unit'],
          ['--containerd-config', files.toml, '--daemon-json', files.json],
        ].flat(),
        { env },
      );
    expect(await install('install')).toMatchObject({ code: 0, stderr: '' });
    const text = (await containerd2('--config', files.toml, 'config', 'dump')).replaceAll('"', "'");
    expect(text).toContain("enable_remote_snapshot_annotations = 'true'");
    expect(text).toMatch(/capabilities = \['rebase', 'remap-ids'\]/);
    expect(text).toContain("root = '/srv/co fa'");
    expect(text).toMatch(
      /\[plugins\.'io\.containerd\.cri\.v1\.images'\]\n\s+snapshotter = 'cofa'\n\s+disable_snapshot_annotations = false/,
    );
    // The administrator's own settings for unpacking stay as they are.
    const unpacks = /unpack_config = \[[^\]]*\]|(?<=unpack_config\]\]\n)[^[]*/g;
    const snapshotters = [...text.matchAll(unpacks)].flatMap(([part]) =>
      [...part.matchAll(/snapshotter = '(\w+)'/g)].map(([, name]) => name),
    );
    expect(snapshotters).toEqual(kind.startsWith('one') ? ['native'] : ['overlayfs', 'cofa']);
    const again = get(files.toml);
    expect((await install('install')).stdout).toContain('nothing to do');
    expect(get(files.toml)).toBe(again);
    expect((await install('uninstall')).code).toBe(0);
    expect(get(files.toml)).toBe(before);
  });

  test('k8s --daemonset: a runtime class for the pod that brings cofa, on what pods had before; no service', async () => {
    const cri = '[plugins."io.containerd.grpc.v1.cri".containerd';
    const before = [
      'version = 2',
      `${cri}]`,
      '  snapshotter = "zfs"',
      `${cri}.runtimes.runc.options]`,
      '  SystemdCgroup = true',
      '',
    ].join('\n');
    put(files.toml, before);
    const done = await cofa('install', 'k8s', '--daemonset');
    expect(done).toMatchObject({ code: 0, stderr: '' });
    expect(done.stdout).toContain('kubectl apply');
    const after = get(files.toml) as string;
    expect(after).toContain('snapshotter = "cofa" # cofa install; was: "zfs"');
    expect(after.slice(after.indexOf(`${cri}.runtimes.cofa-bootstrap]`))).toMatch(
      /^.*\n {2}runtime_type = "io.containerd.runc.v2"\n {2}snapshotter = "zfs"\n.*runtimes.cofa-bootstrap.options\]\n {2}SystemdCgroup = true\n/,
    );
    expect((await dump()).text).toContain('runtimes.cofa-bootstrap]');
    expect((await cofa('install', 'k8s', '--daemonset')).stdout).toContain('nothing to do');
    expect(get(files.unit)).toBeUndefined();
    // Asked for something else it stays.
    await cofa('install', 'containerd');
    expect(get(files.toml)).toBe(after);
    expect((await cofa('uninstall')).code).toBe(0);
    expect(all()).toEqual([before, undefined, undefined]);
    expect((await cofa('install', 'docker', '--daemonset')).code).toBe(2);
    put(files.toml, 'version = 9\n');
    expect((await cofa('install', 'k8s', '--daemonset')).code).toBe(6);
    // The runtime that containerd has by itself is named, or it would be gone.
    put(files.toml, DEBIAN);
    await cofa('install', 'k8s', '--daemonset');
    expect(get(files.toml)).toContain(`${cri}.runtimes.runc]`);
    expect(after.match(/runtimes\.runc\]/g)).toBeNull();
  });

  test.each(['its own default', 'a short one'])('k8s --daemonset for containerd 2, into %s', async (kind) => {
    const { path } = await unpackedDebs(NEWEST_CONTAINERD);
    const env = { PATH: path };
    const containerd2 = async (...args: string[]) =>
      (await promisify(execFile)('containerd', args, { env: { ...process.env, ...env } })).stdout;
    const runtime = "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc";
    const short = [
      'version = 3',
      "[plugins.'io.containerd.cri.v1.images']",
      "  snapshotter = 'zfs'",
      `${runtime}]`,
      "  runtime_type = 'io.containerd.runc.v2'",
      `${runtime}.options]`,
      '  SystemdCgroup = true',
      '',
    ].join('\n');
    const before = kind === 'a short one' ? short : await containerd2('config', 'default');
    put(files.toml, before);
    const call = (...args: string[]) =>
      runCofa(['--root', '/srv/co fa', ...args, '--containerd-config', files.toml], { env });
    expect(await call('install', 'k8s', '--daemonset')).toMatchObject({ code: 0, stderr: '' });
    const text = (await containerd2('--config', files.toml, 'config', 'dump')).replaceAll('"', "'");
    const had = kind === 'a short one' ? 'zfs' : 'overlayfs';
    const tables = text.split(/^(?=\s*\[)/m).map((part) => part.trim().split(/\n\s*/));
    const table = (header: string) =>
      tables.find(([first]) => first === `[plugins.'io.containerd.cri.v1.${header}]`);
    expect(table("images'")).toContain("snapshotter = 'cofa'");
    expect(table("images'.runtime_platforms.cofa-bootstrap")).toContain(`snapshotter = '${had}'`);
    const handler = "runtime'.containerd.runtimes.cofa-bootstrap";
    expect(table(handler)).toContain(`snapshotter = '${had}'`);
    expect(table("runtime'.containerd.runtimes.runc")).toContain("runtime_type = 'io.containerd.runc.v2'");
    if (kind === 'a short one') expect(table(`${handler}.options`)).toContain('SystemdCgroup = true');
    expect((await call('install', 'k8s', '--daemonset')).stdout).toContain('nothing to do');
    expect((await call('uninstall', '--no-unit')).code).toBe(0);
    expect(get(files.toml)).toBe(before);
  });

  test('docker: its own settings stay, and come back', async () => {
    const before = '{"log-driver":"local","storage-driver":"overlay2"}';
    put(files.json, before);
    expect(await cofa('install', 'docker')).toMatchObject({ code: 0, stderr: '' });
    expect(JSON.parse(get(files.json) as string)).toEqual({
      'log-driver': 'local',
      'storage-driver': 'cofa',
      features: { 'containerd-snapshotter': true },
    });
    expect((await cofa('install', 'docker')).stdout).toContain('nothing to do');
    expect((await cofa('uninstall')).code).toBe(0);
    expect(all()).toEqual([undefined, before, undefined]);
    expect(existsSync(`${files.json}.before-cofa`)).toBe(false);

    // What was changed in between is kept.
    await cofa('install', 'docker');
    put(files.json, (get(files.json) as string).replace('local', 'none'));
    await cofa('uninstall', 'docker');
    expect(JSON.parse(get(files.json) as string)).toEqual({
      'log-driver': 'none',
      'storage-driver': 'overlay2',
    });
  });

  test('an uninstall tells a snapshotter that runs on whom to show no lazy layers; an install takes that back', async () => {
    vi.stubEnv('CONTAINERD_ADDRESS', '/nonexistent');
    const root = join(etc, 'root');
    mkdirSync(root);
    const told = async (...args: string[]) => {
      expect((await cofa('--root', root, ...args)).code).toBe(0);
      return get(join(root, 'hidden-blobs'));
    };
    expect(await told('install', 'docker')).toBeUndefined();
    expect(await told('uninstall', '--dry-run')).toBeUndefined();
    expect(await told('uninstall')).toBe('moby\ndefault\nk8s.io\n');
    expect(await told('install', 'k8s')).toBe('moby\n');
    expect(await told('install', 'docker')).toBeUndefined();
    expect(await told('uninstall', 'docker')).toBe('moby\n');
    vi.unstubAllEnvs();
  });

  test('what is not understood is left alone', async () => {
    put(files.toml, 'version = 2\nplugins = { "io.containerd.grpc.v1.cri" = { containerd = {} } }\n');
    const refused = await cofa('install', 'k8s');
    expect(refused.code).toBe(6);
    expect(refused.stderr).toContain('nothing was written');
    put(files.toml, 'version = 9\n');
    expect((await cofa('install', 'k8s')).code).toBe(6);
    put(files.toml, DEBIAN);
    put(files.json, '{"a":');
    expect((await cofa('install', 'docker')).stderr).toContain('no JSON object');
    expect((await cofa('install', 'lxc')).code).toBe(2);
    expect(all().slice(0, 2)).toEqual([DEBIAN, '{"a":']);
  });

  test('docker with a containerd of its own inside: it would not start with cofa, so nothing is written', async () => {
    const before = '{"features":{"embedded-containerd":true}}';
    put(files.json, before);
    const refused = await cofa('install', 'docker');
    expect(refused.code).toBe(6);
    expect(refused.stderr).toContain('embedded-containerd');
    expect(all()).toEqual([undefined, before, undefined]);
    put(files.json, before.replace('true', 'false'));
    expect(await cofa('install', 'docker')).toMatchObject({ code: 0, stderr: '' });
  });

  test('the service is one that systemd reads, and runs this checkout', async () => {
    await cofa('install', 'containerd');
    const unit = get(files.unit) as string;
    expect(unit).toContain(`ops/cofa --root "/srv/co fa" up --foreground --snapshotter\n`);
    // The cache gives way before a kubelet's limits, also where docker is added later.
    for (const target of ['k8s', 'docker']) {
      await cofa('install', target);
      expect(get(files.unit)).toContain('up --foreground --snapshotter --keep-free 20\n');
    }
    await promisify(execFile)('systemd-analyze', ['verify', files.unit]);
    put(files.unit, (get(files.unit) as string).replace('# Written by cofa install.', '# My own.'));
    await cofa('uninstall');
    expect(existsSync(files.unit)).toBe(true);
  });
});

describe('doctor', () => {
  const installed = [
    `${DEBIAN}# cofa install: begin`,
    '[proxy_plugins.cofa]',
    '  address = "/s"',
    '  capabilities = ["rebase", "remap-ids"]',
    '[proxy_plugins.cofa.exports]',
    '  root = "/r"',
    '[plugins."io.containerd.grpc.v1.cri".containerd]',
    '  snapshotter = "cofa"',
    '# cofa install: end',
    '',
  ].join('\n');
  const docker = '{"storage-driver":"cofa","features":{"containerd-snapshotter":true}}';
  const unit = '# Written by cofa install.\n';
  const good: Found = {
    containerd: installed,
    docker,
    unit,
    root: '/r',
    socket: '/s',
    running: 'loaded',
    enabled: 'enabled',
    mapsIds: true,
    images: { socket: '/r/image-service.sock', isAnswered: true, kubelet: '/r/image-service.sock' },
  };
  const unmapped = installed.replace(', "remap-ids"', '');
  const images = (found: Partial<Found['images']>) => ({ images: { ...good.images, ...found } });
  const says = (found: Partial<Found>) =>
    judgeInstalls({ ...good, ...found }).map(({ name, state, fix }) =>
      `${name} ${state} ${fix ?? ''}`.trim(),
    );

  test('says nothing of what was not installed', () => {
    const nothing = { containerd: DEBIAN, docker: undefined, unit: undefined };
    expect(says({ ...nothing, ...images({ kubelet: undefined }) })).toEqual([]);
    expect(says({ ...nothing, ...images({ kubelet: '', isAnswered: false }) })).toEqual([]);
  });

  test.each<[string, Partial<Found>, string[]]>([
    [
      'all is well',
      {},
      [
        'containerd ok',
        'disk of images ok',
        'user namespaces ok',
        'image service ok',
        'docker ok',
        'service ok',
      ],
    ],
    [
      'a kubelet that finds no disk of images, as after an install of 0.1.0',
      { containerd: installed.replace('  root = "/r"\n', '') },
      [expect.stringMatching(/^disk of images warn cofa --root \/r install k8s, /)],
    ],
    [
      'a kubelet that measures another root',
      { root: '/other' },
      [expect.stringMatching(/^disk of images warn cofa --root \/other install k8s, /)],
    ],
    ['an install of before', { containerd: unmapped }, ['user namespaces warn cofa install containerd']],
    ['a disk that maps no ids', { containerd: unmapped, mapsIds: false }, ['user namespaces ok']],
    [
      'a kubelet that finds no image service',
      images({ isAnswered: false }),
      [expect.stringMatching(/^image service warn image-service = true in /)],
    ],
    [
      'a kubelet with another root’s',
      images({ kubelet: '/other/image-service.sock' }),
      ['image service warn imageServiceEndpoint: unix:///r/image-service.sock'],
    ],
    [
      'a kubelet that does not use it',
      images({ kubelet: '' }),
      [expect.stringMatching(/^image service warn .*unix:\/\/\/r\/image-service\.sock$/)],
    ],
    [
      'a disk that has come to map none',
      { mapsIds: false },
      [expect.stringMatching(/^user namespaces warn cofa install containerd, /)],
    ],
    ['another root', { socket: '/other' }, ['containerd warn cofa install containerd, with the same --root']],
    ['not restarted', { running: 'unknown to it' }, ['containerd warn systemctl restart containerd']],
    [
      'no engine',
      { running: 'not reached' },
      ['containerd warn systemctl start cofa, or cofa up --snapshotter'],
    ],
    ['docker alone', { containerd: DEBIAN }, ['docker warn cofa install docker']],
    [
      'docker without the store',
      { docker: '{"storage-driver":"cofa"}' },
      ['docker warn cofa install docker'],
    ],
    [
      'docker with a containerd of its own inside',
      { docker: docker.replace('":true', '":true,"embedded-containerd":true') },
      [expect.stringMatching(/^docker warn take embedded-containerd out of /)],
    ],
    ['not enabled', { enabled: 'disabled' }, ['service warn systemctl enable --now cofa']],
  ])('%s', (_, found, wanted) => {
    for (const line of wanted) expect(says(found)).toContainEqual(line);
  });
});
