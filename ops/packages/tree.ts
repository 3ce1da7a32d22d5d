/**
 * The program as it is installed, below one folder: the checkout's files, with JavaScript in the place of TypeScript, and
 * npm's packages. Node removes types by itself, but not below a folder named node_modules, where npm puts programs; and so
 * all packages run the same code.
 *
 *     package.json, LICENSE, src/, actors/, schemas/, ops/     names and lines as in the checkout, .js for .ts
 *     node_modules/                                            of package-lock.json, without those for development
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildPage } from '../../src/console/build.ts';
import { STAMP } from '../../src/console/page.ts';

export const CHECKOUT = fileURLToPath(new URL('../..', import.meta.url));

/** What is part of the program. */
const PARTS = [
  'LICENSE',
  'package.json',
  'src',
  'actors',
  'schemas',
  'ops/cofa',
  'ops/systemd',
  'ops/prometheus',
  'ops/grafana',
  'ops/kubernetes',
];
/** Of those, what only a checkout has a use for; the page of the console is shipped as it is built. */
const OMITTED =
  /^src\/console\/(web\/|build\.ts$)|(^|\/)tsconfig\.json$|^ops\/kubernetes\/Dockerfile|^ops\/grafana\/.*\.ts$|\.d\.ts$/;

/** Writes the program's own files below `folder`. Errors: of Vite, where the page cannot be built. */
export async function writeProgram(folder: string): Promise<void> {
  const listed = execFileSync('git', ['ls-files', '-z', '--', ...PARTS], { cwd: CHECKOUT, encoding: 'utf8' });
  for (const name of listed.split('\0').filter((one) => one !== '' && !OMITTED.test(one))) {
    const from = join(CHECKOUT, name);
    const to = join(folder, name.replace(/\.ts$/, '.js'));
    mkdirSync(dirname(to), { recursive: true });
    const bytes = readFileSync(from);
    if (name.endsWith('.ts')) writeFileSync(to, javaScriptOf(bytes.toString()));
    else if (name === 'ops/cofa') writeFileSync(to, bytes.toString().replaceAll('main.ts', 'main.js'));
    else writeFileSync(to, bytes);
    chmodSync(to, (statSync(from).mode & 0o111) === 0 ? 0o644 : 0o755);
  }
  const page = join(folder, 'src/console/built');
  await buildPage(page);
  // Whatever the sources' times were where it was built.
  writeFileSync(join(page, STAMP), '[]');
}

/** Types become blanks, so that lines and columns stay; names of modules, which are strings that end so, get the other ending. */
export function javaScriptOf(text: string): string {
  return stripTypeScriptTypes(text)
    .replaceAll(/(['"])([\w./-]+)\.ts\1/g, '$1$2.js$1')
    .replaceAll(/[ \t]+$/gm, '');
}

/** Equal times and rights, so that equal contents give equal packages. `epoch`: seconds. */
export function settle(folder: string, epoch: number): void {
  const find = (...args: string[]) => execFileSync('find', [folder, ...args]);
  find('-type', 'd', '-exec', 'chmod', '755', '{}', '+');
  find('-type', 'f', '-perm', '/111', '-exec', 'chmod', '755', '{}', '+');
  find('-type', 'f', '!', '-perm', '/111', '-exec', 'chmod', '644', '{}', '+');
  find('-exec', 'touch', '--no-dereference', `--date=@${epoch}`, '{}', '+');
}

/** Seconds: $SOURCE_DATE_EPOCH, else the time of the last commit (reproducible-builds.org/specs/source-date-epoch). */
export function sourceEpoch(environment = process.env): number {
  const given = environment.SOURCE_DATE_EPOCH;
  if (given !== undefined && /^\d{1,11}$/.test(given)) return Number(given);
  if (given !== undefined)
    throw new Error(`SOURCE_DATE_EPOCH is a number of seconds, not ${JSON.stringify(given)}`);
  return Number(execFileSync('git', ['log', '-1', '--format=%ct'], { cwd: CHECKOUT, encoding: 'utf8' }));
}
