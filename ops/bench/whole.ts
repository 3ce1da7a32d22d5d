/**
 * A cold start, and then every byte of the image read: what a lazy image costs when a container reads all of it. Beside
 * containerd's pull, start and the same reading. Two containers, the start and the reading, so that the start is the
 * one that packs are made for.
 */
import { dropCaches, type Link, onLink } from './measure.ts';
import type { BenchImage, Repositories, Way } from './ways.ts';

/** Counts what it reads: a way that reads less has not read it all. Skips what its user may not read. */
const READ_ALL = 'find / -xdev -type f -readable -print0 | xargs -0 cat | wc -c';

/** A runtime may cover some of the image's own files: hosts, resolv.conf. */
const MAY_DIFFER = 1 << 20;

export interface Whole {
  /** bits a second, as it was given */
  rate: string;
  /** Of all rounds, ms: from the first call to the end of the start, and to the end of the reading. */
  ways: Array<{ name: string; startMs: number[]; totalMs: number[]; bytes: number[] }>;
  /** Bytes of the files. */
  read: number;
}

export async function readWhole(
  image: BenchImage,
  at: Repositories,
  options: {
    ways: readonly Way[];
    link: Link;
    rate: string;
    rounds: number;
    say: (line: string) => void;
  },
): Promise<Whole> {
  const { ways, link, rate, rounds, say } = options;
  const result: Whole = {
    rate,
    ways: ways.map(({ name }) => ({ name, startMs: [], totalMs: [], bytes: [] })),
    read: 0,
  };
  for (let round = 1; round <= rounds; round++) {
    for (const [index, way] of ways.entries()) {
      const once = await onLink(at.registry, link, (relay) =>
        way.onFreshNode(image, at, relay.host, async (node) => {
          await dropCaches();
          const began = performance.now();
          await node.start();
          const startMs = performance.now() - began;
          const { output } = await node.shell(READ_ALL);
          return {
            startMs,
            totalMs: performance.now() - began,
            bytes: relay.counters().toClient,
            read: Number(output),
          };
        }),
      );
      result.read ||= once.read;
      if (!(Math.abs(once.read - result.read) < MAY_DIFFER))
        throw new Error(`${way.name} read ${once.read} bytes of ${image.name}, the first way ${result.read}`);
      say(
        `${image.name}, all of it at ${rate}bit/s, round ${round} of ${rounds}: ${way.name} ${(once.totalMs / 1000).toFixed(2)} s`,
      );
      const of = result.ways[index];
      of?.startMs.push(once.startMs);
      of?.totalMs.push(once.totalMs);
      of?.bytes.push(once.bytes);
    }
  }
  return result;
}
