/**
 * Views without a browser: A start and Layers keep the start, layer or block that the user chose when documents and events arrive; Node says
 * what is wrong.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Status } from '../../schemas/api.ts';
import type { WhyStart } from '../../schemas/replay.ts';
import { ROUTES } from '../../src/console/routes.ts';
import { Source } from '../../src/console/source.ts';
import { formatUs } from '../../src/replay/format.ts';
import { nodeOfStatus } from '../../src/replay/node-document.ts';
import type { ReplayLog } from '../../src/replay/replay-log.ts';
import { logOf, MOUNT, record, sampleRecords } from '../replay/sample-log.ts';
import { type Piece, SmallPage } from '../support/small-page.ts';

let page: SmallPage;
let log: ReplayLog;
let source: Source;
beforeEach(() => {
  page = new SmallPage();
  log = logOf(sampleRecords());
  source = new Source({
    loaded: { log, title: 'a log', checked: [], follow: undefined, close: async () => {} },
    generation: 1,
  });
  for (const { path, answer } of ROUTES)
    page.answers.set(path, (query) => answer(source, query, { signal: new AbortController().signal }));
});
afterEach(() => page.close());

const tell = (count = log.count) => {
  const news = { generation: 1, count, lastAt: log.timeOf(log.count), isLive: true };
  for (const stream of page.streams) stream.tell('log', news);
};

async function show(name: string, view: string, hash: string, isTold = true): Promise<void> {
  const { openLive } = await page.load<{ openLive: () => void }>('live.ts');
  openLive();
  page.streams[0]?.open();
  if (isTold) tell();
  page.go(hash);
  await page.wait(0);
  const file = await page.load<Record<string, { Body: (props: object) => unknown }>>(`views/${name}.tsx`);
  const { place } = await page.load<{ place: { value: { words: URLSearchParams } } }>('place.ts');
  await page.show(() => file[view]?.Body({ words: place.value.words }) as never);
  await page.wait(500);
}

const named = (label: string) => (piece: Piece) => piece.attributes['aria-label']?.startsWith(label) === true;
const canvas = (title: string) => page.find((piece) => piece.localName === 'canvas' && named(title)(piece));
/** What stands below each waterfall. */
const below = (): string[] =>
  [...page.body.all()]
    .filter(({ localName }) => localName === 'figure')
    .map(({ textContent }) => textContent);

describe('a start', () => {
  interface Documents {
    starts: Array<{ mount: string; ref: string; state: string }>;
    start: { why: { mount: string; ref: string }; fall: { us: number; reads: object[] } };
  }
  let starts: Documents['starts'];

  beforeEach(async () => {
    const ask = async <N extends 'starts' | 'start'>(path: N, query: Record<string, string>) =>
      (await page.answers.get(path)?.(query)) as never;
    ({ starts } = (await ask('starts', {})) as Documents);
    const one: Documents['start'] = await ask('start', { mount: MOUNT });
    // Another one of the same, which took three times as long, with more reads than are seen at once.
    const two = structuredClone(one);
    two.why.mount = 'm2';
    two.why.ref = 'registry.example/team/other:1';
    two.fall.us *= 3;
    two.fall.reads = Array.from({ length: 400 }, () => structuredClone(one.fall.reads[0] ?? {}));
    page.answers.set('starts', () => ({ starts: [...starts] }));
    page.answers.set('start', ({ mount }) => (mount === 'm2' ? two : one));
    page.answers.set('compare', () => ({ text: [], parts: [] }));
  });
  const another = () => {
    const [first] = starts;
    if (first !== undefined) starts.unshift({ ...first, mount: 'm2', ref: 'registry.example/team/other:1' });
  };

  test('that is looked at stays when another one comes, and the address names it', async () => {
    await show('start', 'startView', '#/start');
    expect(below()[0]).toContain('registry.example/team/app:1');
    another();
    tell(log.count + 5);
    await page.wait(3_000);
    expect(page.text).toContain('team/other:1');
    expect(below()[0]).toContain('registry.example/team/app:1');
    expect(page.hash).toBe(`#/start?mount=${MOUNT}`);
  });

  test('says what the program worked, as the terminal does', async () => {
    const answer = page.answers.get('start');
    page.answers.set('start', async (query) => {
      const told = structuredClone((await answer?.(query)) as { why: WhyStart });
      const [first] = told.why.wall.parts;
      if (first !== undefined) first.cpuUs = 1_234_000;
      return told;
    });
    await show('start', 'startView', `#/start?mount=${MOUNT}`);
    const parts = page.find(named('Parts'))?.textContent;
    expect(parts).toContain('processor time');
    expect(parts).toContain(formatUs(1_234_000));
  });

  test('is run again with blocks of another size, where the address says so; a size that is none is refused', async () => {
    page.answers.set('what-if', () => new Promise(() => {}));
    await show('start', 'startView', `#/start?mount=${MOUNT}&if=yes&block=32768`);
    expect(page.asked.find((one) => one.startsWith('what-if'))).toContain('block=32768');
    const answer = async (block: string) =>
      await ROUTES.find(({ path }) => path === 'what-if')?.answer(
        source,
        { mount: MOUNT, block },
        { signal: new AbortController().signal },
      );
    await expect(answer('5000')).rejects.toThrow('must be a power of two');
    await expect(answer('8388608')).rejects.toThrow('4194304');
  });

  test('beside a longer one is on the same time scale', async () => {
    another();
    await show('start', 'startView', `#/start?mount=${MOUNT}`);
    page.go(`#/start?mount=${MOUNT}&with=m2`);
    await page.wait(500);
    const scales = below().map((text) => /of \d+; (.+) from \+/.exec(text)?.[1]);
    expect(scales).toHaveLength(2);
    expect(new Set(scales).size).toBe(1);
  });

  test('is shown from its first row on, however far down the one before was', async () => {
    another();
    await show('start', 'startView', '#/start?mount=m2');
    page.send(canvas('registry.example/team/other:1'), 'keydown', { key: 'End', stopPropagation: () => {} });
    await page.wait(100);
    expect(below()[0]).not.toContain('rows 1 to');
    page.go(`#/start?mount=${MOUNT}`);
    await page.wait(500);
    expect(below()[0]).toContain('rows 1 to');
  });
});

describe('layers', () => {
  const layerOf = (digit: string) =>
    [...log.stateAt(log.count).layers.keys()].find((id) => log.diffIdOf(id).includes(digit.repeat(64)));

  test('the one that is looked at stays when a larger one comes', async () => {
    await show('layers', 'layersView', '#/layers');
    const first = /sha256[^&]*/.exec(page.hash)?.[0];
    const answer = page.answers.get('layers');
    page.answers.set('layers', async (query) => {
      const list = (await answer?.(query)) as { layers: Array<{ size: number; layer: string }> };
      const [one] = list.layers;
      if (one !== undefined)
        list.layers.unshift({ ...one, layer: `sha256:${'9'.repeat(64)}`, size: one.size * 2 });
      return list;
    });
    tell(log.count + 5);
    await page.wait(3_000);
    expect(page.hash).toContain(first);
    expect(page.asked.join()).not.toContain('9999');
  });

  test('the map comes while events never cease, though an answer takes longer than to the next one', async () => {
    await show('layers', 'layersView', '#/layers');
    const answer = page.answers.get('blocks');
    page.answers.set('blocks', async (query) => {
      await page.sleep(350);
      return await answer?.(query);
    });
    const before = page.asked.length;
    for (let count = 1; count < 50; count++) {
      log.append(record(1_000 + count, 9_000 + count, 'engine', 'main', { type: 'engine.measured' }));
      tell();
      await page.wait(100);
    }
    await page.wait(1_000);
    expect(page.abandoned).toEqual([]);
    const asked = page.asked.slice(before).filter((one) => one.startsWith('blocks'));
    expect(asked.length).toBeGreaterThanOrEqual(10);
    expect(asked.at(-1)).toContain(`at=${log.count}`);
  });

  test('no moment is asked for but the one of the address', async () => {
    const layer = layerOf('1') ?? '';
    const address = `#/layers?layer=${encodeURIComponent(layer)}&at=${log.seqOf(12)}`;
    await show('layers', 'layersView', address, false);
    tell();
    await page.wait(500);
    const positions = page.asked.flatMap((one) => /^layer\?.*at=(\d+)/.exec(one)?.[1] ?? []);
    expect(new Set(positions)).toEqual(new Set(['12']));
  });

  test('a key that is held moves on, and the address follows a moment later', async () => {
    await show('layers', 'layersView', '#/layers');
    for (let count = 0; count < 150; count++) {
      const map = page.find(({ localName }) => localName === 'canvas');
      page.send(map, 'keydown', { key: 'ArrowRight', stopPropagation: () => {} });
      await page.wait(30);
    }
    expect(page.text).toContain('Block 150');
    await page.wait(500);
    expect(page.hash).toContain('block=150');
    expect(page.noted.length).toBeLessThan(20);
  });

  test('an address that is opened says all of it', async () => {
    const layer = encodeURIComponent(layerOf('1') ?? '');
    await show('layers', 'layersView', `#/layers?layer=${layer}`);
    page.go(`#/layers?layer=${layer}&at=${log.seqOf(12)}&block=3&by=when`);
    await page.wait(500);
    expect(page.text).toContain('after 12 events');
    expect(page.text).toContain('Block 3');
    expect(page.text).toContain('first tenth');
  });

  test('an address names the same moment in a log whose beginning was removed', async () => {
    const layer = encodeURIComponent(layerOf('1') ?? '');
    await show('layers', 'layersView', `#/layers?layer=${layer}`);
    const range = page.find(({ localName }) => localName === 'input');
    page.send(range, 'input', { currentTarget: { value: '12' } });
    await page.wait(1_000);
    expect(page.text).toContain('after 12 events');
    const moment = new Date(log.timeOf(12)).toISOString();
    expect(page.text).toContain(moment);
    const address = page.hash;
    expect(address).toBe(`#/layers?layer=${layer}&at=${log.seqOf(12)}`);

    log = logOf(sampleRecords().slice(1));
    source = new Source({
      loaded: { log, title: 'a log', checked: [], follow: undefined, close: async () => {} },
      generation: 2,
    });
    page.go('#/layers');
    await page.wait(500);
    for (const stream of page.streams)
      stream.tell('log', { generation: 2, count: log.count, lastAt: log.timeOf(log.count), isLive: true });
    page.go(address);
    await page.wait(2_000);
    expect(page.text).toContain(`after 11 events, ${moment}`);
    expect(page.hash).toBe(address);
  });

  test('an address may say a moment in other words; one that is none is said so', async () => {
    const layer = encodeURIComponent(layerOf('1') ?? '');
    await show('layers', 'layersView', `#/layers?layer=${layer}&at=start`);
    expect(page.text).toContain('after 0 events');
    page.go(`#/layers?layer=${layer}&at=yesterday`);
    await page.wait(500);
    expect(page.text).toContain('"yesterday" is no moment');
  });
});

describe('the node', () => {
  const status = (more: Partial<Status> = {}): Status => ({
    node: 'node-1',
    version: '0.2.0',
    protocol: 1,
    root: '/var/lib/cofa',
    nats: 'nats://127.0.0.1:4222',
    transport: 'kernel',
    startedAt: '2026-11-24T12:00:00.000Z',
    ready: true,
    degraded: [],
    mounts: [],
    images: [],
    cache: {
      usedBytes: 0,
      metadataBytes: 0,
      limitBytes: null,
      freeBytes: 1e9,
      reserveBytes: 0,
      evictedBytes: 0,
      prefetch: true,
    },
    processes: [],
    ...more,
  });
  const shown = async (more: Partial<Status>): Promise<string> => {
    await show('node', 'nodeView', '#/node');
    const told = nodeOfStatus(status(more), log, '2026-11-24T12:00:10.000Z');
    page.streams[0]?.tell('node', JSON.parse(JSON.stringify(told)) as object);
    await page.wait(100);
    return page.find(named('Health'))?.textContent ?? '';
  };

  test('that is well says so', async () => {
    expect(await shown({})).toContain('All is well: nothing is mounted.');
  });

  test('says what is degraded and why, in the words of status, and which process is not there', async () => {
    const text = await shown({
      degraded: ['registry.example does not answer: blocks that are not here cannot be fetched'],
      processes: [
        {
          role: 'fetcher',
          name: 'fetcher-1',
          pid: 0,
          state: 'failed',
          restarts: 5,
          lastEnd: { at: '2026-11-24T12:00:09.000Z', reason: 'killed by SIGKILL' },
        },
      ],
    });
    expect(text).toContain('Something is wrong; nothing is mounted.');
    expect(text).toContain('registry.example does not answer: blocks that are not here cannot be fetched');
    expect(text).toContain('fetcher-1 is failed: killed by SIGKILL');
    expect(text).not.toContain('All is well');
  });

  test('without a front end says what that means for reads, and still why', async () => {
    const text = await shown({ ready: false, degraded: ['no front end serves'] });
    expect(text).toContain('No front end serves: reads of what has not arrived wait.');
    expect(text).toContain('no front end serves');
  });
});
