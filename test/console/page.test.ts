/** The page in a browser, of a real engine: images that arrive, the log as a debugger, links; readable for everyone. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { startRelay } from '../../ops/bench/relay.ts';
import { type FaultImage, pushImage, readPieces, twoLayers } from '../faults/fault-image.ts';
import { axeFlaws, launchBrowser, type Look, noBrowser, openPage } from '../support/browser.ts';
import { type Engine, mountImage, startEngine } from '../support/engine.ts';
import { startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';
import { type RunningConsole, startConsole } from './console-process.ts';

const cleanup = new Cleanup();
let engine: Engine;
let image: FaultImage;
let running: RunningConsole;
let browser: Browser;
let dir = '';
let root = '';

/** With COFA_PICTURES=docs the test takes the pictures of docs/console.md. */
const PICTURES = process.env.COFA_PICTURES;
async function picture(page: Page, name: string): Promise<void> {
  if (PICTURES === undefined) return;
  // Folders of a test say nothing to readers.
  await page.evaluate(`{
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const { data } = texts.currentNode;
      const plain = data.replace(/(\\/tmp\\/|…)[^ ]*\\/mount/g, '/mnt/app').replace(/\\/tmp\\/[^ ]*/g, '/var/lib/cofa');
      if (plain !== data) texts.currentNode.data = plain;
    }
  }`);
  await page.screenshot({ path: join(PICTURES, `console-${name}.png`) });
}

beforeAll(async () => {
  if (noBrowser !== undefined) return;
  const folder = await cleanup.tempDir('page');
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  // Slow enough to watch.
  const relay = await startRelay({ to: { host: '127.0.0.1', port: registry.port }, rttMs: 20, rate: 24e6 });
  cleanup.defer(() => relay.stop());
  image = await pushImage(folder, registry.host, 'app', twoLayers(8000));
  root = await cleanup.tempDir('page-root');
  engine = await startEngine({ root });
  cleanup.defer(() => engine.stop());
  expect((await engine.cli(['index', image.ref])).code).toBe(0);
  image.ref = image.ref.replace(registry.host, relay.host);
  dir = join(folder, 'mount');
  browser = await launchBrowser();
  cleanup.defer(() => browser.close());
  running = await startConsole(['console'], { COFA_ROOT: engine.root });
  cleanup.defer(async () => void (await running.stop()));
});
beforeEach(({ skip }) => skip(noBrowser !== undefined, noBrowser));
afterAll(() => cleanup.run());

const arrived = async (page: Page): Promise<number> =>
  Number(await page.getByRole('progressbar', { name: /has arrived/ }).getAttribute('aria-valuenow'));

/** Where the debugger is, by the list and by the address. */
const selected = async (page: Page): Promise<string> =>
  (await page.locator('.event[aria-selected=true]').innerText()).replace(/\s+/g, ' ');

describe('the view Node', () => {
  it('shows the engine in words, and an image while it arrives', async () => {
    const { page, complaints } = await openPage(browser, running.url);
    await page.getByText('All is well: nothing is mounted').waitFor();
    expect(page.url()).not.toContain('token');
    await page
      .getByRole('region', { name: /^Processes/ })
      .getByText('front-end')
      .waitFor();
    await mountImage(engine, image.ref, dir);
    await page.getByText('1 mount is served').waitFor();
    await page
      .getByRole('region', { name: /^Mounts/ })
      .getByText(dir)
      .waitFor();
    // A piece after the other, so that it moves with each.
    for (const name of ['app/noise', 'app/prose', 'lib/noise', 'lib/prose']) {
      const before = await arrived(page);
      await readPieces(join(dir, name), image.files.get(name) as Buffer);
      await expect.poll(() => arrived(page)).toBeGreaterThan(before);
    }
    await page
      .getByRole('region', { name: 'Recent starts' })
      .getByText(/reads waited/)
      .waitFor();
    await picture(page, 'node');
    expect(complaints).toEqual([]);
    await page.close();
  });
});

describe('the log as a debugger', () => {
  it('steps, searches, stops at breakpoints, compares, and says the same as the terminal', async () => {
    const { page, complaints } = await openPage(browser, running.at('/log?at=start'), { scheme: 'dark' });
    await page.getByText(/^event 0 of/).waitFor();
    await page.keyboard.press('l');
    await page.getByRole('heading', { name: 'engine.started' }).waitFor();
    await expect.poll(() => selected(page)).toContain('engine.started');
    await page.keyboard.press('m');
    // A condition, in the terminal's words.
    await page.keyboard.press('b');
    await page.keyboard.type('event mount.mounted');
    await page.keyboard.press('Enter');
    await page.getByText('breakpoint set').waitFor();
    await page.keyboard.press('c');
    await page.getByRole('heading', { name: 'mount.mounted' }).waitFor();
    await page.getByText('breakpoint: event mount.mounted').waitFor();
    const mounted = await engine.cli(['replay', '--break', 'event mount.mounted', '--json']);
    const { seq } = JSON.parse(mounted.stdout) as { seq: number };
    await expect.poll(() => selected(page)).toContain(`${seq} `);
    await page.getByText(/state: requested → mounted/).waitFor();
    await page.keyboard.press('d');
    const difference = page.getByRole('region', { name: 'Difference' });
    await difference.getByText(dir).waitFor();
    const told = await engine.cli(['replay', '--diff', '1', String(seq)]);
    for (const line of await difference.locator('li').allInnerTexts())
      expect(told.stdout.replace(/\s+/g, ' ')).toContain(line.replace(/\s+/g, ' '));
    // Slow reads, forward and back.
    await page.getByLabel('What the search is').selectOption('conditions');
    await page.getByRole('textbox', { name: 'Search' }).fill('read > 10ms');
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: 'layer.trace' }).waitFor();
    const first = await selected(page);
    await page.keyboard.press('N');
    await page.getByText('read > 10ms: no earlier event').waitFor();
    expect(await selected(page)).toBe(first);
    await page.keyboard.press('w');
    const why = page.getByRole('region', { name: 'Why' });
    // Of several reads a list, which opens; of one read at once what it waited for.
    await why.getByText(/block/).first().waitFor();
    const one = why.getByRole('button', { name: /block/ }).first();
    if (await one.isVisible()) await one.click();
    await why.getByText(/^read \S+: block/).waitFor();
    await picture(page, 'log-dark');
    // What is no condition is said as the terminal says it.
    await page.keyboard.press('b');
    await page.keyboard.type('block x');
    await page.keyboard.press('Enter');
    await page.getByText('is not the number of a block').waitFor();
    expect(complaints.filter((one) => !one.includes('400'))).toEqual([]);
    await page.close();
  });

  it('plays to a breakpoint, and back', async () => {
    const { page } = await openPage(browser, running.at('/log?at=start&break=event%20mount.mounted'));
    await page.locator('.chip', { hasText: 'event mount.mounted' }).waitFor();
    await page.getByText(/^event 0 of/).waitFor();
    await page.getByLabel('Speed').selectOption('100');
    await page.getByRole('button', { name: 'Play', exact: true }).click();
    await page.getByText('breakpoint: event mount.mounted').waitFor();
    await page.getByRole('heading', { name: 'mount.mounted' }).waitFor();
    await page.getByRole('button', { name: 'Play backwards' }).click();
    await page.getByText('the beginning', { exact: true }).waitFor();
    await page.close();
  });

  it('an address names a moment: opened elsewhere it is the same', async () => {
    const { page } = await openPage(browser, running.at('/log'));
    await page.getByRole('button', { name: 'To the beginning' }).click();
    for (let step = 0; step < 7; step++) await page.keyboard.press('ArrowRight');
    await page.getByText(/^event 7 of/).waitFor();
    const [seq] = (await selected(page)).split(' ');
    // The address follows a moment later.
    await page.waitForURL(new RegExp(`at=${seq}$`));
    const elsewhere = await openPage(browser, running.at(new URL(page.url()).hash.slice(1)));
    // Names come to a list a moment after its numbers.
    const both = async () => [await selected(page), await selected(elsewhere.page)] as const;
    await expect.poll(async () => new Set(await both()).size).toBe(1);
    expect(await selected(elsewhere.page)).toContain(`${seq} `);
    await Promise.all([page.close(), elsewhere.page.close()]);
  });

  it('is read once, though the live stream tells of the log before it has come', async () => {
    const { page } = await openPage(browser, running.at('/node'));
    await page.getByText('live', { exact: true }).waitFor();
    let asked = 0;
    await page.route(/\/api\/log(\?|$)/, async (route) => {
      asked += 1;
      await sleep(300);
      await route.continue();
    });
    await page.getByRole('link', { name: 'Log', exact: true }).click();
    await page.getByRole('button', { name: 'To the beginning' }).click();
    for (let step = 0; step < 3; step++) await page.keyboard.press('ArrowRight');
    // Longer than another answer would take.
    await sleep(1_000);
    await page.getByText(/^event 3 of/).waitFor();
    expect(asked).toBe(1);
    await page.close();
  });

  it('follows the engine', async () => {
    const { page } = await openPage(browser, running.at('/log'));
    await page.getByText('live', { exact: true }).waitFor();
    await page.getByRole('button', { name: 'Follow the engine' }).click();
    await page.getByText('following the engine').waitFor();
    const before = await selected(page);
    const other = `${dir}-2`;
    await mountImage(engine, image.ref, other);
    await expect.poll(() => selected(page)).not.toBe(before);
    await page.getByRole('region', { name: 'The state after it' }).getByText(other).waitFor();
    await page.close();
  });
});

describe('for everyone', () => {
  const LOOKS: ReadonlyArray<readonly [string, Look]> = [
    ['light', { scheme: 'light' }],
    ['dark', { scheme: 'dark' }],
    ['a phone, light', { scheme: 'light', width: 360, height: 740 }],
    ['a phone, dark', { scheme: 'dark', width: 360, height: 740 }],
    ['4K', { scheme: 'dark', width: 3840, height: 2160 }],
  ];

  it.each(LOOKS)('axe finds nothing, and nothing lies beside the screen: %s', async (name, look) => {
    const { page } = await openPage(browser, running.at('/node'), look);
    await page.getByRole('progressbar', { name: /has arrived/ }).waitFor();
    const check = async (view: string) => {
      expect(await axeFlaws(page, view)).toEqual([]);
      const width = await page.evaluate('document.documentElement.scrollWidth');
      expect(width).toBeLessThanOrEqual(look.width ?? 1280);
    };
    await check('node');
    if (name === 'a phone, dark') await picture(page, 'phone');
    await page.keyboard.press('?');
    await page.getByRole('heading', { name: 'Keys' }).waitFor();
    await check('help');
    await page.keyboard.press('Escape');
    // Until it has closed keys are the dialog's.
    await page.locator('dialog[open]').waitFor({ state: 'detached' });
    // The focus comes back a moment after the dialog has closed: until then a key may be its field's.
    const pressed = async (key: string) => {
      await page.keyboard.press(key);
      return page.url();
    };
    await expect.poll(() => pressed('2')).toContain('#/log');
    await page.locator('.event[aria-selected=true]').waitFor();
    await page.keyboard.press('m');
    await page.keyboard.press('h');
    await page.keyboard.press('d');
    await page.getByRole('region', { name: 'Difference' }).waitFor();
    await check('log');
    for (const [key, view] of [
      ['3', 'start'],
      ['4', 'layers'],
    ] as const) {
      await page.keyboard.press(key);
      await page.locator(`.view-${view} canvas`).first().waitFor();
      await check(view);
    }
    await page.close();
  });
});

it('outlives its engine, and follows it again', async () => {
  const { page, complaints } = await openPage(browser, running.at('/log'));
  await page.getByText('live', { exact: true }).waitFor();
  const { page: beside } = await openPage(browser, running.at('/log?at=start'));
  await beside.getByText(/^event 0 of/).waitFor();
  for (let step = 0; step < 3; step++) await beside.keyboard.press('l');
  await beside.keyboard.press('m');
  await beside.getByText(/^event 3 of/).waitFor();
  await engine.stop();
  await page.getByText('still', { exact: true }).waitFor();
  await page.keyboard.press('1');
  await page.getByText('The engine does not answer: this is what its log says.').waitFor();
  // Its root stayed, with the log.
  engine = await startEngine({ root });
  await page.getByText('live', { exact: true }).waitFor();
  await page.getByText(/^All is well/).waitFor();
  await page.keyboard.press('2');
  await page.keyboard.press('G');
  // The log has been read anew; what one did in it stays. An engine that has just started may tell the log more.
  const shows = async (one: Page, where: string) => {
    const { log } = await engine.status();
    const text = `${where} of ${(log?.events ?? 0).toLocaleString('en')}`;
    return (await one.getByText(text).count()) > 0;
  };
  await expect.poll(() => shows(page, '')).toBe(true);
  await expect.poll(() => shows(beside, 'event 3')).toBe(true);
  expect(complaints).toEqual([]);
  await beside.getByRole('button', { name: 'Mark this moment', pressed: true }).waitFor();
  await Promise.all([page.close(), beside.close()]);
});

it('pages in the background leave others a connection: a browser has six to a server', async () => {
  const context = await browser.newContext();
  context.setDefaultTimeout(60_000);
  const open = async () => {
    const page = await context.newPage();
    await page.goto(running.url, { waitUntil: 'commit' });
    return page;
  };
  const seen = async (page: Page, isSeen: boolean) =>
    await page.evaluate(`
      Object.defineProperty(document, 'hidden', { value: ${!isSeen}, configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
    `);
  const pages: Page[] = [];
  for (let count = 0; count < 9; count++) {
    const page = await open();
    pages.push(page);
    await page.getByText('live', { exact: true }).waitFor();
    if (count < 8) await seen(page, false);
  }
  await seen(pages[0] as Page, true);
  await pages[0]?.getByText('live', { exact: true }).waitFor();
  await context.close();
});

it('ends at Ctrl-C with its exit code; the page says so', async () => {
  const own = await startConsole(['console'], { COFA_ROOT: engine.root });
  const { page } = await openPage(browser, own.url);
  await page.getByText('live', { exact: true }).waitFor();
  expect(await own.stop()).toBe(0);
  await page.getByText('The console does not answer').waitFor();
  await page.close();
});
