/** The files of boards and rules: they are what their table says, and name metrics and labels that there are. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { parse } from 'yaml';
import { BOARDS, boardText, queriesOf } from '../../ops/grafana/boards.ts';
import { type Family, METRICS, PREFIX } from '../../schemas/metrics.ts';

const OPS = join(import.meta.dirname, '../../ops');
const families: Record<string, Family> = METRICS;

interface Rules {
  groups: Array<{
    rules: Array<{
      record?: string;
      alert?: string;
      expr: string;
      annotations?: Record<string, string>;
      labels?: { severity?: string };
    }>;
  }>;
}
const rules = (parse(readFileSync(join(OPS, 'prometheus/cofa.rules.yaml'), 'utf8')) as Rules).groups.flatMap(
  ({ rules }) => rules,
);

test('the boards in ops/grafana are those of boards.ts: node ops/grafana/boards.ts writes them', () => {
  expect(readdirSync(join(OPS, 'grafana')).filter((name) => name.endsWith('.json'))).toEqual(
    BOARDS.map(({ file }) => file).toSorted(),
  );
  for (const board of BOARDS)
    expect(readFileSync(join(OPS, 'grafana', board.file), 'utf8')).toBe(boardText(board));
});

test('panels do not overlap, and each says its unit', () => {
  for (const board of BOARDS) {
    const { panels } = JSON.parse(boardText(board)) as {
      panels: Array<{ id: number; gridPos: { x: number; y: number; w: number; h: number } }>;
    };
    const taken = new Set<string>();
    for (const { id, gridPos } of panels)
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++)
        for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
          expect(taken.has(`${x},${y}`), `panel ${id} of ${board.file}`).toBe(false);
          taken.add(`${x},${y}`);
        }
  }
});

test('queries name metrics that there are, with labels that these have', () => {
  const queries = [...BOARDS.flatMap(queriesOf), ...rules].map(({ expr }) => expr);
  expect(queries.length).toBeGreaterThan(60);
  for (const expr of queries) {
    for (const [, name = '', , selector = ''] of expr.matchAll(
      /\b(cofa_\w+?)(_bucket|_sum|_count)?(?:\{([^}]*)\})?(?![\w:])/g,
    )) {
      const family = families[name.slice(PREFIX.length)];
      expect(family, `${name} in ${expr}`).toBeDefined();
      for (const [, label = ''] of selector.matchAll(/(\w+)\s*[=!]~?"/g))
        expect([...(family?.labels ?? []), 'job', 'instance'], `${label} in ${expr}`).toContain(label);
    }
  }
});

test('every alarm says how grave it is, and what to do', () => {
  for (const { alert, labels, annotations } of rules.filter(({ alert }) => alert !== undefined)) {
    expect(['info', 'warning', 'critical'], alert).toContain(labels?.severity);
    expect(annotations?.summary, alert).toBeTruthy();
    expect(annotations?.action, alert).toBeTruthy();
  }
});
