/** docs/clients.md: each cell of its tables leads to a test that is there, or says that there is none. Needs no root. */
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { expect, test } from 'vitest';

const PAGE = resolve(import.meta.dirname, '../../docs/clients.md');
const text = readFileSync(PAGE, 'utf8');

/** Links by their label: `[label]: FILE "NAME OF THE TEST"`. */
const links = new Map(
  Array.from(text.matchAll(/^\[([\w-]+)\]: (\S+) "(.*)"$/gm), ([, label = '', file = '', name = '']) => [
    label,
    { file: join(PAGE, '..', file), name },
  ]),
);

/** Cells below the columns `lazy`, `plain` and `mixed`, with the operation. */
const cells = text.split('\n\n').flatMap((part) => {
  const rows = part
    .split('\n')
    .filter((line) => line.startsWith('|'))
    .map((line) =>
      line
        .slice(1, -1)
        .split('|')
        .map((cell) => cell.trim()),
    );
  const [head = [], , ...body] = rows;
  const kinds = ['lazy', 'plain', 'mixed'].map((kind) => head.indexOf(kind)).filter((at) => at >= 0);
  return body.flatMap((row) => kinds.map((at) => ({ cell: row[at] ?? '', place: `${row[0]}: ${head[at]}` })));
});

test('every cell names a test, or says that there is none', () => {
  expect(cells.length).toBeGreaterThan(90);
  const wrong = cells.filter(({ cell }) => {
    const label = /^\[.+\]\[([\w-]+)\]$/.exec(cell)?.[1];
    return label === undefined ? cell !== 'untested' && cell !== '–' : !links.has(label);
  });
  expect(wrong).toEqual([]);
});

test('every test that it names is there, and is named in a cell', () => {
  const used = new Set(cells.map(({ cell }) => /\[([\w-]+)\]$/.exec(cell)?.[1]));
  expect([...links.keys()].filter((label) => !used.has(label))).toEqual([]);
  const missing = Array.from(links.values()).filter(({ file, name }) => {
    if (!existsSync(file)) return true;
    const quoted = name.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&');
    // The name is the first argument of `test`, `it`, or what their `each` gives.
    return !new RegExp(`\\(\\s*(['"\`])${quoted}\\1,`).test(readFileSync(file, 'utf8'));
  });
  expect(missing).toEqual([]);
});
