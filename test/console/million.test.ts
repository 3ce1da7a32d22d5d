/**
 * A log of a million events on the page: its first paint, and how it moves while one scrubs. Time on a busy machine says little, so
 * both are compared with what the same browser does at the same moment with little; the figures are printed.
 */
import { join } from 'node:path';
import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { LogFileWriter } from '../../src/replay/log-file.ts';
import { decodeRecord } from '../../src/replay/record.ts';
import { syntheticRecords } from '../replay/synthetic-log.ts';
import { launchBrowser, noBrowser, openPage } from '../support/browser.ts';
import { again, framesFor } from '../support/frames.ts';
import { Cleanup } from '../support/temp.ts';
import { type RunningConsole, startConsole } from './console-process.ts';

const MANY = 1_000_000;
const FEW = 20_000;
const cleanup = new Cleanup();
let browser: Browser;
let many: RunningConsole;
let few: RunningConsole;

async function logOf(folder: string, count: number): Promise<RunningConsole> {
  const file = join(folder, `${count}.cofa-log`);
  const header = { node: 'node-1', cofa: '0.1.0', exportedAt: 0 };
  const writer = await LogFileWriter.create(file, header);
  for (const record of syntheticRecords(count, 7))
    await writer.add(record, decodeRecord(record.bytes).at ?? 0);
  await writer.finish();
  const running = await startConsole(['replay', '--web', file]);
  cleanup.defer(async () => void (await running.stop()));
  return running;
}

beforeAll(async () => {
  if (noBrowser !== undefined) return;
  const folder = await cleanup.tempDir('million');
  few = await logOf(folder, FEW);
  many = await logOf(folder, MANY);
  browser = await launchBrowser();
  cleanup.defer(() => browser.close());
});
beforeEach(({ skip }) => skip(noBrowser !== undefined, noBrowser));
afterAll(() => cleanup.run());

/** From the beginning of the navigation until the time line is on the screen, ms. */
async function firstPaint(running: RunningConsole): Promise<{ page: Page; ms: number }> {
  const { page } = await openPage(browser, running.at('/log'));
  await page.getByRole('slider').waitFor();
  const ms = await page.evaluate("performance.getEntriesByName('cofa-log-first-paint')[0].startTime");
  return { page, ms: Number(ms) };
}

it('paints soon, and moves with the pointer', async () => {
  const page = await again(async () => {
    const small = await firstPaint(few);
    await small.page.close();
    const { page, ms } = await firstPaint(many);
    console.log(
      `first paint: ${ms.toFixed(0)} ms with ${MANY} events, ${small.ms.toFixed(0)} ms with ${FEW}`,
    );
    expect(ms).toBeLessThan(Math.max(1_000, 4 * small.ms));
    return page;
  });
  await page.getByText(`of ${MANY.toLocaleString('en')}`).waitFor();
  // All events have come: the end has its sequence.
  await page.getByRole('button', { name: 'To the end' }).click();
  await page.getByText(`sequence ${MANY}`).first().waitFor();
  const scrub = `{
    const line = document.querySelector('.time-line');
    const { left, width, top } = line.getBoundingClientRect();
    const x = left + width * (0.5 + 0.45 * Math.sin(frames / 25));
    line.dispatchEvent(new PointerEvent('pointermove', { clientX: x, clientY: top + 20, buttons: 1, pointerId: 1, bubbles: true }));
  }`;
  // Events that the test makes itself have no pointer that could be captured.
  await page.evaluate('Element.prototype.setPointerCapture = () => {}');
  const before = await page.locator('.event[aria-selected=true] .seq').innerText();
  await again(async () => {
    const { rate: alone } = await framesFor(page, 2_000, '');
    const { rate: scrubbing } = await framesFor(page, 4_000, scrub);
    console.log(`frames a second: ${scrubbing.toFixed(0)} while scrubbing, ${alone.toFixed(0)} without`);
    expect(scrubbing).toBeGreaterThan(Math.min(50, alone / 4));
  });
  expect(await page.locator('.event[aria-selected=true] .seq').innerText()).not.toBe(before);
  // The list has followed, and says what the events are.
  await page.waitForURL(/at=\d+/);
  const seq = await page.locator('.event[aria-selected=true] .seq').innerText();
  await page.getByText(`sequence ${seq}`, { exact: false }).first().waitFor();
  await page.close();
});
