/** The live stream sends a slow page the newest news when it reads again, and each log has a generation of its own. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Source } from '../../src/console/source.ts';
import { Streams } from '../../src/console/stream.ts';
import { logOf, sampleRecords } from '../replay/sample-log.ts';

beforeEach(() => {
  vi.useFakeTimers({ now: 1_700_000_000_000 });
});
afterEach(() => {
  vi.useRealTimers();
});

test('a page that took too little hears the newest news when it takes again', async () => {
  let grow = () => {};
  const log = { count: 0, timeOf: () => 0 };
  const source = {
    log,
    generation: 1,
    isLive: true,
    isOfEngine: false,
    onGrowth: (callback: () => void) => {
      grow = callback;
      return () => {};
    },
  } as unknown as Source;
  const streams = new Streams(source);
  const stop = new AbortController();
  const reader = streams.open(stop.signal)?.getReader();
  // More than may wait for a page.
  for (log.count = 1; log.count < 20_000; log.count++) {
    grow();
    vi.advanceTimersByTime(100);
  }
  const decoder = new TextDecoder();
  const last = `"count":${log.count},`;
  let heard = '';
  // It would wait for ever where nothing more is told.
  for (let reads = 0; reads < 25_000 && !heard.includes(last); reads++) {
    const read = reader?.read();
    await vi.advanceTimersByTimeAsync(0);
    const next = await Promise.race([read, Promise.resolve(undefined)]);
    heard = decoder.decode(next?.value);
  }
  expect(heard).toContain(last);
  streams.close();
});

test('a console that was started again tells of another log', () => {
  const sourceNow = () => {
    const loaded = { log: logOf(sampleRecords()), title: 'a log', checked: [], follow: undefined };
    return new Source({ loaded: { ...loaded, close: async () => {} } });
  };
  const before = sourceNow();
  vi.advanceTimersByTime(10_000);
  expect(sourceNow().generation).toBeGreaterThan(before.generation);
});
