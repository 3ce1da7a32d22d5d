/** Filters of List calls: what they mean, as in containerd, and what they may cost. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Fields, FilterError, parseFilters } from '../../src/snapshotter/filters.ts';

interface Thing {
  name: string;
  other?: string;
  labels?: Record<string, string>;
}

/** The cases of containerd's own table (pkg/filters/filter_test.go), on things that say the same. */
const THINGS: Thing[] = [
  { name: 'foo', labels: { foo: 'true' } },
  { name: 'bar' },
  { name: 'foo', labels: { foo: 'present', 'more complex label': 'present' } },
  { name: 'bar', labels: { bar: 'true' } },
  { name: 'fooer', labels: { 'more complex label with \\ and "': 'present' } },
  { name: 'fooer', labels: { 'more complex label with \\ and ".post': 'present' } },
  { name: 'baz', other: 'too complex, yo' },
  { name: 'bazo', other: 'abc' },
  { name: 'compound', labels: { foo: 'omg_asdf.asdf-qwer' } },
];
const ALL = THINGS.map((_, at) => at);

const fieldsOf =
  ({ name, other, labels = {} }: Thing): Fields =>
  ([first, ...rest]) => {
    if (first === 'name') return name;
    if (first === 'other') return other;
    const label = rest.join('.');
    return first === 'labels' && Object.hasOwn(labels, label) ? labels[label] : undefined;
  };

const found = (...filters: string[]): number[] => {
  const matches = parseFilters(filters);
  return ALL.filter((at) => matches(fieldsOf(THINGS[at] as Thing)));
};

describe('filters of List calls', () => {
  test.each([
    ['', ALL],
    ['name', ALL],
    ['labels.foo', [0, 2, 8]],
    ['labels.foo,name', [0, 2, 8]],
    ['labels.foo==true', [0]],
    ['labels.foo==omg_asdf.asdf-qwer', [8]],
    ['name==bar', [1, 3]],
    ['name!=bar', [0, 2, 4, 5, 6, 7, 8]],
    ['name==bar,labels.bar', [3]],
    ['other=="too complex, yo"', [6]],
    ['other~=[abc]+,name!=foo', [6, 7]],
    ['other~=/[abc]+/,name!=foo', [6, 7]],
    ['other~=/[abc]{1,2}/,name!=foo', [6, 7]],
    ['other~=/[abc]{0,1}"\\//,name!=foo', []],
    ['name==bar,labels.bar==true', [3]],
    ['name==bar,labels.bar==wrong', []],
    ['name==foo,labels."more complex label"', [2]],
    ['labels."more complex label with \\\\ and \\""==present', [4]],
    ['labels."more complex label with \\\\ and \\"".post==present', [5]],
    // What Go's regexp understands otherwise than JavaScript's.
    ['other~=/(?P<a>b)c\\\\z/', [7]],
    ['other~=/(?i)ABC/', [7]],
    ['other~=/[[:alpha:]]{3}$/', [7]],
    ['other~=/(?=a)/', []],
    ['name~=/(o)\\\\1/', []],
  ])('%s finds what containerd finds', (filter, expected) => {
    expect(found(filter)).toEqual(expected);
  });

  test.each([
    'labels.|foo|==omg_asdf.asdf-qwer',
    'labels.?"more complex label with \\\\ and \\"".post==present',
    'name==foo,',
    'labels.',
    'image~=,id?=?fbaq',
    'labels.ns/key==value',
    'labels.key==/value',
  ])('%s is refused, as by containerd', (filter) => {
    expect(() => found(filter)).toThrow(FilterError);
  });

  test('an expression that makes a backtracking engine try every split costs twice as much for twice the text', () => {
    const matches = parseFilters(['name~=/^(a+)+$/']);
    const cost = (length: number): number => {
      const thing = fieldsOf({ name: `${'a'.repeat(length)}b` });
      const rounds = [1, 2, 3, 4, 5].map(() => {
        const start = performance.now();
        expect(matches(thing)).toBe(false);
        return performance.now() - start;
      });
      return Math.min(...rounds);
    };
    cost(14);
    // Backtracking takes 16,384 times as long.
    expect(cost(28) / cost(14)).toBeLessThan(100);
    expect(matches(fieldsOf({ name: `${'a'.repeat(100_000)}b` }))).toBe(false);
  });

  test('filters and expressions have bounds', () => {
    expect(found(...Array.from({ length: 256 }, () => 'name==bar'))).toEqual([1, 3]);
    const refused = [
      Array.from({ length: 257 }, () => 'name==bar'),
      [`name==${'a'.repeat(16_384)}`],
      [`name~=/${'a'.repeat(1_025)}/`],
      ['name~=/.{1000}.{1000}.{1000}.{1000}/'],
      Array.from({ length: 5 }, () => 'name~=/.{1000}/'),
    ];
    for (const filters of refused) expect(() => found(...filters)).toThrow(FilterError);
  });

  test('whatever a client sends is a filter or is refused', () => {
    const words = fc.constantFrom(
      'name',
      'labels',
      '.',
      '==',
      '!=',
      '~=',
      '"',
      '/',
      '|',
      ',',
      '\\',
      '(',
      '*',
      'a',
    );
    const text = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.array(words).map((all) => all.join('')),
    );
    fc.assert(
      fc.property(fc.array(text, { maxLength: 3 }), (filters) => {
        try {
          found(...filters);
        } catch (error) {
          expect(error).toBeInstanceOf(FilterError);
        }
      }),
      { numRuns: 150 },
    );
  });

  test('a value between quotes is found, whatever it is', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (value) => {
        const quoted = value.replace(/[\\"]/g, '\\$&').replaceAll('\n', '\\n').replaceAll('\0', '');
        const thing = fieldsOf({ name: value.replaceAll('\0', '') });
        expect(parseFilters([`name=="${quoted}"`])(thing)).toBe(true);
      }),
    );
  });
});
