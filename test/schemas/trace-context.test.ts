/** W3C's Trace Context as callers say it; the cases are those of the standard's grammar. */
import { expect, test } from 'vitest';
import { parentOf, traceContextOf } from '../../schemas/trace-context.ts';

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736';
const SPAN = '00f067aa0ba902b7';
const GOOD = `00-${TRACE}-${SPAN}-01`;

test('a traceparent names a trace, a span and whether it is recorded', () => {
  expect(traceContextOf(GOOD)).toEqual({ traceparent: GOOD });
  expect(parentOf({ traceparent: GOOD })).toEqual({ traceId: TRACE, spanId: SPAN, isSampled: true });
  expect(parentOf({ traceparent: `00-${TRACE}-${SPAN}-02` }).isSampled).toBe(false);
});

test('a later version is read as far as its beginning is known', () => {
  expect(traceContextOf(`cc-${TRACE}-${SPAN}-09-what-comes`)).toEqual({ traceparent: GOOD });
  expect(traceContextOf(`cc-${TRACE}-${SPAN}-08`)).toEqual({ traceparent: `00-${TRACE}-${SPAN}-00` });
});

test.each([
  undefined,
  42,
  ['00'],
  '',
  'ff' + GOOD.slice(2),
  `${GOOD}-more`,
  GOOD.toUpperCase(),
  `00-${'0'.repeat(32)}-${SPAN}-01`,
  `00-${TRACE}-${'0'.repeat(16)}-01`,
  `00-${TRACE.slice(1)}-${SPAN}-01`,
  `00-${TRACE}-${SPAN}`,
  `cc-${TRACE}-${SPAN}-01.x`,
  `cc-${TRACE}-${SPAN}-01-${'x'.repeat(300)}`,
  `${GOOD}\n`.repeat(2),
])('%s is no traceparent', (text) => {
  expect(traceContextOf(text)).toBeUndefined();
});

test('a tracestate is kept where it keeps to the grammar, and left out where not', () => {
  const kept = (state: string) => traceContextOf(GOOD, state)?.tracestate;
  for (const state of ['congo=t61rcWkgMzE', 'a=1, b@c=2', 'tenant@system=x,,y=2'])
    expect(kept(state)).toBe(state);
  const wrong = [
    '',
    ',',
    'A=1',
    'a=',
    'a',
    'a=b=c',
    'a=é',
    'a=1\n',
    `a=${'x'.repeat(600)}`,
    'a=1,'.repeat(33),
  ];
  for (const state of wrong) expect(kept(state)).toBeUndefined();
});
