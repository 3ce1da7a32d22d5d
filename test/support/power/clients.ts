/**
 * Clients of an engine at whose machine the power may be cut at any moment: they mount, unmount, read and evict, and keep what they
 * were told. The same in virtual machines (test/support/virtual/power-cuts.ts) and on a disk of this machine (test/faults/power-loss.test.ts).
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Random } from '../random.ts';
import type { Cut } from './cached-disk.ts';

/** What the engine's last answer to a client said of an image's mount; `unknown`: it had not answered yet. */
export type Told = 'mounted' | 'unmounted' | 'unknown';
/** `away`: the machine has no power. */
export type Ended = 'done' | 'refused' | 'away';

export interface Clients {
  random: Random;
  /** By number of the image. */
  told: Told[];
  ref(image: number): string;
  folder(image: number): string;
  /** Runs `cofa ARGS` at the machine. */
  cofa(args: readonly string[]): Promise<Ended>;
  /** Reads files of the mounts. A mount that ends below it is no fault. */
  read(): Promise<Ended>;
}

/** Mounts and unmounts in turns. Each lane has images of its own, so that what was told is one caller's. */
export async function mountsCome(clients: Clients, lane: number, on: () => boolean): Promise<void> {
  const { random, told } = clients;
  const own = [...told.keys()].filter((image) => image % 2 === lane);
  while (on()) {
    const image = random.pick(own);
    const mounts = told[image] !== 'mounted';
    const lazily = random.chance(0.3) ? ['--no-prefetch'] : [];
    const args = mounts
      ? ['mount', ...lazily, clients.ref(image), clients.folder(image)]
      : ['unmount', clients.folder(image)];
    if ((await tell(clients, image, args)) === 'away') return;
    await sleep(random.int(0, 1_500));
  }
}

/** Mounts or unmounts one image, and keeps what the engine said. */
export async function tell(clients: Clients, image: number, args: readonly string[]): Promise<Ended> {
  clients.told[image] = 'unknown';
  const ended = await clients.cofa(args);
  if (ended === 'done') clients.told[image] = args[0] === 'mount' ? 'mounted' : 'unmounted';
  return ended;
}

/** What arrives is read at once, so that reads and the background fetch meet. */
export async function reads(clients: Clients, on: () => boolean): Promise<void> {
  while (on()) if ((await clients.read()) === 'away') return;
}

export async function cacheLeaves(clients: Clients, on: () => boolean): Promise<void> {
  const calls = [['prune', '--all'], ['prune'], ['upgrade'], ['prune', '--all']];
  while (on()) {
    await sleep(clients.random.int(500, 4_000));
    if (!on() || (await clients.cofa(clients.random.pick(calls))) === 'away') return;
  }
}

/** Images whose mounts the engine has acknowledged. */
export const mountedOf = (told: readonly Told[]): number[] =>
  told.flatMap((state, image) => (state === 'mounted' ? [image] : []));

/**
 * After a cut: what the engine has answered holds, and of the other images it is taken as it is. Throws for an unmount that was
 * undone, and for a mount that is not there.
 */
export function holdsWhatWasTold({ told, folder }: Clients, there: ReadonlySet<string>): void {
  for (const [image, state] of told.entries()) {
    const is = there.has(folder(image));
    if (state === 'unmounted' && is) throw new Error(`${folder(image)} is mounted again`);
    if (state === 'mounted' && !is)
      throw new Error(`${folder(image)}, whose mount was acknowledged, is not mounted`);
    told[image] = is ? 'mounted' : 'unmounted';
  }
}

/**
 * Of a log, as `cofa events --json` prints it: evictions of blocks that were called present and were lost or damaged. After a power
 * cut there are none where the log never leads its data.
 */
export const wronglyBelieved = (lines: string): string[] =>
  lines
    .split('\n')
    .filter((line) => line.includes('"layer.evicted"') && /"reason": ?"(lost|scrub)"/.test(line));

/** What cuts took, summed up. */
export class Cuts {
  cuts = 0;
  lost = 0;
  torn = 0;
  unflushed = 0;

  add(cut: Cut): void {
    this.cuts += 1;
    this.lost += cut.lost;
    this.torn += cut.torn;
    this.unflushed += cut.unflushed;
  }

  toString(): string {
    return `${this.cuts} cuts, ${this.lost} of ${this.unflushed} unflushed blocks lost, ${this.torn} torn`;
  }
}
