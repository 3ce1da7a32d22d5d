/**
 * Disks of virtual machines: an ext4 with a Debian or Ubuntu that boots, with its own kernel, its systemd, and what the Debian
 * package of cofa needs. Made by mmdebstrap and mkfs.ext4, once a machine, and kept by what they are made of.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readdir, readFile, rename, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { DEPENDS } from '../packages/deb.ts';
import { titleOf } from './apt.ts';
import { type BuildOptions, withLock } from './debian.ts';
import { makeRoot } from './roots.ts';

export interface System {
  /** Debian's or Ubuntu's name of the release. */
  release: string;
  /** Besides those that all have. */
  packages: readonly string[];
  /** Which of the disk's kernels it starts, in the order of their versions. */
  kernel: number;
  hooks?: readonly string[];
}

/** What `cofa doctor` advises on Debian 12. */
const BACKPORTS = [
  `sed 's/^Suites:.*/Suites: bookworm-backports/; /^$/q' "$1"/etc/apt/sources.list.d/*.sources > "$1"/etc/apt/sources.list.d/backports.sources`,
  'chroot "$1" apt-get -qq update',
  'chroot "$1" apt-get -qq install -y --no-install-recommends -t bookworm-backports linux-image-amd64',
];

const DEBIAN_12 = {
  release: 'bookworm',
  packages: ['linux-image-amd64', 'libssl3', 'docker.io'],
  hooks: BACKPORTS,
};

/** Systems that are tried. Those of one release are one disk with several kernels. */
export const SYSTEMS = {
  'debian-12': { ...DEBIAN_12, kernel: 0 },
  'debian-12-backports': { ...DEBIAN_12, kernel: 1 },
  'debian-13': {
    release: 'trixie',
    packages: ['linux-image-amd64', 'libssl3t64', 'docker.io', 'docker-cli'],
    kernel: 0,
  },
  'ubuntu-24.04': {
    release: 'noble',
    // The kernel of linux-image-generic, without the firmware of hardware.
    packages: ['linux-image-virtual', 'initramfs-tools', 'libssl3t64', 'docker.io'],
    kernel: 0,
  },
} as const satisfies Record<string, System>;
export type SystemName = keyof typeof SYSTEMS;

/** What a machine has besides: that it starts, is reached and can be looked at; and what uses cofa. */
const ALL =
  'systemd-sysv dbus udev kmod zstd apparmor qemu-guest-agent iproute2 procps ca-certificates curl containerd'.split(
    ' ',
  );

export interface VirtualDisk {
  name: string;
  /** Of an ext4, without partitions. It must not be changed. */
  file: string;
  /** The oldest first. */
  kernels: Array<{ kernel: string; initrd: string; version: string }>;
}

/** Raised when the way of building changes. */
const BUILDER_VERSION = 1;
const DISK_BYTES = 6 * 2 ** 30;
const FACTS = 'disk.json';

/** A system's disk, made where it is not there yet. Undefined where it cannot be made: `onProgress` hears why. */
export async function virtualDisk(
  name: SystemName,
  options: BuildOptions = {},
): Promise<VirtualDisk | undefined> {
  const system: System = SYSTEMS[name];
  const cache = options.cache ?? process.env.COFA_CACHE ?? '/var/cache/cofa/images';
  const packages = packagesOf(system);
  const how = [BUILDER_VERSION, system.release, packages, system.hooks ?? [], SETTINGS, SET_UP, DISK_BYTES];
  const key = createHash('sha256').update(JSON.stringify(how)).digest('hex').slice(0, 12);
  const folder = join(cache, `virtual-${system.release}-${key}`);
  await mkdir(cache, { recursive: true });
  try {
    if (!existsSync(folder))
      await withLock(join(cache, 'virtual.lock'), async () => {
        if (!existsSync(folder)) await buildInto(folder, system, packages, options);
      });
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    options.onProgress?.(`no ${titleOf(system.release)} here: ${text.slice(0, 300)} … ${text.slice(-700)}`);
    return undefined;
  }
  const { versions } = JSON.parse(await readFile(join(folder, FACTS), 'utf8')) as { versions: string[] };
  await utimes(folder, new Date(), new Date());
  return {
    name,
    file: join(folder, 'disk'),
    kernels: versions.map((version) => ({
      kernel: join(folder, `vmlinuz-${version}`),
      initrd: join(folder, `initrd.img-${version}`),
      version,
    })),
  };
}

async function buildInto(
  folder: string,
  system: System,
  packages: readonly string[],
  options: BuildOptions,
): Promise<void> {
  const scratch = await mkdtemp(join(folder, '../virtual-new-'));
  try {
    await build(system, packages, scratch, options);
    await rename(join(scratch, 'made'), folder);
  } finally {
    await run('rm', ['-rf', '--one-file-system', '--', scratch]);
  }
}

function packagesOf({ packages }: System): string[] {
  const needed = DEPENDS.map((one) => one.split(/ [|(]/)[0] as string).filter((name) => name !== 'libssl3');
  return [...new Set([...needed, ...ALL, ...packages])];
}

const run = promisify(execFile);

/** Makes `made` in the folder. */
async function build(
  system: System,
  packages: readonly string[],
  scratch: string,
  options: BuildOptions,
): Promise<void> {
  const hooks = [...(system.hooks ?? []), SET_UP];
  const root = await makeRoot(system.release, packages, scratch, { ...options, hooks });
  for (const [path, text] of Object.entries(SETTINGS)) {
    await mkdir(join(root, path, '..'), { recursive: true });
    await writeFile(join(root, path), text);
  }
  const made = join(scratch, 'made');
  await mkdir(made);
  const versions = (await readdir(join(root, 'boot')))
    .flatMap((name) => (name.startsWith('vmlinuz-') ? [name.slice('vmlinuz-'.length)] : []))
    .toSorted((a, b) => a.localeCompare(b, 'en', { numeric: true }));
  if (versions.length === 0) throw new Error('no kernel was installed');
  for (const version of versions)
    for (const name of [`vmlinuz-${version}`, `initrd.img-${version}`])
      await cp(join(root, 'boot', name), join(made, name));
  options.onProgress?.(`a disk for ${titleOf(system.release)}, with Linux ${versions.join(' and ')}`);
  const disk = join(made, 'disk');
  await writeFile(disk, '');
  await truncate(disk, DISK_BYTES);
  await run('mkfs.ext4', ['-q', '-F', '-b', '4096', '-m', '1', '-d', root, disk], { timeout: 600_000 });
  await writeFile(join(made, FACTS), JSON.stringify({ versions }));
}

/** Files of the machine. Its network is qemu's: this machine is 10.0.2.2 there, with what listens on loopback. */
const SETTINGS: Readonly<Record<string, string>> = {
  'etc/hostname': 'node\n',
  'etc/hosts': '127.0.0.1 localhost\n127.0.1.1 node\n',
  'etc/fstab': '/dev/vda / ext4 defaults 0 1\n',
  // Empty: made at the first start, which is no first start in systemd's sense (that would enable all services).
  'etc/machine-id': '',
  'etc/resolv.conf': 'nameserver 10.0.2.3\n',
  'etc/systemd/network/10-user.network':
    '[Match]\nName=eth0\n\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nLinkLocalAddressing=no\n',
  // After a power cut it is to be seen what was said before.
  'etc/systemd/journald.conf.d/10-persistent.conf':
    '[Journal]\nStorage=persistent\nSystemMaxUse=64M\nSyncIntervalSec=1s\n',
};

/** In the root, with systemd's own programs: who starts with the machine. */
const SET_UP = `set -e
chroot "$1" systemctl --quiet enable systemd-networkd.service
chroot "$1" systemctl --quiet disable nats-server.service
chroot "$1" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer fstrim.timer e2scrub_all.timer man-db.timer
chroot "$1" apt-get clean
rm -rf "$1"/var/lib/apt/lists/*
`;
