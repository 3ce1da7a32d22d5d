/**
 * A console that is watched for long while its engine works: images are mounted, read, unmounted and pruned, so that all of them
 * arrive anew each time. One page follows the log, another shows the node. Samples of the console's memory and of the heap of
 * each page show whether looking grows with time; the log itself grows by some tens of bytes an event.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { CDPSession, Page } from 'playwright-core';
import { readProc } from '../../src/kernel/proc.ts';
import { startConsole } from '../console/console-process.ts';
import { pushImage, readPieces, twoLayers } from '../faults/fault-image.ts';
import { launchBrowser, openPage } from './browser.ts';
import { mountImage, startEngine } from './engine.ts';
import { startRegistry } from './registry-server.ts';
import { type Sample, type Trend, trendsOf } from './soak.ts';
import { Cleanup } from './temp.ts';

export interface FollowOptions {
  minutes: number;
  /** Samples in all. */
  samples?: number;
  onProgress?: (line: string) => void;
}

export interface FollowReport {
  minutes: number;
  /** Images that were mounted and read. */
  rounds: number;
  /** Of the log. */
  events: number;
  /** Whether the page that follows was at the end of the log at last. */
  follows: boolean;
  trends: Trend[];
}

/** Errors: those of engine, console and browser. */
export async function followSoak({
  minutes,
  samples = 30,
  onProgress,
}: FollowOptions): Promise<FollowReport> {
  const cleanup = new Cleanup();
  try {
    const folder = await cleanup.tempDir('follow');
    const registry = await startRegistry();
    cleanup.defer(() => registry.stop());
    const image = await pushImage(join(folder, 'image'), registry.host, 'app', twoLayers(9_100));
    const engine = await startEngine();
    cleanup.defer(() => engine.stop());
    await engine.cli(['index', image.ref]);
    const running = await startConsole(['console'], { COFA_ROOT: engine.root });
    cleanup.defer(async () => void (await running.stop()));
    const browser = await launchBrowser();
    cleanup.defer(() => browser.close());
    const { page: log } = await openPage(browser, running.at('/log'));
    const { page: node } = await openPage(browser, running.at('/node'));
    await log.getByRole('slider').waitFor();
    await log.keyboard.press('f');
    await log.getByText('following the engine').waitFor();
    const heaps = await Promise.all([log, node].map(heapOf));
    const dir = join(folder, 'mount');
    await mkdir(dir);
    const taken: Array<{ at: number; sample: Sample }> = [];
    const began = performance.now();
    const lengthMs = minutes * 60_000;
    let rounds = 0;
    const sample = async () => {
      const [logHeap = 0, nodeHeap = 0] = await Promise.all(heaps.map((heap) => heap()));
      const pss =
        Number(/^Pss:\s+(\d+)/m.exec(readProc(`/proc/${running.pid}/smaps_rollup`))?.[1] ?? 0) / 1024;
      const at = performance.now() - began;
      taken.push({ at, sample: { 'console MB': pss, 'log page MB': logHeap, 'node page MB': nodeHeap } });
      onProgress?.(
        `${(at / 60_000).toFixed(1)} min, ${rounds} rounds: console ${pss.toFixed(0)} MB, log ${logHeap.toFixed(1)} MB, node ${nodeHeap.toFixed(1)} MB`,
      );
    };
    while (performance.now() - began < lengthMs) {
      await mountImage(engine, image.ref, dir, { prefetch: true });
      for (const [name, bytes] of image.files) await readPieces(join(dir, name), bytes);
      await engine.client.call('unmount', { dir });
      await engine.client.call('prune', { all: true });
      rounds += 1;
      if (performance.now() - began >= (taken.length * lengthMs) / samples) await sample();
    }
    await sample();
    const status = await engine.status();
    return {
      minutes,
      rounds,
      events: status.log?.events ?? 0,
      follows: await isAtEnd(log),
      trends: trendsOf(taken),
    };
  } finally {
    await cleanup.run();
  }
}

/** Asks for what is left of a page's heap when all that it does not need is gone, MB. */
async function heapOf(page: Page): Promise<() => Promise<number>> {
  const session: CDPSession = await page.context().newCDPSession(page);
  await session.send('Performance.enable');
  return async () => {
    await session.send('HeapProfiler.collectGarbage');
    const { metrics } = await session.send('Performance.getMetrics');
    return (metrics.find(({ name }) => name === 'JSHeapUsedSize')?.value ?? 0) / 2 ** 20;
  };
}

async function isAtEnd(page: Page): Promise<boolean> {
  const line = page.getByRole('slider', { name: 'Time line of all events' });
  for (let tries = 0; tries < 50; tries++) {
    const [now, all] = await Promise.all(
      ['aria-valuenow', 'aria-valuemax'].map((name) => line.getAttribute(name)),
    );
    if (now === all) return true;
    await page.waitForTimeout(200);
  }
  return false;
}
