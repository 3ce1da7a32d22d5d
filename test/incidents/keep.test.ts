/** The keeper of incidents over a log in memory: broken off anywhere, it keeps the same files in the end. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { appendFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { encode } from '../../src/bus/connection.ts';
import { checkIncidents } from '../../src/cli/doctor-incidents.ts';
import { type Budget, IncidentFolder } from '../../src/incidents/folder.ts';
import { keepIncidents } from '../../src/incidents/keep.ts';
import { placeFile } from '../../src/incidents/place.ts';
import type { LiveLog } from '../../src/replay/live-log.ts';
import { loadFile } from '../../src/replay/load.ts';
import type { RawRecord } from '../../src/replay/record.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

const T0 = Date.UTC(2026, 11, 1, 4, 12, 26);
const WIDE: Budget = { bytes: 64 << 20, count: 100 };

/** A log that ends after so many hours, with a crash every ten minutes and a quiet event every second. */
function crashes(hours: number, begin = T0): RawRecord[] {
  const records: RawRecord[] = [];
  const add = (seconds: number, event: object) =>
    records.push({
      seq: records.length + 1,
      subject: 'cofa.v1.node-1.event.engine.main',
      bytes: encode({ v: 1, at: begin + seconds * 1000, ...event }),
    });
  add(0, { type: 'engine.started', pid: 1, version: '0', transport: 'kernel' });
  for (let second = 1; second < hours * 3600; second++)
    if (second % 600 === 0)
      add(second, {
        type: 'process.ended',
        role: 'fetcher',
        name: `fetcher-${second / 600}`,
        pid: second,
        signal: 'SIGKILL',
      });
    else add(second, { type: 'process.started', role: 'fetcher', name: 'fetcher-0', pid: second });
  return records;
}

/** `breakAt`: reading breaks off after so many records in all. */
function liveOf(records: readonly RawRecord[], breakAt = Number.POSITIVE_INFINITY): LiveLog {
  let read = 0;
  return {
    node: 'node-1',
    running: true,
    first: 1,
    last: records.at(-1)?.seq,
    beginning: { removed: 0, from: undefined, snapshots: [] },
    async *records({ fromSeq = 1 } = {}) {
      for (const record of records.slice(fromSeq - 1)) {
        if (++read > breakAt) throw new Error('killed');
        yield record;
      }
    },
    close: async () => {},
  };
}

const keep = async (dir: string, live: LiveLog, budget = WIDE, now = T0 + 1e9) =>
  await keepIncidents({ live, dir, budget, slowMs: 10_000, cofa: '1', now: () => now });

const filesOf = (dir: string) =>
  Object.fromEntries(
    readdirSync(dir)
      .filter((name) => name !== 'place.json')
      .sort()
      .map((name) => [name, readFileSync(join(dir, name), 'latin1')]),
  );

const folderFor = async (name: string) => join(await cleanup.tempDir(name), 'incidents');

describe('what is kept', () => {
  test('each incident with the stretch around it, under a name that follows from the log', async () => {
    const dir = await folderFor('keep');
    const records = crashes(1);
    expect(await keep(dir, liveOf(records))).toEqual({ kept: expect.any(Array), lost: 0 });
    const { incidents, problems } = await new IncidentFolder(dir).list();
    expect(problems).toEqual([]);
    expect(incidents.map(({ name }) => name)).toEqual(
      [600, 1200, 1800, 2400, 3000].map(
        (second) =>
          `${new Date(T0 + second * 1000).toISOString().slice(0, 19).replaceAll(/[-:]/g, '')}Z-${second + 1}`,
      ),
    );
    const [first] = incidents;
    const loaded = await loadFile(first?.path as string);
    // 30 s before, 5 s after.
    expect([loaded.log.seqOf(1), loaded.log.seqOf(loaded.log.count)]).toEqual([571, 606]);
    expect(loaded.log.notes).toEqual([]);
    await loaded.close();
  });

  test('a second look finds nothing new, and what a user removed stays removed', async () => {
    const dir = await folderFor('again');
    const records = crashes(1);
    await keep(dir, liveOf(records.slice(0, 2_410)));
    const folder = new IncidentFolder(dir);
    const { incidents } = await folder.list();
    // The last one was kept when it was due, nine events behind it; the log says no more of it.
    expect(incidents).toHaveLength(4);
    for (const { name } of incidents) await folder.remove(name);
    expect(await keep(dir, liveOf(records))).toMatchObject({
      kept: [{ name: expect.stringMatching(/-3001$/) }],
    });
    expect((await folder.list()).incidents).toHaveLength(1);
  });

  test('the last one waits until it is quiet', async () => {
    const dir = await folderFor('wait');
    const records = crashes(1).slice(0, 603);
    expect(await keep(dir, liveOf(records), WIDE, T0 + 604_000)).toEqual({
      kept: [],
      lost: 0,
      againMs: 8_000,
    });
    expect(await keep(dir, liveOf(records), WIDE, T0 + 612_500)).toMatchObject({
      kept: [{ name: expect.stringMatching(/-601$/), kind: 'crash' }],
    });
    // It has grown since: the same incident, longer.
    const more = crashes(1).slice(0, 700);
    expect(await keep(dir, liveOf(more))).toMatchObject({
      kept: [{ name: expect.stringMatching(/-601$/), kind: 'crash' }],
    });
    expect((await new IncidentFolder(dir).list()).incidents[0]?.facts.log?.events).toBe(36);
  });

  test('the oldest ones go where there are too many, or too many bytes', async () => {
    const dir = await folderFor('budget');
    const { kept } = await keep(dir, liveOf(crashes(2)), { bytes: 64 << 20, count: 3 });
    expect(kept).toHaveLength(3);
    const folder = new IncidentFolder(dir);
    const before = (await folder.list()).incidents;
    expect(before.map(({ name }) => name)).toEqual(kept.map(({ name }) => name));
    expect(await folder.keepWithin({ bytes: (before[2]?.bytes ?? 0) + 10, count: 3 })).toEqual(
      kept.slice(0, 2).map(({ name }) => name),
    );
  });
});

test('cofa doctor names those of the last day', async () => {
  const dir = await folderFor('doctor');
  await keep(dir, liveOf(crashes(1)));
  const last = T0 + 3_000_000;
  expect(await checkIncidents(dirname(dir), last + 60_000)).toMatchObject({
    state: 'warn',
    found: '5 in the last 24 hours, the last 1 min ago: fetcher-5: killed by SIGKILL',
    fix: 'cofa incidents show',
  });
  expect(await checkIncidents(dirname(dir), last + 86_400_000)).toMatchObject({ state: 'ok' });
  expect(await checkIncidents(join(dir, 'no-root'), last)).toMatchObject({ state: 'ok' });
});

describe('a keeper that is killed', () => {
  test('anywhere, any number of times: the same files in the end', async () => {
    const records = crashes(1);
    const whole = await folderFor('whole');
    await keep(whole, liveOf(records));
    for (const step of [1_700, 2_900, 3_650]) {
      const dir = await folderFor('broken');
      for (let breakAt = 10; ; breakAt += step) {
        const end = await keep(dir, liveOf(records, breakAt)).catch((error: Error) => error.message);
        if (end !== 'killed') break;
        // What a kill leaves of a file that was being written.
        await writeFile(join(dir, 'x.cofa-log.1.draft'), 'half');
      }
      expect(filesOf(dir)).toEqual(filesOf(whole));
    }
  });

  test('between the stretch and its facts: it is written again', async () => {
    const records = crashes(1);
    const dir = await folderFor('between');
    await keep(dir, liveOf(records));
    const before = filesOf(dir);
    const [facts] = Object.keys(before).filter((name) => name.endsWith('.json'));
    await rm(join(dir, facts as string));
    await rm(placeFile(dir));
    await keep(dir, liveOf(records));
    expect(filesOf(dir)).toEqual(before);
  });
});

describe('a place that cannot be used', () => {
  test.each([
    ['cut off', (text: string) => text.slice(0, 200)],
    ['of another shape', () => '{"v":1}'],
    ['of another log', (text: string) => text.replace(/"at":\d+/, '"at":1')],
    ['behind the end of the log', (text: string) => text.replace(/"seq":\d+/, '"seq":99999')],
  ])('%s: the log is looked at from its beginning, and nothing is doubled', async (_, spoil) => {
    const records = crashes(1);
    const dir = await folderFor('place');
    await keep(dir, liveOf(records));
    const before = filesOf(dir);
    await writeFile(placeFile(dir), spoil(readFileSync(placeFile(dir), 'utf8')));
    await keep(dir, liveOf(records));
    expect(filesOf(dir)).toEqual(before);
  });

  test('a log that began anew has incidents of its own, beside those of the old one', async () => {
    const dir = await folderFor('anew');
    await keep(dir, liveOf(crashes(1)));
    await keep(dir, liveOf(crashes(1, T0 + 86_400_000)));
    expect((await new IncidentFolder(dir).list()).incidents).toHaveLength(10);
  });

  test('damaged facts are told of, and can be removed', async () => {
    const dir = await folderFor('damaged');
    await keep(dir, liveOf(crashes(1)));
    const folder = new IncidentFolder(dir);
    const [{ name } = { name: '' }] = (await folder.list()).incidents;
    await appendFile(folder.factsPath(name), 'x');
    const { incidents, problems } = await folder.list();
    expect(incidents).toHaveLength(4);
    expect(problems).toEqual([`${folder.factsPath(name)} does not tell of an incident`]);
    await folder.remove(name);
    expect(existsSync(folder.logPath(name))).toBe(false);
  });
});
