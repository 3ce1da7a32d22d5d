/** Cold and warm starts of an image, all ways in turns. */
import { dropCaches, type Link, onLink, type Start } from './measure.ts';
import { type BenchImage, bytesOfStart, type Ran, type Repositories, type Way } from './ways.ts';

/** What was measured of one image. */
export interface Starts {
  image: string;
  imageBytes: number;
  sidecarBytes: number;
  packBytes: number;
  /** Of the blocks in the pack as they lie in the layers; absent in results of earlier versions. */
  readBytes?: number;
  /** Bytes that a start with a pack fetches on a node that prefetches nothing: of a long start the rows have both. */
  startBytes: number;
  ways: Array<{ name: string; peer?: Way['peer']; cold: Start[]; warm: Start[] }>;
}

export async function measureStarts(
  image: BenchImage,
  at: Repositories,
  options: { ways: readonly Way[]; link: Link; rounds: number; say: (line: string) => void },
): Promise<Starts> {
  const { ways, link, rounds, say } = options;
  const measured = ways.map(({ name, peer }) => ({
    name,
    ...(peer !== undefined && { peer }),
    cold: [] as Start[],
    warm: [] as Start[],
  }));
  for (let round = 1; round <= rounds; round++) {
    for (const [index, way] of ways.entries()) {
      const { cold, warm } = await startOnce(way, image, at, link);
      say(`${image.name}, round ${round} of ${rounds}: ${way.name} ${(cold.totalMs / 1000).toFixed(2)} s`);
      measured[index]?.cold.push(cold);
      if (warm !== undefined) measured[index]?.warm.push(warm);
    }
  }
  say(`${image.name}: what a start fetches`);
  const startBytes = await bytesOfStart(at);
  const { sidecarBytes, packBytes, readBytes } = at;
  const sizes = { imageBytes: image.bytes, sidecarBytes, packBytes, readBytes, startBytes };
  return { image: image.name, ...sizes, ways: measured };
}

/** One cold start, and a warm one after it where the way has one. */
async function startOnce(
  way: Way,
  image: BenchImage,
  at: Repositories,
  link: Link,
): Promise<{ cold: Start; warm?: Start }> {
  return await onLink(at.registry, link, (relay) =>
    way.onFreshNode(image, at, relay.host, async (node) => {
      await dropCaches();
      const cold = startOf(await node.start(), relay.counters().toClient);
      if (node.warm === undefined) return { cold };
      return { cold, warm: startOf(await node.warm(), 0) };
    }),
  );
}

function startOf({ firstOutputMs, totalMs }: Ran, bytes: number): Start {
  return { firstOutputMs, totalMs, bytes };
}
