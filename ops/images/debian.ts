/**
 * Builds the images of recipes.ts from Debian packages, without a container engine. mmdebstrap makes the base; each
 * further layer is the upper folder of an overlayfs into which apt, running outside, installs. All mounts live in a
 * mount namespace of their own (unshare(1)), which ends with the build.
 *
 * apt stays outside because there it finds the machine's own sources, keys, proxies and name service; only dpkg and the
 * packages' scripts run inside (DPkg::Chroot-Directory).
 *
 * An image is kept as an OCI layout in the cache, under the digest of its recipe, so each machine builds it once.
 */
import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createWriteStream, existsSync } from 'node:fs';
import { chmod, lstat, mkdir, mkdtemp, readdir, readFile, rename, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { acquireSettings, RELEASE, sourcesOf } from './apt.ts';
import { describeLayer, type ImageLayout, type LayerFile, openLayout, writeLayout } from './layout.ts';
import { type LayerStep, RECIPES, type Recipe } from './recipes.ts';
import { STRANGERS } from './strangers.ts';

export interface BuildOptions {
  /** Where images are kept; $COFA_CACHE, else /var/cache/cofa/images. */
  cache?: string;
  /** Called with one line for each step. */
  onProgress?: (line: string) => void;
}

/** Raised when the way of building changes, so that older images are built again. */
const BUILDER_VERSION = 1;

/** The demo's is the first; the last one has half a gigabyte and is for benchmarks alone. */
export const REAL_IMAGES = ['demo', 'node', 'java', 'postgres', 'tensorflow'] as const;
export type RealImage = (typeof REAL_IMAGES)[number];

/** Every image that can be built: those, and the benchmarks' strangers. */
export const IMAGES: readonly string[] = [...RECIPES, ...STRANGERS].map(({ name }) => name);

/**
 * Builds an image of `IMAGES`, or opens it where it has been built before. Only one build runs on a machine at a time.
 */
export async function realImage(name: string, options: BuildOptions = {}): Promise<ImageLayout> {
  const recipe = [...RECIPES, ...STRANGERS].find((candidate) => candidate.name === name);
  if (recipe === undefined) throw new Error(`no recipe for an image named ${name}`);
  const cache = options.cache ?? process.env.COFA_CACHE ?? '/var/cache/cofa/images';
  const progress = options.onProgress ?? (() => {});
  const { steps, config } = recipe;
  const directory = join(cache, `${name}-${fingerprint({ name, steps, config })}`);
  const known = await openLayout(directory);
  if (known !== undefined) return known;
  if (process.getuid?.() !== 0) throw new Error('building images needs root: they hold files of all owners');
  await mkdir(cache, { recursive: true });
  return withLock(join(cache, 'lock'), async () => {
    const built = await openLayout(directory);
    if (built !== undefined) return built;
    // A killed build left its folder; its mounts ended with its namespace.
    await run('sh', ['-c', 'rm -rf --one-file-system -- "$1"/build-*', 'sh', cache]);
    const scratch = await mkdtemp(join(cache, 'build-'));
    try {
      return await buildImage(recipe, { cache, scratch, directory, progress });
    } finally {
      await run('rm', ['-rf', '--one-file-system', '--', scratch]);
    }
  });
}

interface Workplace {
  cache: string;
  /** Removed when the build ends. */
  scratch: string;
  /** Folder for the finished layout. */
  directory: string;
  progress: (line: string) => void;
}

const run = promisify(execFile);

function fingerprint(value: unknown): string {
  return createHash('sha256')
    .update(JSON.stringify([BUILDER_VERSION, RELEASE, value]))
    .digest('hex')
    .slice(0, 12);
}

async function buildImage(recipe: Recipe, place: Workplace): Promise<ImageLayout> {
  const sources = await writeSources(place.scratch);
  const { layer: base, root } = await baseLayer(place, sources);
  const layers = [base];
  const lowers = [root];
  for (const [index, step] of recipe.steps.entries()) {
    place.progress(`${recipe.name}: layer ${index + 2} of ${recipe.steps.length + 1}, ${step.title}`);
    const upper = join(place.scratch, `layer${index + 2}`);
    await runStep(place, sources, step, lowers, upper);
    // The next step needs overlayfs's own marks: it converts a copy, of links.
    const converted = join(place.scratch, 'converted');
    await run('cp', ['-al', upper, converted]);
    await convertWhiteouts(converted);
    layers.push(
      await packLayer(converted, join(place.scratch, `layer${index + 2}.tar.gz`), step.writer, step.title),
    );
    await run('rm', ['-rf', '--one-file-system', '--', converted]);
    lowers.unshift(upper);
  }
  place.progress(`${recipe.name}: ${layers.length} layers, ${mebibytes(layers)} MiB compressed`);
  const made = join(place.scratch, 'layout');
  const layout = await writeLayout(made, {
    kind: 'oci',
    layers,
    config: recipe.config,
    created: new Date().toISOString(),
  });
  await rename(made, place.directory);
  return { ...layout, directory: place.directory };
}

/** The cache keeps the base layer's blob: the images share it, as they would share a base image. */
async function baseLayer(place: Workplace, sources: Sources): Promise<{ layer: LayerFile; root: string }> {
  const root = join(place.scratch, 'base');
  const kept = join(place.cache, `base-${fingerprint('minbase')}`);
  const blob = `${kept}.tar.gz`;
  if (existsSync(`${kept}.json`)) {
    await mkdir(root);
    await run('tar', ['-xpf', blob, '-C', root, '--numeric-owner', '--xattrs', '--xattrs-include=*']);
    return { layer: JSON.parse(await readFile(`${kept}.json`, 'utf8')) as LayerFile, root };
  }
  place.progress(`base: Debian ${RELEASE}, minbase`);
  const options = acquireSettings().map((line) => `--aptopt=${line.replace(/;$/, '')}`);
  await run('mmdebstrap', ['--quiet', '--variant=minbase', ...options, RELEASE, root, ...sources.files], {
    maxBuffer: 64 << 20,
    env: { ...process.env, LC_ALL: 'C.UTF-8', TMPDIR: place.scratch },
  });
  // The image must not reveal the builder's own name and name servers.
  await writeFile(join(root, 'etc/resolv.conf'), '');
  await chmod(join(root, 'etc/resolv.conf'), 0o644);
  await writeFile(join(root, 'etc/hostname'), 'localhost\n');
  const layer = await packLayer(root, blob, 'pigz', `debian ${RELEASE}, minbase`);
  await writeFile(`${kept}.json`, JSON.stringify(layer));
  return { layer, root };
}

interface Sources {
  /** Paths of the files that hold the apt sources. */
  files: string[];
  directory: string;
}

async function writeSources(scratch: string): Promise<Sources> {
  const directory = join(scratch, 'sources');
  await mkdir(directory);
  const files: string[] = [];
  const { list, sources } = sourcesOf(RELEASE);
  for (const [name, text] of [
    ['cofa.list', list],
    ['cofa.sources', sources],
  ] as const) {
    if (text.trim() === '') continue;
    await writeFile(join(directory, name), text);
    files.push(join(directory, name));
  }
  return { files, directory };
}

/** Runs one step over `lowers` (highest first); what it changes lands in `upper`, in overlayfs's own format. */
async function runStep(
  place: Workplace,
  sources: Sources,
  step: LayerStep,
  lowers: string[],
  upper: string,
): Promise<void> {
  const merged = join(place.scratch, 'merged');
  const work = join(place.scratch, 'work');
  for (const directory of [upper, merged, work]) await mkdir(directory, { recursive: true });
  const config = join(place.scratch, 'apt.conf');
  await writeFile(config, aptConfig(merged, place, sources));
  const script = join(place.scratch, 'step.sh');
  await writeFile(script, step.script ?? '');
  const lines = [
    'set -eu',
    `mount -t overlay overlay -o 'lowerdir=${lowers.join(':')},upperdir=${upper},workdir=${work}' '${merged}'`,
    // Package scripts want /proc; /run and /tmp take what must not land in the layer.
    `mount -t proc proc '${merged}/proc'`,
    `mount -t tmpfs tmpfs '${merged}/run'`,
    `mount -t tmpfs -o mode=1777 tmpfs '${merged}/tmp'`,
  ];
  if (step.packages !== undefined) {
    lines.push(
      `mkdir -p '${place.scratch}/lists/partial'`,
      `[ -e '${place.scratch}/lists/done' ] || { apt-get -qq update && touch '${place.scratch}/lists/done'; }`,
      // Packages must not start their services here (Debian policy 9.3.3.1).
      `printf '#!/bin/sh\\nexit 101\\n' > '${merged}/usr/sbin/policy-rc.d'`,
      `chmod 755 '${merged}/usr/sbin/policy-rc.d'`,
      `apt-get -qq -y install ${step.packages.join(' ')}`,
      `rm '${merged}/usr/sbin/policy-rc.d'`,
    );
  }
  if (step.wheels !== undefined) lines.push(...wheelLines(merged, step.wheels));
  if (step.script !== undefined) lines.push(`chroot '${merged}' /bin/sh -eu < '${script}'`);
  try {
    await run('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', lines.join('\n')], {
      maxBuffer: 64 << 20,
      env: {
        PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
        LC_ALL: 'C.UTF-8',
        DEBIAN_FRONTEND: 'noninteractive',
        APT_CONFIG: config,
        // By fsconfig(2), which mount(8) takes from util-linux 2.39 on, a list of layers ends at 256 bytes.
        LIBMOUNT_FORCE_MOUNT2: 'always',
        ...pipSettings(),
      },
    });
  } catch (error) {
    const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string };
    throw new Error(
      `the image's layer "${step.title}" could not be built:\n${`${stdout}\n${stderr}`.trim().slice(-3000)}`,
      {
        cause: error,
      },
    );
  }
}

/**
 * The newest C library that a wheel may want, down from that of the release: manylinux tags (PEP 600), newest first.
 */
const WHEEL_PLATFORMS = ['2_36', '2_34', '2_28', '2_27', '2_24', '2_17', '2_12', '2_5', '_2014', '_2010'];

/**
 * pip outside, where the machine's index and certificates are known, for the python inside: wheels are only unpacked,
 * and compiled by the python that will run them.
 */
function wheelLines(merged: string, wheels: readonly string[]): string[] {
  const arch = { x64: 'x86_64', arm64: 'aarch64' }[process.arch as 'x64' | 'arm64'] ?? process.arch;
  const packages = '/usr/local/lib/python3.11/dist-packages';
  const platforms = WHEEL_PLATFORMS.map((version) =>
    version.startsWith('_') ? `manylinux${version.slice(1)}_${arch}` : `manylinux_${version}_${arch}`,
  );
  return [
    [
      `/usr/bin/python3 -m pip install --quiet --root-user-action=ignore --no-cache-dir --no-compile`,
      `--target '${merged}${packages}' --only-binary=:all: --python-version 3.11 --implementation cp`,
      ...platforms.map((platform) => `--platform ${platform}`),
      ...wheels.map((wheel) => `'${wheel}'`),
    ].join(' '),
    `chroot '${merged}' python3 -m compileall -q -j 0 ${packages} >/dev/null || true`,
  ];
}

/** How this machine's pip reaches its index, where its environment says so. */
function pipSettings(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => name.startsWith('PIP_')));
}

/** apt outside, dpkg inside (apt.conf(5)): the cache keeps packages, the build's folder lists. */
function aptConfig(merged: string, place: Workplace, sources: Sources): string {
  return [
    ...acquireSettings(),
    `Dir "${merged}/";`,
    `Dir::State::lists "${place.scratch}/lists/";`,
    'Dir::Etc::sourcelist "/dev/null";',
    `Dir::Etc::sourceparts "${sources.directory}/";`,
    'Dir::Etc::main "/dev/null";',
    'Dir::Etc::parts "/dev/null";',
    'Dir::Etc::netrc "/etc/apt/auth.conf";',
    'Dir::Etc::netrcparts "/etc/apt/auth.conf.d/";',
    'Dir::Etc::trusted "/etc/apt/trusted.gpg";',
    'Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d/";',
    // apt's own index of its lists would weigh more than the packages.
    'Dir::Cache::pkgcache "";',
    'Dir::Cache::srcpkgcache "";',
    `DPkg::Chroot-Directory "${merged}";`,
    'DPkg::Use-Pty "false";',
    'APT::Sandbox::User "root";',
    'APT::Install-Recommends "false";',
    'APT::Keep-Downloaded-Packages "true";',
    'Acquire::Languages "none";',
    '',
  ].join('\n');
}

/**
 * Turns overlayfs's marks into those of the OCI layer format (image-spec, layer.md, whiteouts): a 0:0 character device
 * becomes `.wh.NAME`, the opaque xattr becomes `.wh..wh..opq`.
 */
async function convertWhiteouts(upper: string): Promise<void> {
  const { stdout } = await run(
    'getfattr',
    ['-R', '-h', '--absolute-names', '-m', '^trusted.overlay.opaque$', upper],
    { maxBuffer: 64 << 20 },
  );
  for (const match of stdout.matchAll(/^# file: (.*)$/gm))
    await writeFile(join(match[1] as string, '.wh..wh..opq'), '');
  const walk = async (directory: string): Promise<void> => {
    for (const entry of await readdir(directory, { withFileTypes: true })) {
      const path = join(directory, entry.name);
      if (entry.isDirectory()) await walk(path);
      else if (entry.isCharacterDevice() && (await lstat(path)).rdev === 0) {
        await unlink(path);
        await writeFile(join(directory, `.wh.${entry.name}`), '');
      }
    }
  };
  await walk(upper);
}

const WRITERS = {
  gzip: ['gzip', '-n', '-6'],
  pigz: ['pigz', '-n', '-6', '-p', '2'],
  'pigz-independent': ['pigz', '-n', '-6', '-i', '-p', '2'],
} as const;

const TAR_OPTIONS = [
  '--create',
  '--numeric-owner',
  '--sort=name',
  '--format=pax',
  '--pax-option=delete=atime,delete=ctime',
  '--xattrs',
  '--xattrs-include=security.*',
  '--xattrs-include=user.*',
];

/** Writes a folder as a compressed tar: PAX headers, names sorted, times to the nanosecond, file capabilities kept. */
async function packLayer(
  folder: string,
  file: string,
  writer: LayerStep['writer'],
  createdBy: string,
): Promise<LayerFile> {
  const tar = spawn('tar', ['-C', folder, ...TAR_OPTIONS, '.'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [command, ...args] = WRITERS[writer];
  const gzip = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const hash = createHash('sha256');
  const ends = [exited(tar, 'tar'), exited(gzip, command)];
  tar.stdout.on('data', (chunk: Buffer) => hash.update(chunk));
  await Promise.all([
    pipeline(tar.stdout, gzip.stdin),
    pipeline(gzip.stdout, createWriteStream(`${file}.new`)),
    ...ends,
  ]);
  await rename(`${file}.new`, file);
  return describeLayer(file, 'gzip', `sha256:${hash.digest('hex')}`, createdBy);
}

function exited(child: ReturnType<typeof spawn>, name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) =>
      code === 0 ? resolve() : reject(new Error(`${name} ended with ${code ?? signal}`)),
    );
  });
}

/** flock(1) around a piece of work; the kernel releases it when the holder ends, in any way. */
export async function withLock<T>(file: string, work: () => Promise<T>): Promise<T> {
  const holder = spawn('flock', [file, 'sh', '-c', 'echo locked; cat'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const ended = exited(holder, 'flock');
  try {
    await Promise.race([new Promise((resolve) => holder.stdout.once('data', resolve)), ended]);
    return await work();
  } finally {
    holder.stdin.end();
    await ended;
  }
}

function mebibytes(layers: readonly LayerFile[]): string {
  return (layers.reduce((sum, layer) => sum + layer.size, 0) / (1 << 20)).toFixed(1);
}
