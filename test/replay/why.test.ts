import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { readsInFlight, neighbourRead } from '../../src/replay/in-flight.ts';
import type { TracedJob, TracedRead } from '../../src/replay/trace.ts';
import { explain, explainRead, findRead, slowestRead, stepsOf } from '../../src/replay/why-read.ts';
import { findMount } from '../../src/replay/start-phases.ts';
import { explainStart } from '../../src/replay/why-start.ts';
import { renderWhyRead, renderWhyStart } from '../../src/replay/why-text.ts';
import { LAYER_A, logOf, MOUNT, sampleRecords, START } from './sample-log.ts';

const LAYER = `sha256:${LAYER_A}`;
const read = (at: number, us: number, jobs: number[]): TracedRead => ({
  id: '1.0',
  layer: LAYER,
  at: START + at,
  us,
  block: 0,
  blocks: 1,
  errno: 0,
  jobs,
});
const job = (number: number, queuedAt: number, parts: Partial<TracedJob>): TracedJob => ({
  layer: LAYER,
  job: number,
  class: 'demand',
  span: 0,
  spans: 1,
  runs: undefined,
  fetcher: 'fetcher-0',
  queuedAt: START + queuedAt,
  sentUs: 0,
  lookupUs: 0,
  firstByteUs: 0,
  fetchUs: 0,
  decodeUs: 0,
  writeUs: 0,
  totalUs: 0,
  bytes: 1,
  error: undefined,
  ...parts,
});
const text = (one: TracedRead, jobs: TracedJob[]) =>
  stepsOf(one, jobs)
    .map(({ step, us }) => `${step} ${us}`)
    .join(', ');

describe('why a read took so long', () => {
  const whole = {
    sentUs: 1_000,
    firstByteUs: 5_000,
    fetchUs: 9_000,
    decodeUs: 3_000,
    writeUs: 1_000,
    totalUs: 15_000,
  };

  test('a fetch of its own: step by step, and what is left of it', () =>
    expect(text(read(0, 16_000, [1]), [job(1, 0, whole)])).toBe(
      'queue 1000, first-byte 5000, transfer 4000, verify 3000, write 1000, other 1000, reply 1000',
    ));

  test('a fetch that was under way already: only what was left of it', () =>
    expect(text(read(8, 8_000, [1]), [job(1, 0, whole)])).toBe(
      'transfer 2000, verify 3000, write 1000, other 1000, reply 1000',
    ));

  test('an answer before the fetch has ended: only up to there', () =>
    expect(text(read(0, 8_000, [1]), [job(1, 0, whole)])).toBe('queue 1000, first-byte 5000, transfer 2000'));

  test('a second fetch after the first had failed, with a pause between them', () =>
    expect(
      text(read(0, 30_000, [1, 2]), [
        job(1, 0, { sentUs: 0, firstByteUs: 5_000, fetchUs: 5_000, totalUs: 5_000, error: 'unavailable: x' }),
        job(2, 10, { ...whole }),
      ]),
    ).toBe(
      'first-byte 5000, wait 5000, queue 1000, first-byte 5000, transfer 4000, verify 3000, write 1000, other 1000, reply 5000',
    ));

  test('nothing that the log tells of: waiting', () => expect(text(read(0, 500, [9]), [])).toBe('wait 500'));

  test('a job of the same number that an earlier front end had is not taken for it', () =>
    expect(explain(read(60_000, 1_000, [1]), [job(1, 0, whole)])).toMatchObject({ jobs: [], missing: 1 }));

  test('steps follow one another and add up, whatever the trace says', () => {
    const part = fc.nat(20_000);
    const jobs = fc.array(
      fc.record({
        at: fc.integer({ min: -30, max: 60 }),
        sentUs: part,
        firstByteUs: part,
        fetchUs: part,
        decodeUs: part,
        writeUs: part,
        totalUs: fc.nat(60_000),
      }),
      { maxLength: 4 },
    );
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 80_000 }), jobs, (us, list) => {
        const one = read(
          0,
          us,
          list.map((_, index) => index),
        );
        const steps = stepsOf(
          one,
          list.map(({ at, ...parts }, index) => job(index, at, parts)),
        );
        let at = 0;
        for (const step of steps) {
          expect(step.startUs).toBe(at);
          expect(step.us).toBeGreaterThan(0);
          at += step.us;
        }
        expect(at).toBe(us);
      }),
      { numRuns: 500 },
    );
  });
});

describe('in a log', () => {
  const log = logOf(sampleRecords());

  test('a read that the log does not have: the error says where reads are listed', () => {
    expect(() => findRead(log, '20.9')).toThrow(
      expect.objectContaining({
        code: 'not-found',
        hint: 'cofa replay why --start lists those of the last start',
      }),
    );
    expect(() => slowestRead(logOf([]))).toThrow(
      expect.objectContaining({
        code: 'not-found',
        message: 'the log tells of no read that waited',
        hint: 'its reads found their blocks present; another stretch: --from and --to, or another FILE',
      }),
    );
  });

  test('the slowest read, with its fetch', () => {
    const why = explainRead(log, slowestRead(log));
    expect(why).toMatchObject({ id: '20.2', block: 70, us: 120_000, missing: 0 });
    expect(why.jobs).toEqual([expect.objectContaining({ job: 3, span: 4 })]);
    expect(() => findRead(log, '20.9')).toThrow(expect.objectContaining({ code: 'not-found' }));
    expect(() => findRead(log, '21.0')).toThrow(expect.objectContaining({ code: 'not-found' }));
    expect(() => findRead(log, 'x')).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
  });

  test('the reads that wait at a moment, and the next ones', () => {
    const at = (ms: number) => readsInFlight(log, START + ms).map(({ id }) => id);
    expect(at(399)).toEqual([]);
    expect(at(400)).toEqual(['20.0']);
    expect(at(410)).toEqual(['20.0', '20.1']);
    expect(at(460)).toEqual(['20.2']);
    expect(at(570)).toEqual([]);
    expect(neighbourRead(log, START, 1)?.id).toBe('20.0');
    expect(neighbourRead(log, START + 405, 1)?.id).toBe('20.2');
    expect(neighbourRead(log, START + 450, -1)?.id).toBe('20.1');
    expect(neighbourRead(log, START, -1)).toBe(undefined);
    expect(neighbourRead(log, START + 9_000, 1)).toBe(undefined);
  });

  test('a start: phases that follow one another, what reads cost, the critical path', () => {
    const why = explainStart(log, findMount(log, MOUNT));
    expect(why.phases.map(({ phase, us }) => [phase, us])).toEqual([
      ['resolve', 10_000],
      ['prepare', 190_000],
      ['attach', 25_000],
      ['mount', 25_000],
      ['reads', 220_000],
    ]);
    expect(why.phases.reduce((sum, { us }) => sum + us, 0)).toBe(why.us);
    expect(why.reads).toMatchObject({
      count: 3,
      waitedUs: 197_000,
      blockedUs: 161_000,
      maxUs: 120_000,
      dropped: 0,
    });
    expect(why.slowest.map(({ id }) => id)).toEqual(['20.2', '20.0', '20.1']);
    expect(why.path.map(({ id }) => id)).toEqual(['20.1', '20.2']);
    expect(why.criticalUs).toBe(156_000);
    expect(Object.values(why.steps).reduce((sum, us) => sum + us, 0)).toBe(why.reads.waitedUs);
    expect(findMount(log, '/mnt/app').id).toBe(MOUNT);
    expect(() => findMount(log, '/nowhere')).toThrow(expect.objectContaining({ code: 'not-found' }));
  });

  test('as text it keeps to the width', () => {
    const texts = [60, 80, 120].flatMap((width) => [
      ...renderWhyRead(explainRead(log, slowestRead(log)), width).map((line) => [line, width] as const),
      ...renderWhyStart(explainStart(log, findMount(log, undefined)), width).map(
        (line) => [line, width] as const,
      ),
    ]);
    for (const [line, width] of texts) expect(line.length).toBeLessThanOrEqual(width);
  });
});
