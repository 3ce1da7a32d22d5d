/**
 * The view Log without a browser: what one has done is not undone by answers that come late, by a log that is read anew, or by a
 * server that was away.
 */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { ROUTES } from '../../src/console/routes.ts';
import { Source } from '../../src/console/source.ts';
import { ReplayLog } from '../../src/replay/replay-log.ts';
import { logOf, MOUNT, record, sampleRecords } from '../replay/sample-log.ts';
import { SmallPage } from '../support/small-page.ts';

let page: SmallPage;
let source: Source;
let log: ReplayLog;
let isLive: boolean;
/** ms until an answer, by path. */
let delays: Record<string, number>;

const sourceOf = (generation: number) => {
  log = logOf(sampleRecords());
  const follow = isLive ? async function* () {} : undefined;
  source = new Source({
    loaded: { log, title: 'a log', checked: [], follow, close: async () => {} },
    generation,
  });
};
const tell = () => {
  const news = { generation: source.generation, count: log.count, lastAt: log.timeOf(log.count), isLive };
  for (const stream of page.streams) stream.tell('log', news);
};

const setUp = (): void => {
  page = new SmallPage();
  isLive = false;
  delays = {};
  sourceOf(1);
  for (const { path, answer } of ROUTES)
    page.answers.set(path, async (query) => {
      if ((delays[path] ?? 0) > 0) await page.sleep(delays[path] ?? 0);
      return await answer(source, query, { signal: new AbortController().signal });
    });
};
beforeEach(setUp);
afterEach(() => page.close());

async function show(hash: string): Promise<void> {
  const { openLive } = await page.load<{ openLive: () => void }>('live.ts');
  openLive();
  page.streams[0]?.open();
  tell();
  page.go(hash);
  await page.wait(0);
  const { logView } = await page.load<{ logView: { Body: (props: { words: URLSearchParams }) => unknown } }>(
    'views/log.tsx',
  );
  const { place } = await page.load<{ place: { value: { words: URLSearchParams } } }>('place.ts');
  await page.show(() => logView.Body({ words: place.value.words }) as never);
  await page.wait(1_000);
}

const where = () => /event (\d+) of/.exec(page.text)?.[1];
const isMarked = () =>
  page.find((piece) => piece.attributes['aria-label'] === 'Mark this moment')?.attributes['aria-pressed'];

describe('what one does', () => {
  test('while the moment of the address is on its way counts', async () => {
    delays = { 'log/moment': 2_000 };
    await show('#/log?at=15');
    page.press('g');
    page.press('l');
    page.press('l');
    await page.wait(5_000);
    expect(where()).toBe('2');
  });

  test('stays when the log is read anew: the place, the mark, the breakpoints', async () => {
    await show('#/log?at=start');
    expect(where()).toBe('0');
    for (let step = 0; step < 4; step++) page.press('l');
    page.press('m');
    for (let step = 0; step < 3; step++) page.press('l');
    const input = page.find((piece) => piece.attributes['aria-label'] === 'Set a breakpoint');
    page.send(input, 'input', { currentTarget: { value: 'event mount.failed' } });
    await page.wait(100);
    page.send(input?.parentNode ?? undefined, 'submit');
    await page.wait(1_000);
    expect([where(), isMarked()]).toEqual(['7', 'true']);
    expect(page.text).toContain('event mount.failed✕');
    sourceOf(2);
    tell();
    await page.wait(1_000);
    expect([where(), isMarked()]).toEqual(['7', 'true']);
    expect(page.text).toContain('event mount.failed✕');
  });

  test('the last of several answers is the one that was asked for last', async () => {
    await show('#/log?at=start');
    page.press('m');
    page.press('l');
    delays = { 'log/difference': 1_000 };
    page.press('d');
    await page.wait(10);
    delays = {};
    page.press('l');
    page.press('l');
    page.press('d');
    await page.wait(5_000);
    expect(page.text).toContain(`From ${log.seqOf(0)} to ${log.seqOf(3)}`);
    // And what was closed stays closed.
    delays = { 'log/difference': 1_000 };
    page.press('d');
    await page.wait(10);
    page.press('Escape');
    await page.wait(5_000);
    expect(page.text).not.toContain('From ');
  });
});

test('a mark of an address that is no moment sets none', async () => {
  await show('#/log?at=start&mark=nonsense');
  expect(isMarked()).toBe('false');
});

test('a log that could not be had is read when its server is there again', async () => {
  const answer = page.answers.get('log');
  page.answers.delete('log');
  await show('#/log');
  expect(page.text).toContain('Failed to fetch');
  page.answers.set('log', answer ?? (() => ({})));
  await page.wait(5_000);
  expect(where()).toBe('1');
});

test('the event beside the list is the one that is lit, though the server was away for a moment', async () => {
  await show('#/log?at=start');
  const answer = page.answers.get('log/event');
  page.answers.delete('log/event');
  vi.spyOn(console, 'warn').mockReturnValue();
  page.press('l');
  page.press('l');
  await page.wait(1_000);
  for (const stream of page.streams) stream.fail(false);
  page.answers.set('log/event', answer ?? (() => ({})));
  page.streams[0]?.open();
  tell();
  await page.wait(1_000);
  expect(page.find(({ localName }) => localName === 'pre')?.textContent).toContain('registry.example');
});

test('the clock is that of the event, also where its columns come later', async () => {
  isLive = true;
  sourceOf(1);
  delays = { 'log/events': 3_000 };
  await show('#/log');
  page.press('h');
  await page.wait(100);
  await page.wait(5_000);
  const at = new Date(log.timeOf(log.count - 1)).toISOString();
  expect(page.text).toContain(
    `event ${log.count - 1} of ${log.count} · sequence ${log.seqOf(log.count - 1)} · ${at}`,
  );
});

test('a place on the time line is the one that was meant, also where its events come later', async () => {
  await show('#/log?at=start');
  const line = () => page.find((piece) => piece.attributes['role'] === 'slider');
  const drag = (clientX: number) => page.send(line(), 'pointerdown', { buttons: 1, pointerId: 1, clientX });
  drag(400);
  await page.wait(1_000);
  const [meant, clock] = [where(), /\d{4}-\d\d-\d\dT[\d:.]+Z/.exec(page.text)?.[0]];
  expect(Number(meant)).toBeGreaterThan(3);
  await page.close();
  setUp();
  delays = { 'log/events': 3_000 };
  await show('#/log?at=start');
  drag(400);
  await page.wait(5_000);
  expect(where()).toBe(meant);
  expect(page.text).toContain(clock);
  // What one does since counts.
  await page.close();
  setUp();
  delays = { 'log/events': 3_000 };
  await show('#/log?at=start');
  drag(400);
  page.press('g');
  await page.wait(5_000);
  expect(where()).toBe('0');
});

test('following stops at a breakpoint that is the newest event', async () => {
  isLive = true;
  sourceOf(1);
  await show('#/log?break=event mount.failed');
  page.press('f');
  log.append(record(500, 6_000, 'mount', MOUNT, { type: 'mount.failed', code: 'x', message: 'y' }));
  tell();
  await page.wait(1_000);
  expect(page.text).toContain('breakpoint: event mount.failed');
  log.append(record(501, 7_000, 'mount', MOUNT, { type: 'mount.mounted' }));
  tell();
  await page.wait(1_000);
  expect(where()).toBe(String(log.count - 1));
});

test('following stops at no breakpoint that came before it', async () => {
  isLive = true;
  sourceOf(1);
  await show('#/log?break=event mount.failed');
  log.append(record(500, 6_000, 'mount', MOUNT, { type: 'mount.failed', code: 'x', message: 'y' }));
  tell();
  await page.wait(1_000);
  page.press('f');
  log.append(record(501, 7_000, 'mount', MOUNT, { type: 'mount.mounted' }));
  tell();
  await page.wait(1_000);
  expect(where()).toBe(String(log.count));
});

test('of a log without events the page says so, and no time', async () => {
  log = new ReplayLog({ node: 'node-1' });
  source = new Source({
    loaded: { log, title: 'nothing', checked: [], follow: undefined, close: async () => {} },
    generation: 1,
  });
  await show('#/log');
  expect(page.text).toContain('the log has no events');
  expect(page.text).not.toContain('reading');
  expect(page.text).not.toContain('1970');
  page.press('l');
  page.press('G');
  page.press(' ');
  await page.wait(1_000);
  expect(page.text).toContain('event 0 of 0');
  for (const path of ['node', 'starts', 'layers', 'incidents']) await page.answers.get(path)?.({});
});

test('a space opens what has the focus, and does not play', async () => {
  await show('#/log?at=12');
  const summary = page.find(({ localName }) => localName === 'summary');
  expect(page.press(' ', summary)).toBe(true);
  expect(page.press('l', summary)).toBe(false);
  expect(page.press(' ')).toBe(false);
});

test('an event whose time is none is shown, at the time of the one before', async () => {
  for (const at of [1e300, -1e300, 9e15])
    log.append(
      record(500 + log.count, at, 'mount', MOUNT, { type: 'mount.failed', code: 'x', message: 'y' }),
    );
  log.append(record(600, 9_000, 'mount', MOUNT, { type: 'mount.mounted' }));
  await show('#/log?at=end');
  expect(where()).toBe(String(log.count));
  for (let step = 0; step < 3; step++) {
    page.press('h');
    await page.wait(500);
    expect(page.find(({ localName }) => localName === 'pre')?.textContent).toContain('"message": "y"');
  }
});

test('a page that has played to the end does nothing more', async () => {
  await show('#/log?at=start');
  page.press('+');
  page.press(' ');
  await page.wait(20_000);
  expect(page.text).toContain('the end');
  expect(vi.getTimerCount()).toBe(0);
});
