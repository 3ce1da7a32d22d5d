/**
 * Clients of containerd that pull, run and remove images on cofa's snapshotter all the time, prepared images and
 * others. Each client has a namespace of its own, and every other client's containers have users of their own.
 * Meanwhile containerd and the engine's processes are killed in turns. Every run's output is compared with the image. A
 * container that was started before the first kill has to live through all of them. In the end nothing may be left.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectContainerd } from '../../src/containerd/client.ts';
import { pullInto } from '../../src/containerd/pull.ts';
import { RegistryClient } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { makeBase, type PushedImage, pushFiveImages } from '../clients/images.ts';
import { untilServed } from '../snapshotter/served.ts';
import { type Engine, eventually, runCofa, startEngine } from './engine.ts';
import { Random } from './random.ts';
import { startRegistry } from './registry-server.ts';
import { type Containerd, startContainerd } from './services.ts';
import { Cleanup, letThrough, mountsBelow } from './temp.ts';

export interface ChurnOptions {
  /** Rounds of pull, run and remove, in all; the clients continue until the last kill is over. */
  cycles: number;
  clients: number;
  killRounds: number;
  seed: number;
  /** Programs of containerd: a PATH. */
  path?: string;
  /** Wait until the engine has unmounted unused flat images, which takes half a minute. */
  untilUnmounted: boolean;
  onProgress?: (line: string) => void;
}

export interface ChurnReport {
  seed: number;
  cycles: number;
  seconds: number;
  /** Steps that failed during a kill, and were repeated. */
  retries: number;
  kills: Record<string, number>;
  /** Broken rules: wrong bytes, a lost container, leftovers. */
  violations: string[];
}

const VICTIMS = ['containerd', 'snapshotter', 'front-end', 'engine'] as const;
/** The containers that live through all kills, by their image; the last one with users of its own. */
const SURVIVORS = ['lazy-1', 'mixed', 'lazy-2'];
/** runc knows containers by namespace and name, for the whole machine. */
const SURVIVING = `survivors-${process.pid}`;
/** Tries of a step after the last kill; between two tries a killed process returns, ms. */
const TRIES = 40;
const PAUSE_MS = 500;
/** Exit code of a container that found other bytes than its image's. Failed reads have another code. */
const WRONG = 77;
/** What scripts print last. */
const END = 'that is all';

export async function clientChurn(options: ChurnOptions): Promise<ChurnReport> {
  const cleanup = new Cleanup();
  try {
    return await new Churn(options, cleanup).run();
  } finally {
    await cleanup.run();
  }
}

class Churn {
  readonly #options: ChurnOptions;
  readonly #cleanup: Cleanup;
  readonly #violations: string[] = [];
  readonly #kills: Record<string, number> = {};
  #images: PushedImage[] = [];
  #retries = 0;
  #begun = 0;
  #done = 0;
  #killing = false;
  #engine!: Engine;
  #containerd!: Containerd;
  #directory = '';

  constructor(options: ChurnOptions, cleanup: Cleanup) {
    this.#options = options;
    this.#cleanup = cleanup;
  }

  async run(): Promise<ChurnReport> {
    const { clients, killRounds, seed, onProgress = () => {} } = this.#options;
    await this.#prepare();
    await this.#startSurvivors();
    const started = performance.now();
    this.#killing = killRounds > 0;
    const ticker = setInterval(
      () => onProgress(`${this.#done} cycles, ${this.#retries} steps again`),
      10_000,
    );
    const killer = this.#killInTurns(new Random(seed)).finally(() => (this.#killing = false));
    try {
      const work = Array.from({ length: clients }, (_, at) => this.#client(at, new Random(seed + at + 1)));
      await Promise.all([killer, ...work]);
    } finally {
      clearInterval(ticker);
    }
    const seconds = (performance.now() - started) / 1000;
    await this.#checkSurvivors('at the end');
    await this.#takeAway();
    return {
      seed,
      cycles: this.#done,
      seconds,
      retries: this.#retries,
      kills: this.#kills,
      violations: this.#violations,
    };
  }

  async #prepare(): Promise<void> {
    const cleanup = this.#cleanup;
    const work = await cleanup.tempDir('churn');
    const registry = await startRegistry();
    cleanup.defer(() => registry.stop());
    this.#images = await pushFiveImages(work, await makeBase(work), registry.host);
    this.#engine = await this.#startEngine();
    this.#directory = await cleanup.tempDir('ctrd');
    await letThrough(this.#directory);
    await letThrough(work);
    this.#containerd = await this.#startContainerd();
    cleanup.defer(() => this.#containerd.stop());
  }

  async #startEngine(root?: string): Promise<Engine> {
    const engine = await startEngine({
      workers: 1,
      args: ['--snapshotter'],
      ...(root === undefined ? {} : { root }),
    });
    this.#cleanup.defer(() => engine.stop());
    (await untilServed(join(engine.root, 'run/snapshotter.sock'))).close();
    return engine;
  }

  #startContainerd(): Promise<Containerd> {
    const { path } = this.#options;
    return startContainerd({
      directory: this.#directory,
      ...(path === undefined ? {} : { path }),
      configure: async (file) => {
        const args = ['install', 'containerd', '--no-unit', '--containerd-config', file];
        // It finds out which containerd the machine has.
        const env = { COFA_ROOT: this.#engine.root, ...(path === undefined ? {} : { PATH: path }) };
        const { code, stderr } = await runCofa(args, { env });
        if (code !== 0) throw new Error(stderr);
      },
    });
  }

  // --- clients ---------------------------------------------------------------------------------------------------

  async #client(at: number, random: Random): Promise<void> {
    const namespace = `client-${process.pid}-${at}`;
    while (this.#begun < this.#options.cycles || this.#killing) {
      this.#begun += 1;
      const image = this.#images[random.int(0, this.#images.length - 1)] as PushedImage;
      const name = `${namespace}-${this.#begun}`;
      const isDone = await this.#again(`${name}: pull, run`, async (tries) => {
        // Each try has a name of its own, as a kubelet's has: containerd 1.6 may keep the shim of a task whose creation
        // was interrupted, and refuses another of that name for as long as it lives.
        const id = `${name}-${tries}`;
        await this.#pull(namespace, image);
        // Its exit code tells the outcome: ctr may end before it has copied all output.
        const mount = `type=bind,src=${image.expected},dst=/expected,options=rbind:ro`;
        const args = ['--rm', '--snapshotter=cofa', '--mount', mount, ...usersOf(at)];
        const run = ['run', ...args, image.ref, id];
        const script = [
          `cmp /data/big /expected; case $? in 0) ;; 1) exit ${WRONG} ;; *) exit 1 ;; esac`,
          `said=$(cat /said) || exit 1; [ "$said" = "${image.said}" ] || exit ${WRONG}`,
          'echo more >> /said',
        ].join('\n');
        await this.#ctr(namespace, ...run, 'sh', '-c', script).catch((error: unknown) => {
          if (!String(error).includes(`failed (${WRONG})`)) throw error;
          this.#violations.push(`${id}: ${image.ref} is not as it should be: ${String(error).slice(-300)}`);
        });
      });
      if (isDone && random.next() < 0.5) {
        await this.#again(`${name}: remove`, () => this.#ctr(namespace, 'images', 'rm', '--sync', image.ref));
      }
      this.#done += 1;
    }
  }

  async #pull(namespace: string, { ref, isLazy }: PushedImage): Promise<void> {
    if (!isLazy) {
      await this.#ctr(namespace, 'images', 'pull', '--plain-http', '--snapshotter=cofa', ref);
      return;
    }
    const containerd = connectContainerd(this.#containerd.socket, namespace);
    const registry = new RegistryClient();
    try {
      const reference = parseReference(ref);
      await pullInto({
        containerd,
        registry,
        snapshotter: 'cofa',
        reference,
        image: await registry.resolve(reference),
        layers: false,
        prepareHere: async () => {
          throw new Error(`${ref} is prepared, and would be unpacked`);
        },
        onBytes: () => {},
        signal: AbortSignal.timeout(60_000),
      });
    } finally {
      containerd.close();
      await registry.close();
    }
  }

  /**
   * Repeats a step until it succeeds; without kills it runs once. False when it fails although no kill comes any more.
   */
  async #again(what: string, step: (tries: number) => Promise<unknown>): Promise<boolean> {
    let inPeace = 0;
    for (let tries = 1; ; tries++) {
      try {
        await step(tries);
        return true;
      } catch (error) {
        // On a slow machine the next kill may come before a step can succeed at all.
        if (!this.#killing) inPeace += 1;
        if (this.#options.killRounds > 0 && inPeace < TRIES) {
          this.#retries += 1;
          await sleep(PAUSE_MS);
          continue;
        }
        this.#violations.push(`${what}: ${String(error).slice(0, 600)}`);
        return false;
      }
    }
  }

  #ctr(namespace: string, ...args: string[]): Promise<string> {
    return this.#containerd.ctr(['--namespace', namespace, ...args], { timeoutMs: 60_000 });
  }

  // --- kills -----------------------------------------------------------------------------------------------------

  async #killInTurns(random: Random): Promise<void> {
    for (let round = 0; round < this.#options.killRounds; round++) {
      await sleep(random.int(200, 1_500));
      const victim = VICTIMS[round % VICTIMS.length] as (typeof VICTIMS)[number];
      this.#kills[victim] = (this.#kills[victim] ?? 0) + 1;
      this.#options.onProgress?.(`round ${round + 1}: ${victim}`);
      await this.#kill(victim);
      await this.#checkSurvivors(`round ${round + 1}, ${victim}`);
    }
  }

  async #kill(victim: (typeof VICTIMS)[number]): Promise<void> {
    if (victim === 'containerd') {
      process.kill(this.#containerd.pid, 'SIGKILL');
      this.#containerd = await this.#startContainerd();
      return;
    }
    const pids = await eventually('pids', () => this.#engine.pids());
    if (victim !== 'engine') {
      const pid = pids[victim];
      if (pid !== undefined) process.kill(pid, 'SIGKILL');
      await eventually(`another ${victim}`, async () => {
        const now = (await this.#engine.pids())[victim];
        return now !== undefined && now !== pid;
      });
    } else {
      const { root, ended } = this.#engine;
      for (const pid of Object.values(pids)) process.kill(pid, 'SIGKILL');
      await ended;
      this.#engine = await this.#startEngine(root);
    }
    (await untilServed(join(this.#engine.root, 'run/snapshotter.sock'))).close();
  }

  async #startSurvivors(): Promise<void> {
    for (const [at, name] of SURVIVORS.entries()) {
      const users = usersOf(at < 2 ? 0 : 99);
      const image = this.#images.find(({ ref }) => ref.includes(`/${name}:`)) as PushedImage;
      await this.#pull(SURVIVING, image);
      await this.#ctr(
        SURVIVING,
        'run',
        '--detach',
        ...users,
        '--snapshotter=cofa',
        image.ref,
        name,
        '/bin/wait',
      );
      await this.#exec(name, 'first', 'echo mine > /mine');
    }
  }

  async #checkSurvivors(when: string): Promise<void> {
    for (const name of SURVIVORS) {
      try {
        const wanted = `mine\nI am ${name}\n${END}\n`;
        const said = await eventually('an answer', async () => {
          const id = `x${performance.now()}`.replace('.', '-');
          const text = await this.#exec(name, id, `cat /mine /said && echo ${END}`);
          return text.endsWith(`${END}\n`) && text;
        });
        if (said !== wanted) this.#violations.push(`${when}: ${name} says ${JSON.stringify(said)}`);
      } catch (error) {
        this.#violations.push(
          `${when}: ${name} is lost: ${String((error as Error).cause ?? error).slice(0, 600)}`,
        );
      }
    }
  }

  #exec(name: string, id: string, script: string): Promise<string> {
    return this.#ctr(SURVIVING, 'tasks', 'exec', '--exec-id', id, name, 'sh', '-c', script);
  }

  // --- the end ---------------------------------------------------------------------------------------------------

  /** Removes everything as an administrator would; then nothing may be left. */
  async #takeAway(): Promise<void> {
    // No list has shims whose task was never made; containerd ends them when it starts.
    if (this.#options.killRounds > 0) await this.#kill('containerd');
    for (const namespace of words(await this.#containerd.ctr(['namespaces', 'ls', '--quiet']))) {
      const list = async (kind: string) => words(await this.#ctr(namespace, kind, 'ls', '--quiet'));
      for (const task of await list('tasks')) await this.#ctr(namespace, 'tasks', 'rm', '--force', task);
      for (const id of await list('containers')) await this.#ctr(namespace, 'containers', 'rm', id);
      for (const ref of await list('images')) await this.#ctr(namespace, 'images', 'rm', ref);
      for (const lease of await list('leases')) await this.#ctr(namespace, 'leases', 'rm', lease);
      // A client that was interrupted keeps the snapshot that it was unpacking: containerd leaves it alone for a day.
      // containerd's own collector may be faster with one of them: "not found".
      const prune = () => this.#ctr(namespace, 'content', 'prune', 'references');
      await prune().catch(prune).catch(prune);
    }
    const { root } = this.#engine;
    const client = await untilServed(join(root, 'run/snapshotter.sock'));
    try {
      let left: string[] = [];
      await eventually('no snapshot', async () => {
        left = (await client.walk()).map(({ name }) => name);
        return left.length === 0;
      }).catch(() => this.#violations.push(`snapshots that stayed: ${left.join(', ')}`));
      await client.api.cleanup({ snapshotter: 'cofa' });
    } finally {
      client.close();
    }
    const folders = readdirSync(join(root, 'snapshots'));
    if (folders.length > 0) this.#violations.push(`folders of snapshots that stayed: ${folders.join(', ')}`);
    const mounts = mountsBelow(this.#directory);
    if (mounts.length > 0) this.#violations.push(`mounts of containers that stayed: ${mounts.join(', ')}`);
    const mapped = () => mountsBelow(join(root, 'mapped'));
    await eventually('no mount with other owners', () => mapped().length === 0).catch(() =>
      this.#violations.push(`mounts with other owners that stayed: ${mapped().join(', ')}`),
    );
    if (!this.#options.untilUnmounted) return;
    await eventually(
      'no flat image',
      async () => (await this.#engine.status()).mounts.length === 0,
      60_000,
    ).catch(() => this.#violations.push('unused flat images stay mounted'));
  }
}

/**
 * Every other client has a user namespace, on mounts of its own of the same images; it cannot mount /sys of the host's
 * network.
 */
const usersOf = (client: number): string[] => {
  const map = `0:${(client + 1) * 100_000}:65536`;
  return client % 2 === 0 ? ['--net-host'] : ['--remap-labels', '--uidmap', map, '--gidmap', map];
};

const words = (text: string): string[] => text.split('\n').filter((line) => line !== '');
