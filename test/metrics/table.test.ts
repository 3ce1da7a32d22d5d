/** docs/metrics.md and the program have the same metrics, and these keep to Prometheus' conventions. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { type Family, knownLabels, METRICS, PREFIX } from '../../schemas/metrics.ts';

const page = readFileSync(join(import.meta.dirname, '../../docs/metrics.md'), 'utf8');
const families: Array<[string, Family]> = Object.entries(METRICS);

test('the page’s table is the program’s', () => {
  const told = Array.from(
    page.matchAll(/^\| `(cofa_\w+)` \| (\w+) \| (.*?) \| (.*) \|$/gm),
    ([, name, type, labels = '', help]) => ({
      name,
      type,
      labels: [...labels.matchAll(/`(\w+)`/g)].map(([, label]) => label),
      help,
    }),
  );
  expect(told).toEqual(
    families.map(([name, { type, labels = [], help }]) => ({
      name: PREFIX + name,
      type,
      labels: [...labels],
      help,
    })),
  );
});

test('names end in their base unit, and those of counters in _total', () => {
  for (const [name, { type, labels = [], buckets, known }] of families) {
    expect([name, name.endsWith('_total')]).toEqual([name, type === 'counter']);
    expect([name, buckets !== undefined]).toEqual([name, type === 'histogram']);
    expect(name).not.toMatch(/_(ms|us|minutes|hours|kb|mb|kib|mib|percent)(_|$)/);
    if (type === 'histogram') expect(name).toMatch(/_(seconds|bytes)$/);
    expect([...(buckets ?? [])]).toEqual([...(buckets ?? [])].sort((a, b) => a - b));
    // A series that is known from the beginning has one label or none.
    if (known !== undefined) expect(labels).toHaveLength(1);
    for (const one of knownLabels(METRICS[name as keyof typeof METRICS]))
      expect(one).toHaveLength(labels.length);
  }
});
