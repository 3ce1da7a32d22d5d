/** npm's package: the program without its packages; npm fetches those that its lock names (npm-shrinkwrap.json). */
import { execFileSync } from 'node:child_process';
import { copyFileSync, cpSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { releaseManifest } from './modules.ts';
import { writeTar } from './tar.ts';
import { CHECKOUT, settle } from './tree.ts';

export interface NpmOptions {
  /** The program, as tree.ts writes it, with or without its packages. */
  program: string;
  version: string;
  licences: string;
  epoch: number;
  /** Removed by the caller. */
  scratch: string;
  out: string;
}

/** Writes it and returns its path. */
export function buildNpm(options: NpmOptions): string {
  const { program, version, licences, epoch, scratch, out } = options;
  const folder = join(scratch, 'npm-package/package');
  cpSync(program, folder, { recursive: true, filter: (path) => basename(path) !== 'node_modules' });
  const { manifest, lock } = releaseManifest();
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
  writeFileSync(join(folder, 'npm-shrinkwrap.json'), `${JSON.stringify(lock, null, 2)}\n`);
  writeFileSync(join(folder, 'LICENSES.txt'), licences);
  copyFileSync(join(CHECKOUT, 'docs/config.toml'), join(folder, 'config.toml'));
  copyFileSync(join(CHECKOUT, 'CHANGELOG.md'), join(folder, 'CHANGELOG.md'));
  writeFileSync(join(folder, 'README.md'), README);
  settle(folder, epoch);
  const tar = join(scratch, 'npm.tar');
  writeTar(join(scratch, 'npm-package'), tar, epoch);
  execFileSync('gzip', ['--no-name', '-9', '--force', tar]);
  const file = join(out, `cofa-${version}.tgz`);
  copyFileSync(`${tar}.gz`, file);
  return file;
}

const README = `# cofa

Copy On First Access: start a container before its image has arrived. For Linux 6.4 or newer, as root.

    apt-get install nats-server runc libisal2 fuse3
    npm install -g cofa-VERSION.tgz
    cofa doctor
    cofa up && cofa run REGISTRY/IMAGE
`;
