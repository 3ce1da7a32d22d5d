/** The views A start and Layers in a browser, of a real engine's log: what they show is what the terminal says; for everyone. */
import { join } from 'node:path';
import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { startRelay } from '../../ops/bench/relay.ts';
import { IncidentList, IncidentShown } from '../../schemas/incidents.ts';
import { ReplayEventLine, WhatIf, WhyStart } from '../../schemas/replay.ts';
import { formatUs } from '../../src/replay/format.ts';
import { formatDuration } from '../../src/terminal/table.ts';
import { axeFlaws, launchBrowser, type Look, noBrowser, openPage } from '../support/browser.ts';
import { type Engine, eventually, startEngine } from '../support/engine.ts';
import { pushPrograms } from '../support/program-image.ts';
import { startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';
import { type RunningConsole, startConsole } from './console-process.ts';

const cleanup = new Cleanup();
let engine: Engine;
let browser: Browser;
let running: RunningConsole;
let starts: WhyStart[];

/** With COFA_PICTURES=docs the test takes the pictures of docs/console.md. */
const PICTURES = process.env.COFA_PICTURES;
async function picture(page: Page, name: string): Promise<void> {
  if (PICTURES !== undefined) await page.screenshot({ path: join(PICTURES, `console-${name}.png`) });
}

beforeAll(async () => {
  if (noBrowser !== undefined) return;
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const relay = await startRelay({ to: { host: '127.0.0.1', port: registry.port }, rttMs: 20, rate: 60e6 });
  cleanup.defer(() => relay.stop());
  const folder = await cleanup.tempDir('starts');
  const near = await pushPrograms(folder, registry.host, 'app', { files: 3, fileBytes: 1 << 20 });
  const ref = near.replace(registry.host, relay.host);
  engine = await startEngine();
  cleanup.defer(() => engine.stop());
  expect(await engine.cli(['index', near])).toMatchObject({ code: 0 });
  const script = 'cat /data/noise-0 > /dev/null; sleep 0.3; cat /data/noise-1 > /dev/null';
  for (let time = 0; time < 4; time++) {
    // The log has an account of those with prefetch, for what-if and what one expects.
    const options = time < 2 ? ['--no-prefetch'] : [];
    // Samples see what is there half a second, and a second, behind the mount.
    const words = ['/bin/sh', '-c', time === 0 ? `${script}; sleep 1.5; true` : script];
    expect(await engine.cli(['run', ...options, ref, ...words])).toMatchObject({ code: 0 });
  }
  const list = await engine.cli(['replay', '--events', '--type', 'mount.requested', '--json']);
  const mounts = list.stdout
    .trim()
    .split('\n')
    .map((line) => String(ReplayEventLine.parse(JSON.parse(line)).data.id));
  starts = await eventually('both starts were measured', async () => {
    const told = await Promise.all(
      mounts.map(async (id) => {
        const { code, stdout } = await engine.cli(['replay', 'why', '--mount', id, '--json']);
        if (code !== 0) throw new Error(stdout);
        return WhyStart.parse(JSON.parse(stdout));
      }),
    );
    return told.every(({ wall }) => wall.machine !== undefined) ? told : undefined;
  });
  const victim = (await engine.status()).processes.find(({ role }) => role === 'fetcher');
  process.kill(victim?.pid ?? 0, 'SIGKILL');
  browser = await launchBrowser();
  cleanup.defer(() => browser.close());
  running = await startConsole(['console'], { COFA_ROOT: engine.root });
  cleanup.defer(async () => void (await running.stop()));
});
beforeEach(({ skip }) => skip(noBrowser !== undefined, noBrowser));
afterAll(() => cleanup.run());

const start = (index: number) => starts[index] as WhyStart;
/** The row of the waterfall that is chosen, in words. */
const chosen = (page: Page) => page.locator('.chosen').first();

it('a start: the same figures as in the terminal, a waterfall that keys move through, another start beside it', async () => {
  const { page, complaints } = await openPage(browser, running.at(`/start?mount=${start(0).mount}`));
  const summary = page.getByRole('region', { name: 'Summary' });
  await summary
    .getByText(formatUs(start(0).wall.us))
    .first()
    .waitFor();
  for (const { text } of start(0).faster) await summary.getByText(text.slice(0, 40)).first().waitFor();
  const parts = page.getByRole('region', { name: 'Parts' });
  const worked = start(0).wall.parts.find(({ part }) => part === 'program')?.cpuUs ?? 0;
  expect(worked).toBeGreaterThan(0);
  for (const { part, us, cpuUs } of start(0).wall.parts) {
    const row = parts
      .getByRole('row')
      .filter({ has: page.getByRole('rowheader', { name: part, exact: true }) });
    expect(await row.innerText()).toContain(formatUs(us));
    if (cpuUs !== undefined) expect(await row.innerText()).toContain(formatUs(cpuUs));
  }
  await page.getByRole('region', { name: 'Processors' }).getByText('front-end').waitFor();
  const programs = page.getByRole('region', { name: 'Programs' });
  const { seen = [] } = start(0).wall.programs ?? {};
  expect(seen.map(({ name }) => name)).toEqual(expect.arrayContaining(['sh', 'sleep']));
  for (const { name, pid, cpuUs } of seen) {
    const row = programs
      .getByRole('row')
      .filter({ has: page.getByRole('cell', { name: `${pid}`, exact: true }) });
    expect((await row.innerText()).split('\t')).toEqual([
      name,
      `${pid}`,
      expect.any(String),
      formatUs(cpuUs),
    ]);
  }
  // By keys alone: down to a program and the fetches, closer, and back.
  await page.getByRole('img', { name: /rows over/ }).focus();
  const first = await chosen(page).innerText();
  let isFetch = false;
  const passed: string[] = [first];
  for (let step = 0; step < 40 && !isFetch; step++) {
    await page.keyboard.press('ArrowDown');
    passed.push(await chosen(page).innerText());
    isFetch = /^fetch \d+ of layer/.test(passed.at(-1) ?? '');
  }
  expect(isFetch).toBe(true);
  expect(passed.filter((text) => /^program: .* sh and its children/.test(text))).toHaveLength(1);
  for (const { name, pid } of seen)
    expect(passed.filter((text) => text.startsWith(`program ${name}, process ${pid}: worked `))).toHaveLength(
      1,
    );
  expect(await chosen(page).innerText()).toMatch(/first-byte .*transfer .*reads waited for it/);
  await page.keyboard.press('+');
  await page.getByText(/rows 1 to/).waitFor();
  await page.keyboard.press('0');
  await page.keyboard.press('Home');
  await expect.poll(() => chosen(page).innerText()).toBe(first);
  await page.getByLabel('Beside').selectOption(start(1).mount);
  await page.getByRole('region', { name: 'Comparison' }).getByText('The second start took').waitFor();
  await expect.poll(() => page.getByRole('img', { name: /rows over/ }).count()).toBe(2);
  await expect.poll(() => page.url()).toContain(`with=${start(1).mount}`);
  expect(complaints).toEqual([]);
  await page.close();
});

it('what if: as the terminal says it, in an address, with the best policy; and what is wrong in words', async () => {
  const { mount } = start(0);
  const { page, complaints } = await openPage(browser, running.at(`/start?mount=${mount}`));
  const panel = page.getByRole('region', { name: 'What if' });
  await panel.getByLabel('Rate, bit/s').fill('5M');
  await panel.getByLabel('Round trip, ms').fill('80');
  await panel.getByLabel('Said before').selectOption('with a startup pack');
  await panel.getByLabel('Fetchers').fill('1');
  await panel.getByLabel('Blocks').selectOption('32 KiB');
  await panel.getByRole('button', { name: 'Run it again' }).click();
  const words = `replay what-if --mount ${mount} --rate 5M --rtt 80 --pack --workers 1 --block 32Ki --best --json`;
  const told = await engine.cli(words.split(' '));
  const { recorded, predicted, best = [] } = WhatIf.parse(JSON.parse(told.stdout));
  expect(predicted.outcome.us).toBeGreaterThan(recorded.measured.us);
  const row = panel
    .getByRole('row')
    .filter({ has: page.getByRole('rowheader', { name: 'start', exact: true }) });
  await row.waitFor();
  expect((await row.innerText()).split(/\t/)).toEqual(
    ['start', recorded.measured.us, recorded.model.us, predicted.outcome.us].map((one) =>
      typeof one === 'number' ? formatUs(one) : one,
    ),
  );
  await panel.getByText('5 Mbit/s, 80 ms round trip; a startup pack').waitFor();
  await expect.poll(() => page.url()).toMatch(/if=yes&rate=5M&rtt=80&ahead=pack&fetchers=1&block=32768/);
  await panel.getByRole('button', { name: 'Which policy is best' }).click();
  const ranking = panel.getByRole('table').filter({ hasText: 'policy' });
  await ranking.waitFor();
  const first = best[0]?.outcome.us ?? 0;
  expect(await ranking.getByRole('row').nth(1).innerText()).toContain(formatUs(first));
  await picture(page, 'what-if');
  expect(await axeFlaws(page, 'what if')).toEqual([]);
  expect(complaints).toEqual([]);
  await panel.getByLabel('Rate, bit/s').fill('fast');
  await panel.getByRole('button', { name: 'Run it again' }).click();
  await panel.getByText('"fast" is not a rate in bits a second, such as 100M').waitFor();
  await panel.getByRole('button', { name: 'Close' }).click();
  await panel.getByText('is not a rate').waitFor({ state: 'detached' });
  await page.close();
});

it('incidents: a process that was killed, told in sentences, and the log around it as a log of its own', async () => {
  const listed = await eventually('the black box has kept it', async () => {
    const { stdout } = await engine.cli(['incidents', 'ls', '--json']);
    return IncidentList.parse(JSON.parse(stdout)).incidents.find(({ kind }) => kind === 'crash');
  });
  const { page, complaints } = await openPage(browser, running.at('/incidents'));
  await page.getByRole('link', { name: listed.summary }).click();
  const one = page.getByRole('region', { name: `Incident ${listed.number}` });
  await one.waitFor();
  const { stdout } = await engine.cli(['incidents', 'show', listed.name, '--json']);
  for (const sentence of IncidentShown.parse(JSON.parse(stdout)).story)
    await one.getByText(sentence).waitFor();
  await picture(page, 'incidents');
  expect(await axeFlaws(page, 'incidents')).toEqual([]);
  await one.getByRole('link', { name: 'Open the log around it' }).click();
  await page.getByRole('heading', { name: 'process.ended' }).waitFor();
  await page.getByText(`of ${listed.events}`).first().waitFor();
  await page.getByText('This is the log around incident').waitFor();
  expect(await axeFlaws(page, 'the log of an incident')).toEqual([]);
  await page.getByRole('link', { name: 'Back to the node' }).click();
  await one.waitFor();
  expect(complaints).toEqual([]);
  await page.close();
});

it('the node: each start with what it took, as its own view says it, and what was to be expected', async () => {
  const { page } = await openPage(browser, running.at('/node'));
  const rows = page.getByRole('region', { name: 'Recent starts' }).getByRole('listitem');
  await rows.nth(3).waitFor();
  // The newest first.
  for (const [index, { wall }] of starts.toReversed().entries())
    expect(await rows.nth(index).locator('.number').innerText()).toBe(formatDuration(wall.us / 1000));
  await rows.nth(0).getByText('with a startup pack about').waitFor();
  await rows
    .nth(0)
    .getByText(/like it before took/)
    .waitFor();
  await picture(page, 'starts');
  await page.close();
});

it('layers: which blocks came, why, and which file lies in one; at the end and before', async () => {
  const { page, complaints } = await openPage(browser, running.at('/layers'));
  const map = page.getByRole('img', { name: /blocks of/ });
  await map.waitFor();
  // The map shows what the log has; a block is in it a moment after it has come.
  const present = async () => {
    const status = await engine.status();
    const said = /(\d+) blocks of .*: (\d+) present/.exec((await map.getAttribute('aria-label')) ?? '');
    expect(Number(said?.[1])).toBeGreaterThanOrEqual(Number(said?.[2]));
    return Number(said?.[2]) - (status.images[0]?.blocks.present ?? Number.NaN);
  };
  await expect.poll(present).toBe(0);
  // A block of a file that was read: by keys to one that a reader waited for.
  await map.focus();
  const isOfNoise = async () =>
    /data\/noise-0/.test(await page.getByRole('region', { name: /^Block \d+$/ }).innerText());
  const block = start(0).slowest.find(({ paths }) => paths.includes('/data/noise-0'))?.block ?? -1;
  expect(block).toBeGreaterThanOrEqual(0);
  await page.goto(running.at(`/layers?block=${block}`));
  await page.reload();
  await page.getByRole('heading', { name: `Block ${block}`, exact: true }).waitFor();
  await expect.poll(isOfNoise).toBe(true);
  await page
    .getByRole('region', { name: /^Block/ })
    .getByText('a reader waited for it')
    .waitFor();
  await page.getByLabel('Colours by').selectOption('who asked');
  await page.getByText('a reader', { exact: true }).waitFor();
  await picture(page, 'layers');
  const slider = page.getByRole('slider', { name: 'Moment' });
  expect(await slider.inputValue()).toBe(await slider.getAttribute('max'));
  // Before anything came all blocks are absent.
  await slider.focus();
  await page.keyboard.press('Home');
  await page.getByText('after 0 events').or(page.getByText('0.0 % of')).first().waitFor();
  await map.focus();
  await page.keyboard.press('ArrowRight');
  await page.getByRole('heading', { name: `Block ${block + 1}`, exact: true }).waitFor();
  expect(complaints.filter((one) => !one.includes('404'))).toEqual([]);
  await page.close();
});

const LOOKS: ReadonlyArray<readonly [string, Look]> = [
  ['light', { scheme: 'light' }],
  ['dark', { scheme: 'dark' }],
  ['a phone, dark', { scheme: 'dark', width: 360, height: 740 }],
  ['4K', { scheme: 'light', width: 3840, height: 2160 }],
];

it.each(LOOKS)('axe finds nothing, and nothing lies beside the screen: %s', async (name, look) => {
  const beside = `/start?mount=${start(0).mount}&with=${start(1).mount}`;
  const { page } = await openPage(browser, running.at(beside), look);
  await page.getByRole('region', { name: 'Comparison' }).waitFor();
  const check = async (view: string) => {
    expect(await axeFlaws(page, view)).toEqual([]);
    const width = await page.evaluate('document.documentElement.scrollWidth');
    expect(width).toBeLessThanOrEqual(look.width ?? 1280);
  };
  await check('start');
  if (name === 'dark') await picture(page, 'start-dark');
  await page.goto(running.at(`/start?mount=${start(0).mount}&if=yes&rate=5M&best=yes`));
  await page.getByRole('table').filter({ hasText: 'policy' }).waitFor();
  await check('what if');
  await page.getByRole('link', { name: 'Layers' }).click();
  await page.getByRole('img', { name: /blocks of/ }).waitFor();
  await check('layers');
  await page.getByRole('link', { name: 'Incidents' }).click();
  await page.getByRole('heading', { name: 'Incidents' }).first().waitFor();
  await check('incidents');
  await page.close();
});
