/**
 * The ways by which cofa comes to a machine, as docs/install.md has them: scripts for an empty root (root-machine.ts). Each starts the
 * engine and mounts an image lazily, and notes the moments on the way to its first right byte. Then every byte is compared.
 */
import { basename } from 'node:path';

export const WAYS = ['deb', 'npm', 'oci'] as const;
export type Way = (typeof WAYS)[number];

/**
 * Packages of Debian that are there before cofa's own, without what they recommend. apt finds those of the Debian package by itself.
 * npm's takes any Node that runs npm: the engine brings its own.
 */
export const PACKAGES: Record<Way, readonly string[]> = {
  deb: [],
  npm: ['nodejs', 'npm', 'nats-server', 'runc', 'libisal2', 'fuse3'],
  // Podman's own choice is crun, which refuses machines with control groups of both versions.
  oci: ['podman', 'runc'],
};

export interface TriedImage {
  /** Its sidecar lies in the registry. */
  ref: string;
  /** Below the root of the image. */
  firstPath: string;
  firstByte: number;
  /** Of all files, as sha256sum writes them. */
  sums: string;
}

export interface WayOptions {
  way: Way;
  version: string;
  /** Name of the release's file in /host. */
  file: string;
  image: TriedImage;
  /** Installs `PACKAGES` by apt, from lists that it fetches; without it they are there. */
  fetches: boolean;
  /** Of `cofa up`. */
  options?: readonly string[];
  /** Of `npm install`. */
  npmOptions?: readonly string[];
}

/** The moments that a script notes, in their order. */
export const MOMENTS = ['begun', 'fetched', 'installed', 'up', 'read'] as const;
export type Moment = (typeof MOMENTS)[number];

/** The script; /host has the file, and status.json afterwards, from the moment of the first byte. */
export function wayScript(options: WayOptions): string {
  const { way, version, image, fetches, file } = options;
  const byte = image.firstByte.toString(16).padStart(2, '0');
  const up = ['--trust', 'registry', ...(options.options ?? [])].join(' ');
  return `
at() { echo "at $1 $(date +%s%3N)"; }
${BEFORE[way]}
at begun
${fetches ? fetching(way, file) : ''}
at fetched
${INSTALL[way](file, fetches, (options.npmOptions ?? []).join(' '))}
at installed
${START[way](version, up)}
at up
$cofa mount --no-prefetch ${image.ref} /mnt/cofa/app
[ "$(head -c 1 '/mnt/cofa/app/${image.firstPath}' | od -An -tx1)" = ' ${byte}' ]
at read
$cofa status --json > /host/status.json
[ "$($cofa --version)" = ${version} ]
cat > /host/sums <<'END'
${image.sums.trim()}
END
(cd /mnt/cofa/app && sha256sum --quiet --check /host/sums)
$cofa unmount /mnt/cofa/app
${END[way]}
echo all is well
`;
}

const APT = 'apt-get --quiet --quiet -o Dpkg::Use-Pty=0';
const aptInstall = (way: Way, file: string): string =>
  way === 'deb'
    ? `${APT} install --yes /host/${file}`
    : `${APT} install --yes --no-install-recommends ${PACKAGES[way].join(' ')}`;
const fetching = (way: Way, file: string): string =>
  `${APT} update\n${aptInstall(way, file)} --download-only`;

/** What the machine has before: folders that are shared, as all are under systemd, and a disk for podman's images. */
const SHARED = `mkdir -p /mnt/cofa
mount --make-rshared /`;
const BEFORE: Record<Way, string> = {
  deb: SHARED,
  npm: SHARED,
  oci: `${SHARED}
mkdir -p /host/containers /var/lib/containers
mount --bind /host/containers /var/lib/containers
trap 'podman rm --force --time 0 cofa > /dev/null 2>&1 || true' EXIT`,
};

const INSTALL: Record<Way, (file: string, fetches: boolean, npmOptions: string) => string> = {
  deb: (file, fetches) => (fetches ? aptInstall('deb', file) : `dpkg --install /host/${file}`),
  npm: (file, fetches, npmOptions) => `${fetches ? aptInstall('npm', file) : ''}
npm install --global --no-audit --no-fund ${npmOptions} /host/${file}`,
  oci: (file, fetches) => `${fetches ? aptInstall('oci', file) : ''}
podman load --quiet --input /host/${file}`,
};

const OWN_START = (_: string, options: string) => `cofa=cofa
cofa --quiet up ${options}`;
const START: Record<Way, (version: string, options: string) => string> = {
  deb: OWN_START,
  npm: OWN_START,
  // The limits of podman may be higher than those of this machine's processes.
  oci: (version, options) => `cofa='podman exec cofa cofa'
podman --runtime runc run --detach --name cofa --restart on-failure --privileged --network host \\
  --ulimit nofile=16384:16384 --ulimit nproc=4096:4096 --volume /dev:/dev \\
  --volume /var/lib/cofa:/var/lib/cofa:rshared --volume /mnt/cofa:/mnt/cofa:rshared cofa:${version} ${options}
until $cofa status > /dev/null 2>&1; do
  [ "$(podman inspect --format '{{.State.Running}}' cofa)" = true ] || { podman logs cofa; exit 1; }
  sleep 0.2
done`,
};

const END: Record<Way, string> = {
  deb: 'cofa --quiet down',
  npm: 'cofa --quiet down',
  // The container ends with its engine, and the command with the container.
  oci: `$cofa --quiet down || true
podman wait cofa`,
};

/** Milliseconds from the moment before it, of each moment that the script has said. */
export function momentsOf(said: string): Map<Moment, number> {
  const times = new Map(
    [...said.matchAll(/^at (\w+) (\d+)$/gm)].map(([, name, time]) => [name as Moment, Number(time)]),
  );
  const taken = new Map<Moment, number>();
  let before = times.get('begun');
  for (const moment of MOMENTS.slice(1)) {
    const time = times.get(moment);
    if (time === undefined || before === undefined) break;
    taken.set(moment, time - before);
    before = time;
  }
  return taken;
}

/** The file of a release for this way. */
export function fileOf(way: Way, files: readonly string[]): string {
  const ending = { deb: '.deb', npm: '.tgz', oci: '.tar' }[way];
  const file = files.find((name) => name.endsWith(ending));
  if (file === undefined) throw new Error(`the release has no ${ending}`);
  return basename(file);
}
