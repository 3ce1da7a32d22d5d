/**
 * `node ops/installs.ts [--releases bookworm,trixie] [--ways deb,npm,oci] [--rounds 1] [--keep FOLDER] [--json]`: the three ways of
 * docs/install.md, each in the smallest Debian of these releases, where there is nothing but apt. Prints how long each takes from its
 * first command to the first right byte of a lazily mounted image: fetching Debian's packages with their lists, installing all (npm
 * fetches its own packages meanwhile), starting the engine, mounting and reading. The release is built before, and is not in the times;
 * the image is in a registry of this machine. Then all of its bytes are compared. Medians where there is more than one round. `--keep`:
 * what each has said. Takes root, mmdebstrap and the network; ends with 1 where one fails. No other engine may run in /var/lib/cofa.
 */
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Status } from '../schemas/api.ts';
import { version } from '../src/client/version.ts';
import { pushImage, twoLayers } from '../test/faults/fault-image.ts';
import { runCofa } from '../test/support/engine.ts';
import {
  fileOf,
  MOMENTS,
  type Moment,
  momentsOf,
  type Way,
  WAYS,
  wayScript,
} from '../test/support/install-ways.ts';
import { keptRelease } from '../test/support/kept-release.ts';
import { startRegistry } from '../test/support/registry-server.ts';
import { rootMachine } from '../test/support/root-machine.ts';
import { lendNetwork, networkEnvironment, TAKE_NETWORK } from '../test/support/root-network.ts';
import { Cleanup } from '../test/support/temp.ts';
import { titleOf } from './images/apt.ts';
import { debianRoot } from './images/roots.ts';
import { programOptions } from './program-options.ts';

const { values } = programOptions(import.meta.filename, {
  options: {
    releases: { type: 'string', default: 'bookworm,trixie' },
    ways: { type: 'string', default: WAYS.join() },
    rounds: { type: 'string', default: '1' },
    keep: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
});

interface Trial {
  release: string;
  way: Way;
  /** Milliseconds of each part; undefined where it failed. */
  parts: Record<string, number> | undefined;
  /** Bytes of the image that had come when the first one was read, and all of them. */
  bytes?: { present: number; total: number };
}

const TRIAL_MS = 1_200_000;
const cleanup = new Cleanup();
const say = (line: string) => console.error(`installs: ${line}`);

async function trials(): Promise<Trial[]> {
  const ways = values.ways.split(',').filter((one): one is Way => (WAYS as readonly string[]).includes(one));
  const { folder } = await keptRelease(say);
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const image = await pushImage(await cleanup.tempDir('installs'), registry.host, 'app', twoLayers(8700));
  const indexed = await runCofa(['index', image.ref]);
  if (indexed.code !== 0) throw new Error(indexed.stderr);
  const firstPath = 'app/noise';
  const tried = {
    ref: image.ref,
    firstPath,
    firstByte: image.files.get(firstPath)?.[0] as number,
    sums: execFileSync('sh', ['-c', 'find . -type f | xargs sha256sum'], {
      cwd: image.expected.root,
      encoding: 'utf8',
    }),
  };
  const found: Trial[] = [];
  for (const release of values.releases.split(',')) {
    const root = await debianRoot(release, ['ca-certificates'], { onProgress: say });
    if (root === undefined) throw new Error(`no ${titleOf(release)}`);
    for (const way of ways)
      for (let round = 1; round <= Number(values.rounds); round++) {
        say(`${titleOf(release)}, ${way}, round ${round}`);
        const trial = await tryOnce(release, root, way, folder, tried);
        found.push(trial);
        say(describe(trial));
      }
  }
  return found;
}

async function tryOnce(
  release: string,
  root: string,
  way: Way,
  folder: string,
  image: Parameters<typeof wayScript>[0]['image'],
): Promise<Trial> {
  const own = new Cleanup();
  try {
    const machine = await rootMachine(own, [root]);
    lendNetwork(machine.shared);
    const file = fileOf(way, readdirSync(folder));
    copyFileSync(join(folder, file), join(machine.shared, file));
    const script = wayScript({ way, version: version(), file, image, fetches: true });
    const { code, said } = await machine.run(TAKE_NETWORK + script, TRIAL_MS, networkEnvironment());
    if (values.keep !== undefined) {
      mkdirSync(values.keep, { recursive: true });
      writeFileSync(join(values.keep, `${release}-${way}`), said);
    }
    if (code !== 0 || !said.endsWith('all is well\n')) {
      say(said.slice(-3000));
      return { release, way, parts: undefined };
    }
    const status = Status.parse(JSON.parse(readFileSync(join(machine.shared, 'status.json'), 'utf8')));
    const [mounted] = status.images;
    return {
      release,
      way,
      parts: Object.fromEntries(momentsOf(said)),
      ...(mounted === undefined ? {} : { bytes: mounted.bytes }),
    };
  } finally {
    await own.run();
  }
}

const seconds = (ms: number): string => `${(ms / 1000).toFixed(ms < 9950 ? 1 : 0)} s`;
const NAMES: Record<Moment, string> = {
  begun: '',
  fetched: 'fetch',
  installed: 'install',
  up: 'start',
  read: 'first byte',
};

function describe({ release, way, parts, bytes }: Trial): string {
  const named = parts === undefined ? 'failed' : cellOf(parts);
  const came = bytes === undefined ? '' : `; ${bytes.present} of the image’s ${bytes.total} bytes had come`;
  return `${titleOf(release)}, ${way}: ${named}${came}`;
}

function cellOf(parts: Record<string, number>): string {
  const total = Object.values(parts).reduce((sum, one) => sum + one, 0);
  const named = MOMENTS.slice(1).map((moment) => `${NAMES[moment]} ${seconds(parts[moment] ?? Number.NaN)}`);
  return `${seconds(total)}: ${named.join(', ')}`;
}

function table(found: readonly Trial[]): string {
  const releases = [...new Set(found.map(({ release }) => release))];
  const ways = [...new Set(found.map(({ way }) => way))];
  const row = (cells: string[]) => `| ${cells.join(' | ')} |`;
  const lines = releases.map((release) =>
    row([
      titleOf(release),
      ...ways.map((way) => {
        const mine = found.filter((one) => one.release === release && one.way === way);
        const parts = mine.flatMap((one) => (one.parts === undefined ? [] : [one.parts]));
        return parts.length < mine.length ? 'failed' : cellOf(mediansOf(parts));
      }),
    ]),
  );
  return [row(['', ...ways]), row(['---', ...ways.map(() => '---')]), ...lines].join('\n');
}

const mediansOf = (all: ReadonlyArray<Record<string, number>>): Record<string, number> =>
  Object.fromEntries(
    MOMENTS.slice(1).map((moment) => {
      const sorted = all.map((parts) => parts[moment] ?? Number.NaN).toSorted((a, b) => a - b);
      return [moment, sorted[Math.floor(sorted.length / 2)] as number];
    }),
  );

try {
  const found = await trials();
  console.log(values.json ? JSON.stringify(found) : table(found));
  process.exitCode = found.some(({ parts }) => parts === undefined) ? 1 : 0;
} catch (error) {
  say(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
} finally {
  await cleanup.run();
}
