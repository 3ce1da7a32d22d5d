/** How a page moves: frames that a browser draws while something happens in each of them. */
import type { Page } from 'playwright-core';

export interface Frames {
  /** Frames a second. */
  rate: number;
  /** From one frame to the next, ms. */
  median: number;
  longest: number;
}

/** For so long, ms; `each` is a script that runs before each frame and knows its number as `frames`. */
export async function framesFor(page: Page, ms: number, each: string): Promise<Frames> {
  const gaps = (await page.evaluate(`new Promise((resolve) => {
    const gaps = [];
    let frames = 0;
    let last = performance.now();
    const until = last + ${ms};
    const frame = () => {
      const now = performance.now();
      if (frames > 0) gaps.push(now - last);
      last = now;
      if (now >= until) return resolve(gaps);
      ${each};
      frames += 1;
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  })`)) as number[];
  const sorted = gaps.toSorted((a, b) => a - b);
  return {
    rate: (gaps.length * 1000) / gaps.reduce((sum, gap) => sum + gap, 0),
    median: sorted[Math.floor((sorted.length - 1) / 2)] ?? Number.POSITIVE_INFINITY,
    longest: sorted.at(-1) ?? Number.POSITIVE_INFINITY,
  };
}

/** On a busy machine one of two that are compared may find others at work and the other none: three tries. */
export async function again<T>(compare: () => Promise<T>): Promise<T> {
  for (let tries = 1; tries < 3; tries++)
    try {
      return await compare();
    } catch (error) {
      console.log(`once more: ${String(error).split('\n')[0]}`);
    }
  return await compare();
}
