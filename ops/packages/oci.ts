/**
 * The OCI image of the engine: Debian with what the engine stands on, and above it the files of the Debian package. Made
 * without a container engine. Where ops/kubernetes expects a checkout, /opt/cofa, there is a link to the program.
 * The file is an OCI layout that containerd and podman import, and what `docker load` of any version takes: that of docker
 * before 25 reads manifest.json alone.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { acquireSettings, RELEASE, sourcesOf } from '../images/apt.ts';
import { blobPath, describeLayer, type LayerFile, writeLayout } from '../images/layout.ts';
import { DEPENDS } from './deb.ts';
import { type Arch, DEBIAN_ARCH } from './modules.ts';
import { writeTar } from './tar.ts';
import { settle } from './tree.ts';

export interface OciOptions {
  deb: string;
  version: string;
  arch: Arch;
  epoch: number;
  /** Removed by the caller. */
  scratch: string;
  out: string;
}

/** A Debian with what the engine stands on, as the lowest layer of an image. */
export interface Debian {
  layer: LayerFile;
  /** `name version` of each that is in it. */
  packages: string[];
}

/** Writes it above `debian`, or above one that it makes: that takes root, mmdebstrap and Debian's packages. */
export async function buildOci(
  options: OciOptions,
  debian?: Debian,
): Promise<{ file: string; packages: string[] }> {
  const { layer, packages } = debian ?? (await makeDebian(options));
  return { file: await writeImage(layer, options), packages };
}

/** The image of a Debian package above a layer that has what it stands on; path of its file. */
export async function writeImage(base: LayerFile, options: OciOptions): Promise<string> {
  const { deb, version, arch, epoch, scratch, out } = options;
  const above = join(scratch, 'image-layer');
  mkdirSync(join(above, 'opt'), { recursive: true });
  execFileSync('dpkg-deb', ['--extract', deb, above]);
  symlinkSync('../usr/lib/cofa', join(above, 'opt/cofa'));
  // The engine's settings are the DaemonSet's.
  settle(above, epoch);
  const tar = join(scratch, 'image-layer.tar');
  writeTar(above, tar, epoch);
  const layers = [base, await packed(tar, `cofa ${version}`)];
  const layout = join(scratch, 'layout');
  const { manifest } = await writeLayout(layout, {
    kind: 'oci',
    layers,
    config: {
      Env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', 'COFA_ROOT=/var/lib/cofa'],
      Entrypoint: ['/opt/cofa/ops/kubernetes/entry'],
    },
    created: new Date(epoch * 1000).toISOString(),
    architecture: DEBIAN_ARCH[arch],
    name: version,
    fullName: `docker.io/library/cofa:${version}`,
  });
  const { config } = JSON.parse(readFileSync(blobPath(layout, manifest.digest), 'utf8')) as {
    config: { digest: string };
  };
  const inTar = (digest: string) => blobPath('', digest);
  const archived = {
    Config: inTar(config.digest),
    RepoTags: [`cofa:${version}`],
    Layers: layers.map(({ digest }) => inTar(digest)),
  };
  writeFileSync(join(layout, 'manifest.json'), JSON.stringify([archived]));
  settle(layout, epoch);
  const file = join(out, `cofa-${version}-oci-${DEBIAN_ARCH[arch]}.tar`);
  writeTar(layout, file, epoch);
  return file;
}

/** Equal where Debian's packages are. */
export async function makeDebian({
  scratch,
  epoch,
  arch,
}: Pick<OciOptions, 'scratch' | 'epoch' | 'arch'>): Promise<Debian> {
  const { list, sources } = sourcesOf(RELEASE);
  const files = [
    ['image.list', list],
    ['image.sources', sources],
  ].flatMap(([name = '', text = '']) => {
    if (text.trim() === '') return [];
    writeFileSync(join(scratch, name), text);
    return [join(scratch, name)];
  });
  const wanted = [...DEPENDS.map((one) => one.split(/ [|(]/)[0] as string), 'ca-certificates'];
  const tar = join(scratch, 'base.tar');
  const listed = join(scratch, 'packages');
  const hooks = [
    // The machine's name and name servers are not the image's; what dpkg and apt noted is of no use there.
    'rm -f "$1"/var/log/*.log "$1"/var/log/apt/* "$1"/var/cache/ldconfig/aux-cache "$1"/etc/hostname "$1"/etc/resolv.conf',
    `dpkg-query --root="$1" -W -f='\${Package} \${Version}\\n' > '${listed}'`,
  ].map((hook) => `--customize-hook=${hook}`);
  const options = [
    ...acquireSettings().map((line) => `--aptopt=${line.replace(/;$/, '')}`),
    ...hooks,
    `--include=${wanted.join(',')}`,
    `--architectures=${DEBIAN_ARCH[arch]}`,
  ];
  execFileSync(
    'mmdebstrap',
    ['--quiet', '--variant=minbase', '--format=tar', ...options, RELEASE, tar, ...files],
    {
      env: { ...process.env, LC_ALL: 'C.UTF-8', SOURCE_DATE_EPOCH: String(epoch) },
      stdio: ['ignore', 'ignore', 'inherit'],
    },
  );
  const packages = readFileSync(listed, 'utf8').trim().split('\n');
  return { layer: await packed(tar, `debian ${RELEASE}: ${wanted.join(' ')}`), packages };
}

async function packed(tar: string, createdBy: string): Promise<LayerFile> {
  const diffId = `sha256:${await sha256Of(tar)}`;
  execFileSync('gzip', ['--no-name', '-6', '--force', tar]);
  return await describeLayer(`${tar}.gz`, 'gzip', diffId, createdBy);
}

/** Hexadecimal digits. */
export async function sha256Of(file: string): Promise<string> {
  const { createReadStream } = await import('node:fs');
  const { pipeline } = await import('node:stream/promises');
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}
