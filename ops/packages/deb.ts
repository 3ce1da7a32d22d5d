/** The Debian package: the program below /usr/lib/cofa, and where a Debian looks for its command, service and manual. */
import { execFileSync } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { completionOf } from '../../src/cli/completion.ts';
import { manPages } from '../man.ts';
import { type Arch, DEBIAN_ARCH } from './modules.ts';
import { CHECKOUT, settle } from './tree.ts';

export interface DebOptions {
  /** The program, as tree.ts and modules.ts write it. */
  program: string;
  /** The licences of all that is in it. */
  licences: string;
  sbom: string;
  version: string;
  arch: Arch;
  epoch: number;
  /** Removed by the caller. */
  scratch: string;
  out: string;
}

/**
 * What it stands on. Each is in Debian 12 and 13 and Ubuntu 24.04 by one of its names: since the latter two, some libraries
 * end in t64. The rest of ops/install's list is essential.
 */
export const DEPENDS = [
  'nats-server',
  'runc',
  'libc6 (>= 2.36)',
  'libstdc++6',
  'libssl3 | libssl3t64',
  'libzstd1',
  'zlib1g',
  'libisal2',
  'fuse3 | fuse',
  'mount',
  'util-linux',
];

const SCRIPTS = ['postinst', 'prerm', 'postrm'] as const;
const CONFFILE = '/etc/cofa/config.toml';

/** Writes it and returns its path. Takes dpkg-deb. */
export async function buildDeb(options: DebOptions): Promise<string> {
  const { program, scratch, version, arch, epoch, out } = options;
  const root = join(scratch, 'deb');
  const put = (name: string, text: string | Buffer, mode = 0o644) => {
    const path = join(root, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
    chmodSync(path, mode);
  };
  cpSync(program, join(root, 'usr/lib/cofa'), { recursive: true, verbatimSymlinks: true });
  mkdirSync(join(root, 'usr/bin'));
  symlinkSync('../lib/cofa/ops/cofa', join(root, 'usr/bin/cofa'));
  put(CONFFILE, readFileSync(join(CHECKOUT, 'docs/config.toml')));
  put('usr/lib/systemd/system/cofa.service', serviceText());
  for (const [name, text] of await manPages())
    put(`usr/share/man/man${name.at(-1)}/${name}.gz`, compressed(text));
  put('usr/share/bash-completion/completions/cofa', await completionOf('bash'));
  put('usr/share/zsh/vendor-completions/_cofa', await completionOf('zsh'));
  put('usr/share/fish/vendor_completions.d/cofa.fish', await completionOf('fish'));
  const doc = 'usr/share/doc/cofa';
  put(`${doc}/copyright`, copyright(options.licences));
  put(`${doc}/sbom.cdx.json`, options.sbom);
  put(`${doc}/changelog.gz`, compressed(readFileSync(join(CHECKOUT, 'CHANGELOG.md'), 'utf8')));
  settle(root, epoch);

  const bytes = execFileSync('du', ['--summarize', '--apparent-size', '--block-size=1024', root], {
    encoding: 'utf8',
  });
  put('DEBIAN/control', control(version, arch, Number.parseInt(bytes, 10)));
  put('DEBIAN/conffiles', `${CONFFILE}\n`);
  for (const name of SCRIPTS)
    put(`DEBIAN/${name}`, readFileSync(join(CHECKOUT, 'ops/packages/debian', name)), 0o755);
  const sums = execFileSync(
    'sh',
    ['-c', 'find . -type f ! -path "./DEBIAN/*" -printf "%P\\0" | LC_ALL=C sort -z | xargs -0 md5sum'],
    {
      cwd: root,
      maxBuffer: 64 << 20,
    },
  );
  put('DEBIAN/md5sums', sums);
  settle(join(root, 'DEBIAN'), epoch);
  const file = join(out, `cofa_${version}_${DEBIAN_ARCH[arch]}.deb`);
  // More threads would cut the compressed stream elsewhere.
  execFileSync(
    'dpkg-deb',
    ['--root-owner-group', '-Zzstd', '-z10', '--threads-max=1', '--build', root, file],
    {
      env: { ...process.env, SOURCE_DATE_EPOCH: String(epoch) },
      stdio: ['ignore', 'ignore', 'inherit'],
    },
  );
  return file;
}

function control(version: string, arch: Arch, kibibytes: number): string {
  return `Package: cofa
Version: ${version}
Architecture: ${DEBIAN_ARCH[arch]}
Maintainer: The cofa project <cofa@localhost>
Installed-Size: ${kibibytes}
Depends: ${DEPENDS.join(', ')}
Recommends: ca-certificates
Suggests: containerd, docker.io
Section: admin
Priority: optional
Description: starts containers before their image has arrived
 cofa (Copy On First Access) mounts a container image at once and fetches each
 block when a program first reads it. Images stay standard ones in their
 registry. Docker, containerd and Kubernetes use it as a snapshotter.
`;
}

/** That of `cofa install`, with the program's places in a Debian; settings are in the file. */
function serviceText(): string {
  const template = readFileSync(join(CHECKOUT, 'ops/systemd/cofa.service'), 'utf8');
  return template
    .replace(
      /^# Written by.*\n/,
      '# Of the package cofa: settings are in /etc/cofa/config.toml, and a unit of your own wins over this one.\n',
    )
    .replaceAll('@COFA@ --root @ROOT@', '/usr/bin/cofa')
    .replaceAll('@ROOT@', '/var/lib/cofa')
    .replace(/^Documentation=.*$/m, 'Documentation=man:cofa(1) man:cofa-config.toml(5)');
}

const compressed = (text: string): Buffer => gzipSync(text, { level: 9 });

const copyright = (
  licences: string,
): string => `cofa is under the Apache License 2.0, on Debian systems in /usr/share/common-licenses/Apache-2.0.
It ships programs of others, under their own licences:

${licences}`;
