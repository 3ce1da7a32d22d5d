import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Condition, formatCondition, parseCondition, type Term } from '../../src/replay/conditions.ts';
import { find } from '../../src/replay/search.ts';
import { logOf, record, sampleRecords } from './sample-log.ts';

const word = fc.oneof(
  fc.string({ minLength: 1, maxLength: 12 }),
  fc.constantFrom('and', 'or', 'present', '>', 'mount.*', 'a b', '"', '\\', '<x>'),
);
const us = fc.oneof(
  fc.integer({ min: 0, max: 5_000 }),
  fc.integer({ min: 1, max: 5_000 }).map((ms) => ms * 1_000),
  fc.integer({ min: 1, max: 60 }).map((s) => s * 1_000_000),
);
const term: fc.Arbitrary<Term> = fc.oneof(
  fc.record({
    term: fc.constant('block' as const),
    block: fc.nat(1_000_000),
    what: fc.constantFrom(
      'present' as const,
      'absent' as const,
      'read' as const,
      'fetched' as const,
      'any' as const,
    ),
  }),
  fc.record({
    term: fc.constantFrom('read' as const, 'job' as const),
    compare: fc.constantFrom('>' as const, '>=' as const, '<' as const, '<=' as const),
    us,
  }),
  fc.record({ term: fc.constantFrom('read' as const, 'job' as const), failed: fc.constant(true as const) }),
  fc.record({
    term: fc.constantFrom('event' as const, 'image' as const, 'mount' as const, 'text' as const),
    text: word,
  }),
  fc.record({ term: fc.constant('layer' as const), text: fc.constantFrom('1', '3f2a', 'sha256:00ff') }),
);
const condition: fc.Arbitrary<Condition> = fc.array(fc.array(term, { minLength: 1, maxLength: 4 }), {
  minLength: 1,
  maxLength: 3,
});

describe('conditions', () => {
  test('are read as they are written', () => {
    fc.assert(
      fc.property(condition, (given) => {
        expect(parseCondition(formatCondition(given))).toEqual(given);
      }),
      { numRuns: 500 },
    );
  });

  test('any text is a condition or an error that says so, never anything else', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.array(word).map((words) => words.join(' ')),
        ),
        (text) => {
          try {
            parseCondition(text);
          } catch (error) {
            expect(error).toMatchObject({
              code: 'invalid-argument',
              hint: expect.stringContaining('block 4711'),
            });
          }
        },
      ),
      { numRuns: 500 },
    );
  });

  test.each([
    ['', /a term is missing/],
    ['blok 3', /"blok" is no term/],
    ['block x', /not the number of a block/],
    ['read > soon', /no duration/],
    ['read = 3ms', /read "="/],
    ['event a b', /and or or is expected before "b"/],
    ['event a and', /a term is missing at its end/],
    ['layer zz', /beginning of a diffID/],
    ['text "open', /quotation does not end/],
  ])('%j says what is wrong', (text, message) => expect(() => parseCondition(text)).toThrow(message));
});

describe('in a log', () => {
  const records = [
    ...sampleRecords(),
    record(900, 6000, 'layer', '1'.repeat(64), {
      type: 'layer.dropped',
      reason: 'corrupt',
      message: 'no such luck',
    }),
  ];
  const log = logOf(records);
  const first = (text: string) => {
    const index = find(log, { condition: parseCondition(text) }, 0, log.count);
    return index === undefined ? undefined : log.timeline.seqAt(index);
  };
  const seqOf = (type: string, nth = 0) =>
    Array.from({ length: log.count }, (_, index) => index)
      .filter((index) => log.timeline.typeAt(index) === type)
      .map((index) => log.timeline.seqAt(index))[nth];

  test.each<[string, number | undefined]>([
    ['event mount.*', seqOf('mount.requested')],
    ['event *.mounted', seqOf('mount.mounted')],
    ['block 70 present', seqOf('layer.blocks')],
    ['block 70 present and layer 22', seqOf('layer.blocks', 13) === undefined ? undefined : undefined],
    ['block 59 present and layer 22', seqOf('layer.blocks', 13)],
    ['block 70 read', seqOf('layer.trace')],
    ['block 70 absent', seqOf('layer.dropped')],
    ['block 399 present', undefined],
    ['read > 100ms', seqOf('layer.trace')],
    ['read > 100ms and block 70', seqOf('layer.trace')],
    // A slow read, and one of block 3, but not one that is both.
    ['read > 100ms and block 3', undefined],
    ['read > 121ms', undefined],
    ['read failed', seqOf('layer.trace', 3)],
    ['job >= 118ms', seqOf('layer.trace')],
    ['job failed', undefined],
    ['image app:1 and event image.*', seqOf('image.resolved')],
    ['image app:1 and event layer.completed', seqOf('layer.completed')],
    ['image other:1', undefined],
    ['mount /mnt/app', seqOf('mount.requested')],
    ['text "NO SUCH"', seqOf('layer.dropped')],
    ['event none or event engine.stopped', seqOf('engine.stopped')],
  ])('%s', (text, seq) => expect(first(text)).toBe(seq));

  test('backwards, the last one before is found', () => {
    const index = find(log, { condition: parseCondition('event layer.blocks') }, log.count - 1, -1);
    expect(log.timeline.seqAt(index ?? -1)).toBe(seqOf('layer.blocks', 13));
  });
});
