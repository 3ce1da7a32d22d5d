/** tar files that equal folders give equally (reproducible-builds.org/docs/archives). */
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';

/** Packs what is in `folder`; owners are root, times at most `epoch`. */
export function writeTar(folder: string, file: string, epoch: number): void {
  // npm takes the first part of a name away, whatever it is.
  const names = readdirSync(folder).toSorted();
  const fixed = [
    '--sort=name',
    `--mtime=@${epoch}`,
    '--clamp-mtime',
    '--owner=0',
    '--group=0',
    '--numeric-owner',
  ];
  const pax = ['--format=pax', '--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime'];
  execFileSync('tar', ['--create', '--file', file, ...fixed, ...pax, '--directory', folder, '--', ...names], {
    env: { ...process.env, LC_ALL: 'C' },
  });
}
