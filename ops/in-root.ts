/** What is behind ops/in-root: a command in the smallest Debian or Ubuntu, in a clone of this checkout. */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { rootMachine } from '../test/support/root-machine.ts';
import { lendNetwork, networkEnvironment, TAKE_NETWORK } from '../test/support/root-network.ts';
import { Cleanup } from '../test/support/temp.ts';
import { CHECKOUT } from './packages/tree.ts';
import { debianRoot } from './images/roots.ts';

const RELEASES = ['bookworm', 'trixie', 'noble'];
/** What ops/install takes for given, and what brings a clone. */
const PACKAGES = ['ca-certificates', 'git', 'nodejs', 'npm'];

const cleanup = new Cleanup();
async function inRoot(args: string[]): Promise<number> {
  const at = args.findIndex((one) => RELEASES.includes(one));
  const release = args[at];
  if (release === undefined) {
    console.error(`in-root: it takes a release: ${RELEASES.join(', ')}; see ops/in-root --help`);
    return 2;
  }
  const { values } = parseArgs({
    args: args.slice(0, at),
    options: { keep: { type: 'string' }, images: { type: 'boolean', default: false } },
  });
  const command = args.slice(at + 1);
  const root = await debianRoot(release, PACKAGES, {
    onProgress: (line) => console.error(`in-root: ${line}`),
  });
  if (root === undefined) return 8;
  const cache = resolve(process.env.COFA_CACHE ?? '/var/cache/cofa/images');
  const machine = await rootMachine(cleanup, [root], {
    ...(values.keep === undefined ? {} : { at: resolve(values.keep) }),
    with: values.images ? [cache] : [],
  });
  handOver(machine.shared);
  const environment = {
    ...networkEnvironment(),
    ...(process.env.TERM === undefined ? {} : { TERM: process.env.TERM }),
    COFA_CACHE: values.images ? cache : '/host/images',
  };
  const words = command.length === 0 ? ['bash'] : command;
  return (await machine.lend(`${SET_UP}exec ${words.map(quoted).join(' ')}`, environment)) ?? 8;
}

/** The clone, of the last commit, and how this machine reaches others. */
function handOver(shared: string): void {
  const clone = join(shared, 'cofa');
  if (existsSync(clone)) {
    execFileSync('git', ['-C', clone, 'fetch', '--quiet', CHECKOUT, 'HEAD']);
    execFileSync('git', ['-C', clone, 'checkout', '--quiet', '--detach', 'FETCH_HEAD']);
  } else execFileSync('git', ['clone', '--quiet', CHECKOUT, clone]);
  lendNetwork(shared);
}

/** The kernel's list of FUSE connections is one of those that systemd mounts. */
const SET_UP = `${TAKE_NETWORK}mkdir -p /host/images
[ -n "$(ls /sys/fs/fuse/connections)" ] || mount -t fusectl fusectl /sys/fs/fuse/connections
cd /host/cofa
`;

const quoted = (word: string): string => `'${word.replaceAll("'", "'\\''")}'`;

try {
  process.exitCode = await inRoot(process.argv.slice(2));
} finally {
  await cleanup.run();
}
