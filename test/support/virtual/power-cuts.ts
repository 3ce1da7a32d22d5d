/**
 * Power cuts at moments drawn by chance, while images are fetched, read, removed and written above. What the machine had not
 * flushed is lost, kept or torn (test/support/power/cached-disk.ts). After each:
 *
 *     the engine starts, its whole log can be read, and nothing stays degraded
 *     what a client was told is so: mounts that were acknowledged are there, no unmounted one is back, synced files of containers are whole
 *     every byte of every mount is right
 *     no block was believed in wrongly: the log never led its data, so nothing is evicted as lost or damaged
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Status } from '../../../schemas/api.ts';
import {
  cacheLeaves,
  type Clients,
  Cuts,
  type Ended,
  holdsWhatWasTold,
  mountedOf,
  mountsCome,
  reads,
  wronglyBelieved,
} from '../power/clients.ts';
import { AgentAway } from './agent.ts';
import { patient, ScriptFailed } from './machine.ts';
import { jsonOf, type Trial } from './trial.ts';
import { LIBRARY } from './world.ts';

interface Sums {
  cuts: Cuts;
  slowestStartMs: number;
  compared: number;
  /** Number of the last file that the writer has synced. */
  files: number;
  refused: Map<string, number>;
}

const folderOf = (image: number): string => `/srv/cut-${image}`;
const START_MS = 180_000;
/** Of the service, from its first process until it said that it is ready. */
const STARTED_MS = `at() { systemctl show cofa -p "$1" --value; }
echo $((($(at ActiveEnterTimestampMonotonic) - $(at InactiveExitTimestampMonotonic)) / 1000))`;

const WRITER_PID = `writer_pid() { ctr tasks ls | awk '$1 == "writer" { print $2 }'; }\n`;
/** After a boot containerd has the container, and no task of it. */
const START_WRITER = `ctr task start --detach writer\n`;

export async function powerCuts(trial: Trial): Promise<string> {
  const { world, machine, random } = trial;
  const sums: Sums = { cuts: new Cuts(), slowestStartMs: 0, compared: 0, files: 0, refused: new Map() };
  const clients: Clients = {
    random,
    told: world.images.map(() => 'unmounted'),
    ref: (image) => trial.ref(image, 'slow'),
    folder: folderOf,
    cofa: (args) => done(trial, sums, `cofa ${args.join(' ')}`),
    read: () =>
      done(
        trial,
        sums,
        "timeout 3 sh -c 'find /srv/cut-* -type f 2>/dev/null | shuf | head -n 40 | xargs -r cat > /dev/null 2>&1' || true",
      ),
  };
  await trial.sh(
    'a container that is written to',
    `mkdir -p ${world.images.map((_, image) => folderOf(image)).join(' ')}
cofa pull --insecure-registry ${world.registry} ${trial.ref(0)}
ctr run --detach --snapshotter cofa ${trial.ref(0)} writer sh -c 'while :; do sleep 1; done'
sync`,
  );
  for (let round = 1; round <= trial.cuts; round++) {
    const ms = patient(random.int(500, 14_000));
    await trial.step(`round ${round}: the power is cut after ${ms} ms`, async () => {
      await cutWhileBusy(trial, clients, sums, ms);
      // Now and then again, before the machine has recovered.
      while (random.chance(0.25)) {
        machine.powerOnBlindly();
        await sleep(patient(random.int(2_000, 16_000)));
        sums.cuts.add(await machine.cutPower(random));
      }
    });
    await recovered(trial, clients, sums, round);
  }
  await everyImage(trial, sums);
  const refused = [...sums.refused].map(([what, times]) => `${what} ${times}`).join(', ');
  if (refused !== '') trial.say(`calls that were refused: ${refused}`);
  return `${sums.cuts}; ${sums.compared} images compared; engine up after ${(sums.slowestStartMs / 1000).toFixed(1)} s at most`;
}

async function cutWhileBusy(trial: Trial, clients: Clients, sums: Sums, ms: number): Promise<void> {
  const { machine, random } = trial;
  let isOn = true;
  const on = () => isOn;
  const lanes = [
    ...[0, 1].map((lane) => mountsCome(clients, lane, on)),
    reads(clients, on),
    cacheLeaves(clients, on),
    writes(trial, sums, on),
  ];
  await sleep(ms);
  isOn = false;
  sums.cuts.add(await machine.cutPower(random));
  await Promise.all(lanes);
}

/** Runs a script of a lane. What an engine refuses is counted. */
async function done(trial: Trial, sums: Sums, script: string): Promise<Ended> {
  try {
    await trial.machine.sh(LIBRARY + script, 60_000);
    return 'done';
  } catch (error) {
    if (error instanceof AgentAway) return 'away';
    if (!(error instanceof ScriptFailed)) throw error;
    const what = `${script.split(' ').slice(0, 2).join(' ')}: ${/cofa: .*/.exec(error.ran.said)?.[0]?.slice(0, 80) ?? error.ran.code}`;
    sums.refused.set(what, (sums.refused.get(what) ?? 0) + 1);
    return 'refused';
  }
}

async function writes(trial: Trial, sums: Sums, on: () => boolean): Promise<void> {
  while (on()) {
    const number = sums.files + 1;
    const script = `${WRITER_PID}file=/proc/$(writer_pid)/root/data/written-${number}
seq ${number} ${number + 20_000} > $file && sync $file $(dirname $file)`;
    const ended = await done(trial, sums, script);
    if (ended === 'away') return;
    if (ended === 'done') sums.files = number;
    await sleep(trial.random.int(100, 800));
  }
}

async function recovered(trial: Trial, clients: Clients, sums: Sums, round: number): Promise<void> {
  const { machine } = trial;
  const at = (what: string) => `after cut ${round}: ${what}`;
  await trial.step(at('the machine starts'), () => machine.boot());
  await trial.until(at('the engine is up'), 'systemctl is-active cofa', START_MS);
  const took = await trial.sh(at('how long it took'), STARTED_MS);
  sums.slowestStartMs = Math.max(sums.slowestStartMs, Number(took));
  // The disk itself keeps its promises: else nothing above it can.
  await trial.sh(
    at('the kernel has met no error of the disk or of a mount'),
    `! journalctl -k -b --no-pager | grep -E 'EXT4-fs (error|warning)|I/O error'`,
  );
  const events = await trial.sh(
    at('the whole log can be read'),
    'cofa events --since-start --no-follow --json > /tmp/log && wc -l < /tmp/log',
    120_000,
  );
  trial.say(at(`${events.trim()} events`));
  await mountsAsTold(trial, clients, at);
  for (const image of mountedOf(clients.told)) {
    await trial.sh(
      at(`every byte of image ${image} is right`),
      `same ${folderOf(image)} ${trial.world.images[image]}`,
      180_000,
    );
    sums.compared += 1;
  }
  await trial.until(at('nothing is degraded'), '! cofa status | grep -w degraded', 90_000);
  await trial.step(at('no block was lost or damaged'), async () => {
    const script = `cofa events --since-start --no-follow --json | grep '"layer.evicted"' || true`;
    const wrong = wronglyBelieved(await machine.sh(script, 120_000));
    if (wrong.length > 0) throw new Error(`${wrong.length} evictions as lost or damaged`);
  });
  if (trial.passed.has('docker')) {
    await trial.until(
      at('docker’s container is back'),
      `[ "$(docker inspect -f '{{.State.Running}}' keeper)" = true ]`,
    );
    await trial.sh(
      at('every byte below docker’s container is right'),
      `sums /proc/$(docker inspect -f '{{.State.Pid}}' keeper)/root app-1`,
      120_000,
    );
  }
  await trial.until(at('containerd is up'), 'ctr version > /dev/null', 60_000);
  await trial.sh(at('the container starts again'), START_WRITER, 60_000);
  if (sums.files > 0)
    await trial.sh(
      at(`the container’s ${sums.files} synced files are whole`),
      `${WRITER_PID}cd /proc/$(writer_pid)/root/data
for n in $(seq ${sums.files}); do seq $n $((n + 20000)) | cmp - written-$n; done`,
      120_000,
    );
}

/** What the engine has answered holds; of the other images it is asked. */
async function mountsAsTold(trial: Trial, clients: Clients, at: (what: string) => string): Promise<void> {
  await trial.until(
    at('every mount that was acknowledged is there'),
    mountedOf(clients.told)
      .map((image) => `findmnt -n ${folderOf(image)} > /dev/null`)
      .join(' && ') || 'true',
    90_000,
  );
  await trial.step(at('what was told holds'), async () => {
    const status = jsonOf<Status>(await trial.machine.sh('cofa status --json'));
    holdsWhatWasTold(clients, new Set(status.mounts.map(({ dir }) => dir)));
  });
}

/** At the end: all images, whole, and what lies on the disk against its digests. */
async function everyImage(trial: Trial, sums: Sums): Promise<void> {
  for (const [image, name] of trial.world.images.entries()) {
    await trial.sh(
      `image ${image} as a whole`,
      `findmnt -n ${folderOf(image)} > /dev/null || cofa mount ${trial.ref(image)} ${folderOf(image)}
same ${folderOf(image)} ${name}`,
      240_000,
    );
    sums.compared += 1;
  }
  await trial.sh('cofa scrub finds no damage', 'cofa scrub', 240_000);
  await trial.sh(
    'all is unmounted',
    `ctr task kill --signal KILL writer; for _ in $(seq 20); do ! ctr task rm writer || break; sleep 0.5; done
ctr container rm writer
${trial.world.images.map((_, image) => `cofa unmount ${folderOf(image)}`).join('\n')}`,
    120_000,
  );
}
