import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { LINT_FILE, type LintFile, problemsOf, type Row, ROWS, TOP, withOverrides } from './arrows.ts';

/** Static, dynamic and type imports, and `export … from`. */
const IMPORT = /\b(?:from|import)\s*\(?\s*'((?:\.\.?\/|@?[a-z])[^'\n ]*)'/g;

interface Import {
  file: string;
  /** A folder of the table, or a package. */
  what: string;
}

function importsOf(folder: string): Import[] {
  const files = readdirSync(join(TOP, folder), { recursive: true, encoding: 'utf8' });
  return files
    .filter((name) => /\.tsx?$/.test(name))
    .flatMap((name) => {
      const file = join(folder, name);
      const text = withoutComments(readFileSync(join(TOP, file), 'utf8'));
      return [...text.matchAll(IMPORT)].map(([, what = '']) => ({
        file,
        what: what.startsWith('.') ? folderOf(relative(TOP, resolve(TOP, dirname(file), what))) : what,
      }));
    });
}

const withoutComments = (text: string): string => text.replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '');

/** `src/x` for what lies below src/, else the first folder. */
function folderOf(path: string): string {
  const [first = '', second = ''] = path.split('/');
  return first === 'src' ? `src/${second}` : first;
}

const isPackage = (what: string): boolean =>
  !what.startsWith('src/') && !['actors', 'schemas', 'test', 'ops'].includes(what);

describe('the arrows between folders', () => {
  test('no row of the table points up, and libraries know neither programs nor what programs share', () => {
    expect(problemsOf(ROWS)).toEqual([]);
  });

  test('a table whose arrow goes up is refused', () => {
    const row = (folder: string, kind: Row['kind'], imports: string[]): Row => ({
      folder,
      kind,
      is: '',
      imports,
    });
    expect(
      problemsOf([
        row('src/store', 'library', ['src/process']),
        row('src/process', 'shared', []),
        row('src/kernel', 'library', ['src/process']),
        row('src/fetcher', 'program', []),
        row('src/cli', 'program', ['src/fetcher']),
      ]),
    ).toEqual([
      'src/store may import src/process, which has no row above it',
      'src/kernel is a library and may import src/process, which lies above libraries',
      'src/cli may import the program src/fetcher',
    ]);
  });

  test('every folder of the source has a row', () => {
    const folders = readdirSync(join(TOP, 'src'), { withFileTypes: true }).map(({ name }) => `src/${name}`);
    expect([...folders, 'actors', 'schemas'].sort()).toEqual(ROWS.map(({ folder }) => folder).sort());
  });

  test.each(ROWS.map((row) => [row.folder, row] as const))(
    '%s imports what its row allows',
    (folder, row) => {
      const found = importsOf(folder);
      const strange = found.filter(({ what }) =>
        isPackage(what)
          ? row.packages !== undefined && !row.packages.includes(what)
          : what !== folder && !row.imports.includes(what),
      );
      expect(strange.map(({ file, what }) => `${file} imports ${what}`)).toEqual([]);
      const used = new Set(found.map(({ what }) => what));
      expect(row.imports.filter((other) => !used.has(other))).toEqual([]);
    },
  );

  test('the linter enforces the same table; node test/house/arrows.ts writes it there', () => {
    const file = JSON.parse(readFileSync(LINT_FILE, 'utf8')) as LintFile;
    expect(file).toEqual(withOverrides(file, ROWS));
  });
});
