/** Pods that start side by side, as on a node that has just come up and gets all of its pods at once. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Cri } from './cri.ts';

export interface PodImage {
  ref: string;
  /** What its `/bin/wait` says first. */
  said: string;
}

export interface StartedPod {
  image: PodImage;
  /** Empty where it did not come so far. */
  container: string;
  /** From the moment that all were asked for until its first line was in its log, ms. */
  readyMs: number;
  /** Why it did not start. */
  failure?: string;
  /** Stops and removes what there is of it. */
  stop(): Promise<void>;
}

/** A container has this long to say its line, ms. */
const SAY_MS = 120_000;

/**
 * Starts `count` pods at once, of each image in turn; each pulls its image as the kubelet does for it (policy `Always`).
 * Returns when all have said their line, or failed.
 */
export async function startPods(
  cri: Cri,
  images: readonly PodImage[],
  { count, logs }: { count: number; logs: string },
): Promise<StartedPod[]> {
  const began = performance.now();
  const start = async (at: number): Promise<StartedPod> => {
    const image = images[at % images.length] as PodImage;
    const { ref, said } = image;
    const name = `pod-${at}`;
    let stop = async () => {};
    let container = '';
    try {
      const pod = await cri.runPod(name, logs);
      stop = pod.stop;
      await cri.pull(ref);
      container = await pod.start(name, ref, { command: ['/bin/wait'] });
      await untilSaid(join(logs, `${name}-0.log`), said);
      return { image, container, stop, readyMs: performance.now() - began };
    } catch (error) {
      const failure = `${name} of ${ref}: ${String(error)}`;
      return { image, container, stop, readyMs: performance.now() - began, failure };
    }
  };
  return await Promise.all(Array.from({ length: count }, (_, at) => start(at)));
}

async function untilSaid(log: string, line: string): Promise<void> {
  for (const end = performance.now() + SAY_MS; performance.now() < end; await sleep(20)) {
    const text = await readFile(log, 'utf8').catch(() => '');
    if (text.includes(` stdout F ${line}\n`)) return;
  }
  throw new Error('its container says nothing');
}
