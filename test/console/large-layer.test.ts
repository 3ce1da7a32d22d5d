/**
 * A layer of 10 GB on the page: each move through its 160,000 blocks is a frame, by keys and while its moment is dragged. Time on a busy
 * machine says little, so it is compared with what the same browser does at the same moment with nothing; the figures are printed.
 */
import { join } from 'node:path';
import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { LogFileWriter } from '../../src/replay/log-file.ts';
import { decodeRecord } from '../../src/replay/record.ts';
import { LARGE_BLOCKS, largeLayerRecords } from '../replay/large-layer.ts';
import { launchBrowser, noBrowser, openPage } from '../support/browser.ts';
import { again, framesFor } from '../support/frames.ts';
import { Cleanup } from '../support/temp.ts';
import { startConsole } from './console-process.ts';

const cleanup = new Cleanup();
let browser: Browser;
let page: Page;
let complaints: string[];

beforeAll(async () => {
  if (noBrowser !== undefined) return;
  const file = join(await cleanup.tempDir('large-layer'), 'layer.cofa-log');
  const writer = await LogFileWriter.create(file, { node: 'node-1', cofa: '0.2.0', exportedAt: 0 });
  for (const record of largeLayerRecords()) await writer.add(record, decodeRecord(record.bytes).at ?? 0);
  await writer.finish();
  const running = await startConsole(['replay', '--web', file]);
  cleanup.defer(async () => void (await running.stop()));
  browser = await launchBrowser();
  cleanup.defer(() => browser.close());
  ({ page, complaints } = await openPage(browser, running.at('/layers')));
  await page.getByRole('img', { name: `${LARGE_BLOCKS} blocks of` }).waitFor();
});
beforeEach(({ skip }) => skip(noBrowser !== undefined, noBrowser));
afterAll(() => cleanup.run());

const key = (name: string) => `{
  const map = document.querySelector('.view-layers canvas');
  map.dispatchEvent(new KeyboardEvent('keydown', { key: ${name}, bubbles: true, cancelable: true }));
}`;

const block = async () => await page.getByRole('heading', { name: /^Block \d+$/ }).innerText();

/** What happens in each frame, and what is another thing behind it. */
const MOVES: ReadonlyArray<readonly [name: string, each: string, changed: () => Promise<string>]> = [
  ['from block to block, all of them in sight', key("'ArrowRight'"), block],
  ['closer, and from block to block there', key("frames < 8 ? '+' : 'ArrowRight'"), block],
  [
    'through time',
    `{
      const slider = document.querySelector('input[type=range]');
      slider.value = String(Math.round(Number(slider.max) * (0.5 + 0.45 * Math.sin(frames / 25))));
      slider.dispatchEvent(new Event('input', { bubbles: true }));
    }`,
    async () => await page.getByRole('status').filter({ hasText: 'present' }).innerText(),
  ],
];

it.each(MOVES)('moves without a stutter: %s', async (name, each, changed) => {
  await page.getByRole('heading', { name: /^Block \d+$/ }).waitFor();
  const before = await changed();
  await again(async () => {
    const alone = await framesFor(page, 2_000, '');
    const moving = await framesFor(page, 3_000, each);
    console.log(
      `${name}: ${moving.rate.toFixed(0)} frames a second (${alone.rate.toFixed(0)} without), from one to the next ${moving.median.toFixed(1)} ms in the median, ${moving.longest.toFixed(0)} at most (${alone.longest.toFixed(0)} without)`,
    );
    expect(moving.rate).toBeGreaterThan(Math.min(50, alone.rate / 4));
    // Users see a longer one as a halt.
    expect(moving.longest).toBeLessThan(Math.max(250, 4 * alone.longest));
  });
  await expect.poll(changed).not.toBe(before);
  expect(complaints).toEqual([]);
});
