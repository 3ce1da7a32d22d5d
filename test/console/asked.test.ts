/** What views ask for: when, how often, and what is left where a server was away. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Refusal, SmallPage } from '../support/small-page.ts';

let page: SmallPage;
beforeEach(() => {
  page = new SmallPage();
});
afterEach(() => page.close());

interface Asking {
  useAsked: (
    path: string,
    query: Record<string, string | number> | undefined,
    options?: { grows: boolean },
  ) => { value: { n: number } | undefined; error: string | undefined; isPending: boolean };
}
interface Live {
  openLive: () => void;
}
const news = (count: number, generation = 7) => ({ generation, count, lastAt: 0, isLive: true });

/** A view that shows what it asked for. */
async function showAsked(options: { grows: boolean }): Promise<void> {
  const { useAsked } = await page.load<Asking>('asked.ts');
  const { openLive } = await page.load<Live>('live.ts');
  openLive();
  await page.show(() => {
    const { value, error } = useAsked('list', {}, options);
    return `${value?.n ?? 'nothing'} ${error ?? ''}`;
  });
}

describe('a document', () => {
  test('is asked for once, though the live stream tells of the log a moment later', async () => {
    let n = 0;
    page.answers.set('list', () => ({ n: ++n }));
    await showAsked({ grows: false });
    page.streams[0]?.open();
    page.streams[0]?.tell('log', news(5));
    await page.wait(5_000);
    expect(page.asked).toEqual(['list']);
    page.streams[0]?.tell('log', news(5, 8));
    await page.wait(100);
    expect(page.asked).toEqual(['list', 'list']);
  });

  test('that grows comes anew while events never cease', async () => {
    let n = 0;
    page.answers.set('list', () => ({ n: ++n }));
    await showAsked({ grows: true });
    for (let count = 0; count < 50; count++) {
      page.streams[0]?.tell('log', news(count));
      await page.wait(100);
    }
    expect(n).toBeGreaterThanOrEqual(5);
    expect(n).toBeLessThanOrEqual(8);
  });

  test('that could not be had comes when the server is back', async () => {
    const { openLive } = await page.load<Live>('live.ts');
    openLive();
    page.streams[0]?.tell('log', news(5));
    await showAsked({ grows: false });
    expect(page.text).toContain('Failed to fetch');
    for (const stream of page.streams) stream.fail(false);
    page.answers.set('list', () => ({ n: 3 }));
    page.streams[0]?.open();
    page.streams[0]?.tell('log', news(5));
    await page.wait(100);
    expect(page.text).toBe('3 ');
  });

  test('that grows waits for an answer that takes long, and shows it', async () => {
    let n = 0;
    page.answers.set('list', async () => {
      await page.sleep(3_000);
      return { n: ++n };
    });
    await showAsked({ grows: true });
    for (let count = 0; count < 100; count++) {
      page.streams[0]?.tell('log', news(count));
      await page.wait(100);
    }
    expect(page.text).toBe('2 ');
  });
});

describe('the live stream', () => {
  interface Reasons extends Live {
    silent: { value: string | undefined };
  }

  test('that is refused says why, and is tried again', async () => {
    const { openLive, silent } = await page.load<Reasons>('live.ts');
    openLive();
    page.answers.set('stream', () => {
      throw new Refusal(503, { code: 'busy', message: 'too many pages are open', hint: 'close one of them' });
    });
    page.streams[0]?.fail(true);
    await page.wait(10);
    expect(silent.value).toBe('too many pages are open (close one of them)');
    await page.wait(2_000);
    expect(page.streams).toHaveLength(2);
    page.streams[1]?.open();
    page.streams[1]?.tell('log', news(1));
    expect(silent.value).toBeUndefined();
  });

  test('is one, and none while the page is not seen', async () => {
    const { openLive } = await page.load<Live>('live.ts');
    openLive();
    const open = () => page.streams.filter(({ readyState }) => readyState !== 2).length;
    page.streams[0]?.open();
    page.setHidden(true);
    expect(open()).toBe(0);
    page.setHidden(false);
    expect(open()).toBe(1);
    // Neither does a try that was to come.
    page.streams[1]?.fail(true);
    page.setHidden(true);
    await page.wait(5_000);
    expect(open()).toBe(0);
    page.setHidden(false);
    page.setHidden(false);
    await page.wait(5_000);
    expect(open()).toBe(1);
  });
});
