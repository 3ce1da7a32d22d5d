import type { TrustPolicy } from '../../../schemas/trust.ts';
import type { Random } from '../random.ts';

/**
 * What one seed of the whole engine does: the images, all speeds, and the mix of faults. Each fault is switched off in
 * many seeds, since faults that always come together hide each other. Times are simulated ms, probabilities 0 to 1,
 * `never` is Infinity.
 */
export interface Plan {
  /** Layers by their spans' blocks; images by their layers. */
  layers: number[][];
  images: number[][];
  /** Images that have a sidecar in the registry; the others are indexed on the node. */
  indexed: boolean[];
  /** Images with a well-formed sidecar that is not the image's: two files changed places, or a layer is hidden. */
  forged: Array<'swapped' | 'hiding' | undefined>;
  /** Layers with span tables of an attacker: other states, so another root and bytes of his. */
  attacked: number[];
  /** Images that have a sidecar of his beside their own; whether the registry prefers it. */
  besides: Array<'preferred' | 'behind' | undefined>;
  /**
   * He has an image that gives the diffID of an attacked layer to a blob of his; `larger`: of another size; `denies`: with
   * genuine states, which his blob does not lead to.
   */
  poisons: 'same size' | 'larger' | 'denies' | undefined;
  /** Of the engine and of mounts; undefined: mounts name none. */
  trust: TrustPolicy;
  mountTrust: number;
  /** The user lists the sidecars, forged ones too. */
  listed: boolean;
  /** A process that rebuilds a flat image dies. */
  rebuildDies: number;
  workers: number;
  readDeadlineMs: number;
  /** Directories that are mounted and unmounted. */
  dirs: number;
  mountEveryMs: number;
  readEveryMs: number;
  readBlocks: number;
  prefetch: number;

  natsDelayMs: number;
  loseAck: number;
  syncMs: number;
  latencyMs: number;
  blockMs: number;
  /** Per request to the registry: a passing error, silence, wrong bytes. */
  registryFails: number;
  registrySilent: number;
  wrongBytes: number;

  /** Mean times between. */
  killFrontMs: number;
  killFetcherMs: number;
  killNatsMs: number;
  killSupervisorMs: number;
  killAllMs: number;
  powerCutMs: number;
  cutConnectionMs: number;
  natsFullMs: number;
  diskFullMs: number;
  downMs: number;
  upgradeMs: number;
  /** Users remove images, mounted or not. */
  removeMs: number;
  /** A process is stopped for a while (SIGSTOP). */
  stopMs: number;
  /** The disk changes a block that was right; and a scrub compares the disk. */
  rotMs: number;
  scrubMs: number;
  /** Bytes of the event log; undefined: the engine's own. */
  logLimit: number | undefined;
  /** Share of all layers' bytes that the cache may take; undefined: no limit. */
  cacheShare: number | undefined;
  /** Two engines of one node name on a shared NATS; how often one of them is cut off from it. */
  two: boolean;
  cutOffMs: number;
  /** Until then faults happen; afterwards all heals and must come right. */
  faultsEndMs: number;
}

const never = Number.POSITIVE_INFINITY;

export function drawPlan(random: Random): Plan {
  const sometimes = <T>(value: T, otherwise: T, probability = 0.35) =>
    random.chance(probability) ? value : otherwise;
  const layers = Array.from({ length: random.int(1, 4) }, () =>
    Array.from({ length: random.int(1, 6) }, () => random.int(1, 4)),
  );
  const images = Array.from({ length: random.int(1, 3) }, () => {
    const count = random.int(1, layers.length);
    return [...new Set(Array.from({ length: count }, () => random.int(0, layers.length - 1)))];
  });
  return {
    layers,
    images,
    indexed: images.map(() => random.chance(0.85)),
    forged: images.map(() => sometimes(random.pick(['swapped', 'hiding'] as const), undefined, 0.3)),
    trust: random.pick(['registry', 'registry', 'signed', 'own', 'never'] as const),
    mountTrust: random.pick([0, 0, 0.3]),
    listed: random.chance(0.5),
    rebuildDies: sometimes(0.3, 0, 0.3),
    workers: random.int(1, 3),
    readDeadlineMs: random.int(4_000, 30_000),
    dirs: random.int(1, 4),
    mountEveryMs: random.int(300, 3_000),
    readEveryMs: random.int(20, 200),
    readBlocks: random.int(1, 6),
    prefetch: random.pick([0, 0.5, 1]),
    natsDelayMs: random.pick([0.5, 2, sometimes(40, 5)]),
    loseAck: sometimes(random.pick([0.02, 0.2]), 0),
    syncMs: random.pick([1, 10, sometimes(300, 20)]),
    latencyMs: random.int(2, 60),
    blockMs: random.int(1, 15),
    registryFails: sometimes(random.pick([0.02, 0.3]), 0),
    registrySilent: sometimes(0.02, 0, 0.2),
    wrongBytes: sometimes(random.pick([0.02, 0.1]), 0, 0.2),
    killFrontMs: sometimes(random.int(800, 8_000), never),
    killFetcherMs: sometimes(random.int(500, 5_000), never),
    killNatsMs: sometimes(random.int(2_000, 10_000), never, 0.3),
    killSupervisorMs: sometimes(random.int(2_000, 12_000), never, 0.35),
    killAllMs: sometimes(random.int(3_000, 12_000), never, 0.25),
    powerCutMs: sometimes(random.int(3_000, 12_000), never, 0.3),
    cutConnectionMs: sometimes(random.int(1_000, 6_000), never, 0.2),
    natsFullMs: sometimes(random.int(3_000, 9_000), never, 0.12),
    diskFullMs: sometimes(random.int(3_000, 9_000), never, 0.12),
    downMs: sometimes(random.int(4_000, 15_000), never, 0.25),
    upgradeMs: sometimes(random.int(3_000, 9_000), never, 0.2),
    removeMs: sometimes(random.int(1_000, 5_000), never, 0.25),
    stopMs: sometimes(random.int(2_000, 9_000), never, 0.2),
    logLimit: sometimes(random.int(30_000, 120_000), undefined, 0.3),
    cacheShare: sometimes(0.2 + 0.6 * random.next(), undefined, 0.4),
    two: random.chance(0.15),
    cutOffMs: random.int(2_000, 8_000),
    faultsEndMs: random.int(6_000, 20_000),
    rotMs: sometimes(random.int(1_000, 6_000), never, 0.3),
    scrubMs: sometimes(random.int(1_500, 6_000), never, 0.4),
    ...drawAttack(random, layers, images),
  };
}

/** In half of the seeds there is no attacker. */
function drawAttack(
  random: Random,
  layers: Plan['layers'],
  images: Plan['images'],
): Pick<Plan, 'attacked' | 'besides' | 'poisons'> {
  const attacked = random.chance(0.5) ? layers.map((_, at) => at).filter(() => random.chance(0.5)) : [];
  const beside = (image: number[]) =>
    image.some((layer) => attacked.includes(layer)) && random.chance(0.7)
      ? random.pick(['preferred', 'behind'] as const)
      : undefined;
  const poisons = random.pick(['same size', 'larger', 'denies', undefined] as const);
  return { attacked, besides: images.map(beside), poisons: attacked.length === 0 ? undefined : poisons };
}

/** The plan once the faults are over. */
export function healed(plan: Plan): Plan {
  return {
    ...plan,
    mountEveryMs: never,
    readEveryMs: never,
    loseAck: 0,
    natsDelayMs: 1,
    syncMs: 2,
    registryFails: 0,
    registrySilent: 0,
    wrongBytes: 0,
    rebuildDies: 0,
    killFrontMs: never,
    killFetcherMs: never,
    killNatsMs: never,
    killSupervisorMs: never,
    killAllMs: never,
    powerCutMs: never,
    cutConnectionMs: never,
    natsFullMs: never,
    diskFullMs: never,
    downMs: never,
    cutOffMs: never,
    upgradeMs: never,
    removeMs: never,
    stopMs: never,
    rotMs: never,
    scrubMs: never,
  };
}
