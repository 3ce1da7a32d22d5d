/**
 * What other members' readers cost a node's own containers: an engine that is a member of a fleet and has an image whole, on
 * one processor with its container; on the other one a member that takes pieces of another image from it, as fast as a link
 * of `--rate` lets it, or not, in turns. One processor for a node's engine and container is the least that there is.
 *
 *     node ops/bench/fleet-beside.ts [--rate 1G] [--at-once 8] [--rounds 8] [--json FILE]
 *
 * The container computes (SHA-256 of zeros), starts programs, and is itself started warm (`cofa run`). Prints the median
 * times of each, at rest and beside readers, and what the readers got a second. Needs root and two processors.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { asRequest, type PieceAsk } from '../../src/fleet/piece-request.ts';
import { piecesIn } from '../../schemas/fleet.ts';
import { pushImage } from '../../test/faults/fault-image.ts';
import { startMadeUp } from '../../test/fleet/made-up-member.ts';
import { fleetOf, startFleetNats } from '../../test/fleet/support.ts';
import { type Engine, eventually, startEngine } from '../../test/support/engine.ts';
import { startRegistry } from '../../test/support/registry-server.ts';
import { runCommand } from '../../test/support/services.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { realImage } from '../images/debian.ts';
import { pushLayout } from '../images/layout.ts';
import { programOptions } from '../program-options.ts';
import { COFA, median, textTable } from './measure.ts';
import { parseRate } from './relay.ts';

const { values } = programOptions(import.meta.filename, {
  options: {
    rate: { type: 'string', default: '1G' },
    'at-once': { type: 'string', default: '8' },
    rounds: { type: 'string', default: '8' },
    json: { type: 'string' },
  },
});
const RATE = parseRate(values.rate) / 8;
const AT_ONCE = Number(values['at-once']);
const ROUNDS = Number(values.rounds);
/** Of the engine and its container; of all others. */
const [NODE, OTHERS] = ['0', '1'];
const PAYLOAD = 96 << 20;
const say = (line: string) => console.error(`fleet-beside: ${line}`);

/** In the container: says how long each thing took that its standard input names, ms. */
const WORK = `
import hashlib, subprocess, sys, time
ZEROS = bytes(1 << 20)
def compute():
    digest = hashlib.sha256()
    for _ in range(400): digest.update(ZEROS)
def programs():
    for _ in range(20): subprocess.run(['/bin/true'], check=True)
for line in sys.stdin:
    began = time.monotonic()
    {'compute': compute, 'programs': programs}[line.strip()]()
    print((time.monotonic() - began) * 1000, flush=True)
`;

const KINDS = ['compute', 'programs', 'warm start'] as const;
type Kind = (typeof KINDS)[number];
const STATES = ['at rest', 'readers'] as const;
type State = (typeof STATES)[number];
type Times = Record<State, Record<Kind, number[]>>;

async function main(): Promise<void> {
  await runCommand('taskset', ['-acp', OTHERS as string, String(process.pid)]);
  const cleanup = new Cleanup();
  try {
    await measure(cleanup);
  } finally {
    await cleanup.run();
  }
}

async function measure(cleanup: Cleanup): Promise<void> {
  const directory = await cleanup.tempDir('fleet-beside');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const ref = `${registry.host}/demo:1`;
  await pushLayout(await realImage('demo', { onProgress: say }), registry.host, 'demo', '1');
  const payload = await pushImage(join(directory, 'payload'), registry.host, 'payload', [
    { 'app/file': randomBytes(PAYLOAD) },
  ]);
  const fleet = await startFleetNats(cleanup, ['node', 'reader']);
  const engine = await startEngine({
    through: ['taskset', '-c', NODE as string],
    args: [...fleet.join('node'), '--fleet-cache', '8G'],
    defers: true,
    rehearses: true,
  });
  cleanup.defer(() => engine.stop());
  const [blob] = payload.blobs;
  if (blob === undefined) throw new Error('the image has a layer');
  const reader = await startReader(cleanup, fleet, engine, blob, registry.host);
  const container = await startContainer(engine, ref);
  cleanup.defer(() => container.stop());
  say('the engine comes to rest');
  await eventually('all of the image is here', async () => {
    const { images } = await engine.status();
    return images.every(({ blocks }) => blocks.absent + blocks.fetching === 0);
  });
  await reader.readAll();
  await sleep(20_000);

  const times: Times = { 'at rest': empty(), readers: empty() };
  const rates: number[] = [];
  for (let round = 0; round < ROUNDS; round++)
    for (const state of round % 2 === 0 ? STATES : STATES.toReversed()) {
      const reading = state === 'readers' ? reader.begin() : undefined;
      await sleep(500);
      for (const kind of ['compute', 'programs'] as const)
        times[state][kind].push(await container.time(kind));
      times[state]['warm start'].push(await warmStart(engine, ref));
      if (reading !== undefined) rates.push(await reading.end());
      say(
        `round ${round + 1} of ${ROUNDS}, ${state}: ${KINDS.map((kind) => times[state][kind].at(-1)?.toFixed(0)).join(', ')} ms`,
      );
      await sleep(500);
    }
  await publish(times, rates);
}

const empty = (): Record<Kind, number[]> => ({ compute: [], programs: [], 'warm start': [] });

/** A member that takes pieces and uses none of them. */
async function startReader(
  cleanup: Cleanup,
  fleet: Awaited<ReturnType<typeof startFleetNats>>,
  engine: Engine,
  blob: { digest: string; size: number },
  registry: string,
) {
  const made = await startMadeUp(cleanup, fleet, 'reader', {
    weight: 1,
    give: async () => {
      throw new Error('it has nothing');
    },
    heard: () => {},
  });
  await eventually('they have met', async () => (await fleetOf(engine)).members.length === 2);
  const source = { registry, repository: 'payload', ...blob };
  const count = piecesIn(blob.size);
  const here: number[] = [];
  const asked = (index: number): PieceAsk => ({
    source,
    index,
    class: 'demand',
    token: undefined,
    noToken: false,
    tried: [],
    forHome: false,
  });
  /** Bytes; 0 where it was no piece. */
  const take = async (index: number): Promise<number> => {
    const { statusCode, body } = await made.pools.to('node').request(asRequest(asked(index)));
    let bytes = 0;
    for await (const chunk of body as AsyncIterable<Buffer>) bytes += chunk.length;
    return statusCode === 200 ? bytes : 0;
  };
  return {
    /** Has the node fetch and keep all pieces of which it is a home; of the others the reader would be. */
    readAll: async () => {
      for (let index = 0; index < count; index++) {
        const isThere = async () => (await take(index)) > 0;
        if (await eventually('it is there', isThere, 2_000).catch(() => false)) here.push(index);
      }
      if (here.length < count / 2) throw new Error(`the node has given ${here.length} of ${count} pieces`);
    },
    /** Takes pieces until `end`, which says how many bytes came a second. */
    begin: () => {
      let isOver = false;
      let bytes = 0;
      let next = 0;
      const began = performance.now();
      const lane = async () => {
        while (!isOver) {
          bytes += await take(here[next++ % here.length] as number);
          const ahead = (bytes / RATE) * 1000 - (performance.now() - began);
          if (ahead > 0) await sleep(ahead);
        }
      };
      const lanes = Promise.all(Array.from({ length: AT_ONCE }, lane));
      return {
        end: async () => {
          isOver = true;
          const seconds = (performance.now() - began) / 1000;
          await lanes;
          return bytes / seconds;
        },
      };
    },
  };
}

/** A container on the node's processor, which works as it is told. */
async function startContainer(engine: Engine, ref: string) {
  const child = cofa(engine, ['run', '-i', ref, 'python3', '-c', WORK]);
  const lines = createInterface({ input: child.stdout as NonNullable<ChildProcess['stdout']> })[
    Symbol.asyncIterator
  ]();
  const time = async (kind: 'compute' | 'programs') => {
    child.stdin?.write(`${kind}\n`);
    return Number((await lines.next()).value);
  };
  await time('programs');
  return {
    time,
    stop: async () => {
      const ended = new Promise((resolve) => child.once('exit', resolve));
      child.stdin?.end();
      await ended;
    },
  };
}

async function warmStart(engine: Engine, ref: string): Promise<number> {
  const began = performance.now();
  const child = cofa(engine, ['run', ref, 'python3', '-c', 'pass']);
  const code = await new Promise((resolve) => child.once('exit', resolve));
  if (code !== 0) throw new Error(`cofa run ended with ${code}`);
  return performance.now() - began;
}

const cofa = (engine: Engine, args: string[]): ChildProcess =>
  spawn('taskset', ['-c', NODE as string, COFA, ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, COFA_CONFIG: '/dev/null', COFA_ROOT: engine.root },
  });

async function publish(times: Times, rates: number[]): Promise<void> {
  const rows = KINDS.map((kind) => {
    const [rest, beside] = STATES.map((state) => median(times[state][kind]));
    return [kind, rest?.toFixed(0) ?? '', beside?.toFixed(0) ?? '', ((beside ?? 0) / (rest ?? 1)).toFixed(2)];
  });
  console.log(textTable([['own container', 'at rest, ms', 'beside readers, ms', 'ratio'], ...rows]));
  console.log(`the readers got ${(median(rates) / 1e6).toFixed(0)} MB/s`);
  if (values.json !== undefined) await writeFile(values.json, JSON.stringify({ times, rates }, undefined, 2));
}

await main();
