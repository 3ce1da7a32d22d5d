/**
 * The disk of an engine loses its power, at ten moments: the root lies on an ext4 of a disk with a write cache of its own, and what
 * was not flushed is lost, kept or torn, each block by chance (test/support/power). Of the engine nothing is left, neither processes
 * nor mounts nor loops, as after a boot. Then, each time:
 *
 *     the kernel mounts the disk, and e2fsck finds no fault: the disk itself has kept its promises
 *     the engine starts, its whole log can be read, and nothing stays degraded
 *     what a client was told holds: mounts that were acknowledged are there, no unmounted one is back
 *     every byte of every mount is what was packed into the image
 *     no block was believed in wrongly: none is evicted as lost or damaged, and a scrub finds each as it came
 *     what commands refuse is said in one sentence
 *
 * power-cut.test.ts looks into the log itself; `ops/machines` does the same in virtual machines, with kernels that die, too.
 * COFA_POWER_SEED=N draws the same moments again, COFA_POWER_ROUNDS=N more of them.
 */
import { randomInt } from 'node:crypto';
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readFileSync, writeSync } from 'node:fs';
import { open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startRelay } from '../../ops/bench/relay.ts';
import { beginWriteBack } from '../../src/kernel/write-back.ts';
import {
  cacheLeaves,
  type Clients,
  Cuts,
  type Ended,
  holdsWhatWasTold,
  mountedOf,
  mountsCome,
  reads,
  tell,
  wronglyBelieved,
} from '../support/power/clients.ts';
import { FuseDisk } from '../support/power/fuse-disk.ts';
import {
  type CliResult,
  endEngine,
  type Engine,
  eventually,
  imageOf,
  runCofa,
  startEngine,
  untilWell,
} from '../support/engine.ts';
import { fillLog } from '../support/fill-log.ts';
import { Random } from '../support/random.ts';
import { startRegistry } from '../support/registry-server.ts';
import { listProcesses, runCommand } from '../support/services.ts';
import { list, statOf } from '../support/soak-machine.ts';
import { Cleanup, mountsBelow } from '../support/temp.ts';
import { pushImage, twoLayers } from './fault-image.ts';

const MIB = 1 << 20;
/** The last one has no sidecar: the node reads its layers and prepares it by itself. */
const IMAGES = 4;
const UNPREPARED = IMAGES - 1;
/** Bits a second: an image takes a second or two, so that the power is cut while blocks are on their way. */
const LINK = 30e6;
/** Options of mount(8). With the last ones the file system names blocks before their bytes are on the disk. */
const MOUNTS = ['rw', 'commit=1', 'nodelalloc,commit=1', 'data=writeback,commit=1'];

/** What a command says on standard error: how far it has come, and nothing, or what it refuses and what to do. */
const ONE_SENTENCE = /^(cofa: mounting .+\n)*(cofa: .+\n( {2}hint: .+\n)?)?$/;

const cleanup = new Cleanup();
const seed = Number(process.env.COFA_POWER_SEED ?? randomInt(2 ** 31));
const random = new Random(seed);
/** So that its processes are found. */
const node = `power-${process.pid}`;
const cuts = new Cuts();
let directory = '';
let disk: FuseDisk;
let root = '';
let engine: Engine | undefined;
let isOff = false;
const refs: string[] = [];
const truths: string[] = [];
/** What commands have said on standard error. */
const said: string[] = [];

const folderOf = (image: number): string => join(directory, `mnt-${image}`);

const clients: Clients = {
  random,
  told: Array.from({ length: IMAGES }, () => 'unmounted'),
  ref: (image) => refs[image] as string,
  folder: folderOf,
  cofa: async (args) => {
    const { code } = await cofa(...args);
    // Of an answer that came at the last moment it counts what it said.
    return code === 0 ? 'done' : isOff ? 'away' : 'refused';
  },
  read: async () => {
    const script = `find ${directory}/mnt-* -type f 2> /dev/null | shuf | head -n 40 | xargs -r cat > /dev/null 2>&1`;
    await runCommand('timeout', ['-s', 'KILL', '3', 'sh', '-c', script]).catch(() => {});
    await sleep(50);
    return isOff ? 'away' : 'done';
  },
};

beforeAll(async () => {
  console.log(`seed ${seed}; again: COFA_POWER_SEED=${seed}`);
  directory = await cleanup.tempDir('power');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const relay = await startRelay({ to: { host: '127.0.0.1', port: registry.port }, rate: LINK, rttMs: 2 });
  cleanup.defer(() => relay.stop());
  const base = twoLayers(9400)[0] as Record<string, Buffer>;
  for (let image = 0; image < IMAGES; image++) {
    const own = twoLayers(9401 + image)[1] as Record<string, Buffer>;
    const folder = join(directory, `image-${image}`);
    const { ref, expected } = await pushImage(folder, registry.host, `app-${image}`, [base, own]);
    if (image !== UNPREPARED) expect(await runCofa(['index', ref])).toMatchObject({ code: 0 });
    truths.push(expected.root);
    refs.push(ref.replace(registry.host, relay.host));
  }
  const folder = join(directory, 'power');
  mkdirSync(folder);
  disk = await FuseDisk.make({ folder, bytes: 256 * MIB });
  cleanup.defer(() => disk.close());
  root = join(disk.path, 'root');
  cleanup.defer(() => engine?.stop());
  cleanup.defer(leaveMounts);
});
afterAll(async () => {
  console.log(`${cuts}`);
  await cleanup.run();
});

async function cofa(...args: string[]): Promise<CliResult> {
  const result = await runCofa(args, { env: { COFA_ROOT: root }, timeoutMs: 60_000 });
  said.push(result.stderr);
  return result;
}

async function start(): Promise<Engine> {
  const args = ['--node', node, '--log-limit', '1M'];
  engine = await startEngine({ root, workers: 1, args, rehearses: true });
  return engine;
}

/** The engine's processes: its supervisor, whose command line names the node, and all below it. */
function processes(): number[] {
  const found = listProcesses()
    .filter(({ commandLine }) => commandLine.split(' ').includes(node))
    .map(({ pid }) => pid);
  const all = new Set(found);
  const parents = list('/proc').flatMap((pid) =>
    /^\d+$/.test(pid) ? [[Number(pid), Number(statOf(pid)[1])] as const] : [],
  );
  for (const one of all) for (const [pid, parent] of parents) if (parent === one) all.add(pid);
  return [...all];
}

async function leaveMounts(): Promise<void> {
  for (const image of clients.told.keys())
    for (const point of mountsBelow(folderOf(image))) await runCommand('umount', ['-l', '--', point]);
}

/**
 * Cuts the power. From `stop` until the disk is aborted, which `cut` begins with, nothing here may touch the disk: it would wait for
 * ever. The engine is killed in between, so it never hears of an error of the disk.
 */
async function cutPower(): Promise<void> {
  if (random.chance(0.7)) await writeSome();
  const pids = processes();
  isOff = true;
  await disk.stop();
  for (const pid of pids) kill(pid);
  const cut = await disk.cut(random.int(0, 2 ** 31), async () => {
    await eventually('its processes have ended', () => pids.every((pid) => !existsSync(`/proc/${pid}`)));
    await leaveMounts();
    await (engine === undefined ? endEngine(root) : engine.stop());
  });
  engine = undefined;
  cuts.add(cut);
}

/**
 * The kernel writes dirty pages when it likes, without a flush. Of itself it would begin after half a minute, and there would be
 * little in the disk's cache to lose.
 */
async function writeSome(): Promise<void> {
  const names = await readdir(root, { recursive: true, withFileTypes: true }).catch(() => []);
  for (const entry of names) {
    if (!entry.isFile() || random.chance(0.3)) continue;
    const file = await open(join(entry.parentPath, entry.name), 'r').catch(() => undefined);
    if (file === undefined) continue;
    try {
      const { size } = await file.stat();
      if (size > 0) await beginWriteBack(file.fd, 0, size);
    } finally {
      await file.close();
    }
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended.
  }
}

/** Everything that has to hold after a cut. Leaves an engine that runs. */
async function recovered(): Promise<Engine> {
  await disk.on(random.pick(MOUNTS));
  isOff = false;
  const now = await start();
  expect(await cofa('events', '--since-start', '--no-follow')).toMatchObject({ code: 0 });
  await eventually('every mount that was acknowledged is there', async () => {
    const { mounts } = await now.status();
    const there = new Set(mounts.flatMap(({ dir, state }) => (state === 'mounted' ? [dir] : [])));
    return mountedOf(clients.told).every((image) => there.has(folderOf(image)));
  });
  holdsWhatWasTold(clients, new Set((await now.status()).mounts.map(({ dir }) => dir)));
  for (const image of mountedOf(clients.told)) await same(image);
  await untilWell(now);
  expect(await cofa('scrub', '--rate', '0')).toMatchObject({ code: 0 });
  const { stdout } = await cofa('events', '--since-start', '--no-follow', '--json');
  expect(wronglyBelieved(stdout)).toEqual([]);
  for (const words of said.splice(0)) expect(words).toMatch(ONE_SENTENCE);
  return now;
}

const same = (image: number): Promise<string> =>
  runCommand('diff', ['-r', '--no-dereference', truths[image] as string, folderOf(image)], {
    timeoutMs: 60_000,
  });

/** Makes sure that the image is mounted, or is not. */
async function become(image: number, state: 'mounted' | 'unmounted', ...options: string[]): Promise<void> {
  if (clients.told[image] === state) return;
  const args =
    state === 'mounted'
      ? ['mount', ...options, clients.ref(image), folderOf(image)]
      : ['unmount', folderOf(image)];
  expect(await tell(clients, image, args)).toBe<Ended>('done');
}

/** Each ends at the moment of the cut; what it has begun may go on until then. */
const MOMENTS: Record<string, (now: Engine) => Promise<Array<Promise<unknown>>>> = {
  // Its sync makes durable what the log says of the blocks that are on their way: had they not been synced before, they are lost.
  'right after a mount was acknowledged, while another image streams in': async (now) => {
    await Promise.all([become(0, 'unmounted'), become(2, 'unmounted')]);
    await cofa('prune');
    await become(2, 'mounted');
    await eventually('blocks have come', async () =>
      (await imageOf(now, clients.ref(2))).layers.some(({ blocks }) => blocks.present > 20),
    );
    await sleep(random.int(300, 600));
    await become(0, 'mounted', '--no-prefetch');
    return [];
  },
  'while images are mounted, read and evicted': async () => {
    const on = () => !isOff;
    const lanes = [
      mountsCome(clients, 0, on),
      mountsCome(clients, 1, on),
      reads(clients, on),
      cacheLeaves(clients, on),
    ];
    await sleep(random.int(1_000, 4_000));
    return lanes;
  },
  'right after an unmount was acknowledged': async () => {
    await become(1, 'mounted', '--no-prefetch');
    await become(1, 'unmounted');
    return [];
  },
  'in the middle of streaming an image': async () => {
    await become(2, 'unmounted');
    await cofa('prune');
    await become(2, 'mounted');
    await sleep(random.int(200, 1_500));
    return [reads(clients, () => !isOff)];
  },
  'while the beginning of the log is removed behind a snapshot': async () => {
    const filling = fillLog(root, node, 12_000).catch(() => {});
    await sleep(random.int(500, 3_000));
    return [filling];
  },
  'while the cache evicts': async () => {
    await become(0, 'mounted');
    await sleep(random.int(500, 1_500));
    const pruning = cofa('prune', '--all');
    await sleep(random.int(300, 900));
    return [pruning];
  },
  'while the node prepares an image by itself': async () => {
    await become(UNPREPARED, 'unmounted');
    await cofa('prune');
    const args = ['mount', clients.ref(UNPREPARED), folderOf(UNPREPARED)];
    const mounting = tell(clients, UNPREPARED, args);
    await sleep(random.int(500, 4_000));
    return [mounting];
  },
  'while the engine ends': async () => {
    const ending = cofa('down');
    await sleep(random.int(300, 1_200));
    return [ending];
  },
  'while the engine starts': async (now) => {
    await cutPower();
    await Promise.all([now.ended, disk.on(random.pick(MOUNTS))]);
    isOff = false;
    const starting = start().catch(() => {});
    await sleep(random.int(300, 2_500));
    return [starting];
  },
};

it('the disk itself loses what was not synced, and nothing of what was', async () => {
  const [kept, lost] = ['kept', 'lost'].map((name) => join(disk.path, name)) as [string, string];
  const bytes = Buffer.alloc(3 * MIB, 'cofa');
  for (const path of [kept, lost]) {
    const file = openSync(path, 'w');
    writeSync(file, bytes);
    if (path === kept) fsyncSync(file);
    closeSync(file);
  }
  const { writes, flushes } = await disk.look();
  expect(writes).toBeGreaterThan(2);
  expect(flushes).toBeGreaterThan(0);
  await disk.stop();
  await disk.cut(random.int(0, 2 ** 31), async () => {});
  await disk.on();
  expect(readFileSync(kept).equals(bytes)).toBe(true);
  expect(existsSync(lost)).toBe(false);
});

describe('the power is cut', () => {
  const rounds = Number(process.env.COFA_POWER_ROUNDS ?? 1);
  for (let round = 1; round <= rounds; round++)
    it.each(Object.entries(MOMENTS))(`%s${round === 1 ? '' : ` (${round})`}`, async (_, moment) => {
      const begun = await moment(engine ?? (await start()));
      await cutPower();
      await Promise.all(begun);
      await recovered();
    });

  it('and an image that was whole is whole afterwards', async () => {
    const now = engine ?? (await start());
    await become(0, 'unmounted');
    await become(0, 'mounted');
    await eventually('the image is whole', async () => {
      const { blocks, layers } = await imageOf(now, clients.ref(0));
      return blocks.absent + blocks.fetching === 0 && layers.every(({ state }) => state === 'handed-over');
    });
    const before = (await imageOf(now, clients.ref(0))).blocks;
    await cutPower();
    const next = await recovered();
    expect((await imageOf(next, clients.ref(0))).blocks).toEqual(before);
  });

  it('and at last every image can be had, whole, and nothing is left when all is unmounted', async () => {
    const now = engine ?? (await start());
    for (const image of clients.told.keys()) {
      await become(image, 'mounted');
      await same(image);
    }
    for (const image of clients.told.keys()) await become(image, 'unmounted');
    expect(await cofa('down')).toMatchObject({ code: 0 });
    await now.ended;
    expect(cuts.lost).toBeGreaterThan(0);
  });
});
