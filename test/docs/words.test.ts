/** What is written: the glossary's words are used, and what the pages point to is there. Needs no root. */
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';

const TOP = resolve(import.meta.dirname, '../..');
const TABLE = join(import.meta.dirname, 'words.json');

/** Words that docs/glossary.md replaces, and what to say. */
const REPLACED: Record<string, { pattern: RegExp; say: string }> = {
  nobody: { pattern: /\bnobody\b/gi, say: 'name the agent: "no mount uses it"' },
  somebody: { pattern: /\bsomebody\b/gi, say: 'name the agent: "a client mounts it"' },
  whoever: { pattern: /\bwhoever\b/gi, say: 'name the agent: "the writer"' },
  goes: {
    pattern: /\bgoes\b(?! (?:on|to|through|back)\b)/gi,
    say: 'say detached, deleted, evicted or unmounted, and who does it',
  },
  // `--workers` is the name of an option: a text that went around it would be a riddle.
  worker: { pattern: /(?<!--)\bworkers?\b/g, say: 'say fetcher; a thread of Node is a thread' },
};
/** It names the words itself. */
const EXEMPT = new Set(['docs/glossary.md']);

interface Use {
  folder: string;
  word: string;
  /** `file:line` */
  place: string;
}

function filesBelow(folder: string, ends: readonly string[]): string[] {
  return readdirSync(join(TOP, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && ends.some((end) => entry.name.endsWith(end)))
    .map((entry) => relative(TOP, join(entry.parentPath, entry.name)))
    .filter((path) => !path.includes('/generated/') && !EXEMPT.has(path))
    .sort();
}

const PAGES = [
  ...readdirSync(TOP).filter((name) => name.endsWith('.md')),
  ...readdirSync(join(TOP, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.md'))
    .map((name) => join('docs', name)),
].sort();

/** Below `src` each program and library counts for itself. */
function folderOf(path: string): string {
  const parts = dirname(path).split('/');
  return parts.slice(0, parts[0] === 'src' ? 2 : 1).join('/');
}

function usesOf(paths: readonly string[]): Use[] {
  return paths.flatMap((path) =>
    readFileSync(join(TOP, path), 'utf8')
      .split('\n')
      .flatMap((line, index) =>
        Object.entries(REPLACED).flatMap(([word, { pattern }]) =>
          Array.from(line.matchAll(pattern), () => ({
            folder: folderOf(path),
            word,
            place: `${path}:${index + 1}`,
          })),
        ),
      ),
  );
}

type Counts = Record<string, Record<string, number>>;

function countsOf(uses: readonly Use[]): Counts {
  const counts: Counts = {};
  for (const { folder, word } of uses) {
    counts[folder] ??= {};
    counts[folder][word] = (counts[folder][word] ?? 0) + 1;
  }
  const sorted = (record: Counts[string]) => Object.fromEntries(Object.entries(record).sort());
  return Object.fromEntries(
    Object.entries(counts)
      .sort()
      .map(([folder, words]) => [folder, sorted(words)]),
  );
}

describe('words that the glossary replaces', () => {
  const uses = usesOf([
    ...new Set([
      ...['src', 'actors', 'schemas', 'ops'].flatMap((folder) => filesBelow(folder, ['.ts', '.sh', '.yaml'])),
      ...PAGES.filter((path) => !EXEMPT.has(path)),
    ]),
  ]);
  const counts = countsOf(uses);
  const allowed = JSON.parse(readFileSync(TABLE, 'utf8')) as Counts;

  test('no folder has more of them than test/docs/words.json allows', () => {
    const tooMany = Object.entries(counts).flatMap(([folder, words]) =>
      Object.entries(words)
        .filter(([word, count]) => count > (allowed[folder]?.[word] ?? 0))
        .map(([word, count]) => {
          const places = uses.filter((use) => use.folder === folder && use.word === word);
          return [
            `${folder}: "${word}" ${count} times, at most ${allowed[folder]?.[word] ?? 0}; ${REPLACED[word]?.say}`,
            '(where files moved, move the number with them in test/docs/words.json)',
            ...places.map(({ place }) => `  ${place}`),
          ].join('\n');
        }),
    );
    expect(tooMany.join('\n')).toBe('');
  });

  // Outside of CI the test lowers the numbers itself, so that whoever improves a text only has to commit them.
  test('the numbers in test/docs/words.json are lowered as texts get better', () => {
    const tooHigh = Object.entries(allowed).flatMap(([folder, words]) =>
      Object.entries(words)
        .filter(([word, count]) => count > (counts[folder]?.[word] ?? 0))
        .map(([word]) => `${folder}: "${word}" can be ${counts[folder]?.[word] ?? 0}`),
    );
    if (tooHigh.length > 0 && (process.env.CI ?? '') === '') {
      const lower = (folder: string, words: Record<string, number>) =>
        Object.fromEntries(
          Object.entries(words)
            .map(([word, count]) => [word, Math.min(count, counts[folder]?.[word] ?? 0)] as const)
            .filter(([, count]) => count > 0),
        );
      const lowered = Object.entries(allowed)
        .map(([folder, words]) => [folder, lower(folder, words)] as const)
        .filter(([, words]) => Object.keys(words).length > 0);
      writeFileSync(TABLE, print(Object.fromEntries(lowered)));
      console.log(`lowered test/docs/words.json; commit it:\n${tooHigh.join('\n')}`);
      return;
    }
    expect(tooHigh.join('\n')).toBe('');
  });
});

/** A line a folder, so that two branches seldom change the same one. */
function print(table: Counts): string {
  const lines = Object.entries(table).map(
    ([folder, words]) =>
      `  ${JSON.stringify(folder)}: { ${Object.entries(words)
        .map(([word, count]) => `${JSON.stringify(word)}: ${count}`)
        .join(', ')} }`,
  );
  return `{\n${lines.join(',\n')}\n}\n`;
}

/** As GitHub makes them of headings. */
function anchorsOf(page: string): Set<string> {
  const anchors = new Set<string>();
  let isCode = false;
  for (const line of readFileSync(page, 'utf8').split('\n')) {
    if (line.startsWith('```')) isCode = !isCode;
    const heading = isCode ? undefined : /^#{1,6} +(.*)$/.exec(line)?.[1];
    if (heading === undefined) continue;
    const slug = heading
      .replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}_ -]/gu, '')
      .replaceAll(' ', '-');
    let unique = slug;
    for (let n = 1; anchors.has(unique); n++) unique = `${slug}-${n}`;
    anchors.add(unique);
  }
  return anchors;
}

function linesOf(page: string): Array<{ line: string; place: string }> {
  return readFileSync(join(TOP, page), 'utf8')
    .split('\n')
    .map((line, index) => ({ line, place: `${page}:${index + 1}` }));
}

const MENTION = /(?<![\w./@<-])(?:src|actors|schemas|docs|ops|test)\/[\w.-]+(?:\/[\w.-]+)*(?![\w/]*[<*{…])/g;

test('pages that comments name exist', () => {
  const files = ['src', 'actors', 'schemas', 'ops'].flatMap((folder) => filesBelow(folder, ['']));
  const missing = files.flatMap((path) =>
    linesOf(path).flatMap(({ line, place }) =>
      Array.from(line.matchAll(/\bdocs\/[a-z-]+\.md\b/g), ([page]) => page)
        .filter((page) => !line.includes('containerd, docs/') && !existsSync(join(TOP, page)))
        .map((page) => `${place}: ${page}`),
    ),
  );
  expect(missing).toEqual([]);
});

test('docs/trouble.md names each condition that an engine can be in', () => {
  const page = readFileSync(join(TOP, 'docs/trouble.md'), 'utf8');
  const known = filesBelow('src', ['.ts']).flatMap((path) =>
    Array.from(
      readFileSync(join(TOP, path), 'utf8').matchAll(/onditions\.set\(\s*['`]([a-z-]+)(:?)/g),
      ([, name, colon]) => ({ path, key: `${name}${colon}` }),
    ),
  );
  expect(known.length).toBeGreaterThan(10);
  expect(known.filter(({ key }) => !page.includes(`(\`${key}\`)`))).toEqual([]);
});

test('docs/trouble.md quotes what the program says', () => {
  const files = ['src', 'actors', 'schemas'].flatMap((folder) => filesBelow(folder, ['.ts']));
  const source = files
    .map((path) => readFileSync(join(TOP, path), 'utf8'))
    .join('\n')
    .replaceAll("\\'", "'");
  // Names in capitals, numbers and dots stand for what differs.
  const fixed = (sentence: string): string[] =>
    sentence
      .split(/…|\b[A-Z]{2,}\b|\bN\b/)
      .map((part) => part.replaceAll(/^[ :()\-;,]+|[ :()\-;,]+$/g, ''))
      .filter((part) => part.length > 5);
  const rows = linesOf('docs/trouble.md').filter(({ line }) => /^\| (?!podman says)/.test(line));
  const sentences = rows.flatMap(({ line, place }) =>
    Array.from((line.split(' | ')[0] ?? '').matchAll(/`([^`]+)`/g), ([, sentence = '']) => ({
      sentence,
      place,
    })),
  );
  expect(sentences.length).toBeGreaterThan(50);
  const unsaid = sentences.flatMap(({ sentence, place }) =>
    fixed(sentence)
      .filter((part) => !/^[a-z-]+$/.test(part) && !source.includes(part))
      .map((part) => `${place}: ${part}`),
  );
  expect(unsaid).toEqual([]);
});

/** A page shows where a file would be. */
const PLACEHOLDER = /\/(?:NAME|FOLDER)\b/;

describe.each(PAGES)('%s', (page) => {
  test('links lead to files and headings that exist', () => {
    const broken = linesOf(page).flatMap(({ line, place }) =>
      Array.from(line.matchAll(/\]\(([^)\s]+)\)/g), ([, target]) => target as string)
        .filter((target) => !/^[a-z]+:/.test(target))
        .filter((target) => {
          const [path = '', anchor] = target.split('#');
          const file = path === '' ? join(TOP, page) : resolve(TOP, dirname(page), path);
          if (!existsSync(file)) return true;
          return anchor !== undefined && statSync(file).isFile() && !anchorsOf(file).has(anchor);
        })
        .map((target) => `${place}: ${target}`),
    );
    expect(broken).toEqual([]);
  });

  test('paths that it mentions exist', () => {
    const missing = linesOf(page).flatMap(({ line, place }) =>
      Array.from(line.replaceAll(/\]\([^)]*\)/g, ']').matchAll(MENTION), ([path]) =>
        path.replace(/[.-]+$/, ''),
      )
        .filter((path) => !PLACEHOLDER.test(path) && !existsSync(join(TOP, path)))
        .map((path) => `${place}: ${path}`),
    );
    expect(missing).toEqual([]);
  });
});
