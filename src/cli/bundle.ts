/**
 * One file of all the modules that `cofa run` in plain words needs (plain-run.ts): to find, read and link some thirty of them
 * takes longer than to run what is in them, and from a cold disk several times as long. It is made like Node's compiled code,
 * and lies beside that: while a container of `cofa run` runs, where it is missing or was made of other files. It knows the
 * time and size of each file that it was made of and looks at them before it does anything, so a checkout that changes, or is
 * copied elsewhere with its cache, is never run by code that is not its own. Called as `node run.cjs MAIN ARGUMENT…`, where
 * MAIN is the path of main.ts.
 *
 * Only what this code base writes is understood: named imports and exports at the beginning of a line, no cycles, no `await`
 * outside of functions. Anything else ends in an error here, and `cofa run` goes on without.
 */
import { readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const HERE = dirname(fileURLToPath(import.meta.url));
const ENTRY = join(HERE, 'plain-run.ts');
const MAIN = join(HERE, 'main.ts');

/** Name of the file in the folder of compiled code; ops/cofa looks for it. Called in another way it needs another name. */
export const BUNDLE = 'run.cjs';

/** Makes the file where ops/cofa keeps compiled code, if it does; without it everything works, more slowly. */
export function keepBundle(folder = process.env.NODE_COMPILE_CACHE): void {
  if (folder === undefined || folder === '') return;
  try {
    writeBundle(folder);
  } catch {
    // Nobody may write there, or a module is beyond it: test/cli/bundle.test.ts tells.
  }
}

/** Makes the file in `folder`, whole or not at all. Errors: of the file system, or what it does not understand. */
export function writeBundle(folder: string): void {
  const draft = join(folder, `${BUNDLE}.${process.pid}.draft`);
  writeFileSync(draft, bundle());
  renameSync(draft, join(folder, BUNDLE));
}

/** The text of the file. Error: what it does not understand, with the file and the line. */
export function bundle(entry = ENTRY): string {
  const modules: Module[] = [];
  collect(entry, modules, new Map());
  const files = modules.map(({ path }) => {
    const { mtimeMs, size } = statSync(path);
    return [path, mtimeMs, size];
  });
  const last = modules.length - 1;
  return `// Made by ${fileURLToPath(import.meta.url)}; goes with what it was made of.
'use strict';
const { statSync } = require('node:fs');
const { pathToFileURL } = require('node:url');
// As if the program itself had been started: its path comes first among the arguments.
const main = process.argv[2];
process.argv.splice(1, 2, main);
const isFresh = () => main === ${JSON.stringify(MAIN)} && ${JSON.stringify(files)}.every(([path, time, size]) => {
  const now = statSync(path, { throwIfNoEntry: false });
  return now !== undefined && now.mtimeMs === time && now.size === size;
});
const other = () => import(pathToFileURL(main).href);
if (!isFresh()) other();
else {
${modules.map(({ code }, at) => `const m${at} = (() => {${code}})();`).join('\n')}
m${last}.plainRun(process.argv.slice(2)).then((exit) => (exit === undefined ? other() : process.exit(exit)));
}
`;
}

interface Module {
  path: string;
  /** Body of a function that returns the exports. */
  code: string;
}

/** Adds a module behind those that it imports; returns its place. `known`: by path; undefined while it is being added. */
function collect(path: string, modules: Module[], known: Map<string, number | undefined>): number {
  if (known.has(path)) {
    const at = known.get(path);
    if (at === undefined) throw new Error(`${path} imports itself in a circle`);
    return at;
  }
  known.set(path, undefined);
  const exported: string[] = [];
  const source = withoutTypes(readFileSync(path, 'utf8'));
  const code = source
    .replace(IMPORT, (_, names: string, from: string) => `const ${renamed(names)} = ${require(from)};`)
    .replace(EXPORT_FROM, (_, names: string, from: string) => {
      for (const name of listed(names)) exported.push(`${outer(name)}: ${require(from)}.${inner(name)}`);
      return '';
    })
    .replace(EXPORT, (_, declaration: string, name: string) => {
      exported.push(name);
      return `${declaration} ${name}`;
    })
    .replace(DYNAMIC, (_, from: string) =>
      from.startsWith('.')
        ? `import(${JSON.stringify(pathToFileURL(join(dirname(path), from)).href)})`
        : `import('${from}')`,
    );
  const strange = /^(import|export)\b.*|\bimport\.meta\b.*/m.exec(code);
  if (strange !== null) throw new Error(`${path}: not understood: ${strange[0]}`);
  const at = modules.push({ path, code: `${code}\nreturn { ${exported.join(', ')} };\n` }) - 1;
  known.set(path, at);
  return at;

  function require(from: string): string {
    if (from.startsWith('node:')) return `require('${from}')`;
    if (!from.startsWith('.')) throw new Error(`${path}: the package ${from} is to be loaded lazily`);
    return `m${collect(join(dirname(path), from), modules, known)}`;
  }
}

const IMPORT = /^import \{([^}]*)\} from '([^']+)';/gm;
const EXPORT_FROM = /^export \{([^}]*)\} from '([^']+)';/gm;
const EXPORT = /^export ((?:async )?function\*?|class|const) ([\w$]+)/gm;
const DYNAMIC = /\bimport\('([^']+)'\)/g;

/** Node does the same to every file that it loads, and warns of nothing then. */
function withoutTypes(source: string): string {
  const warn = process.emitWarning;
  process.emitWarning = () => {};
  try {
    return stripTypeScriptTypes(source);
  } finally {
    process.emitWarning = warn;
  }
}

/** The names of `{ a, b as c }`. */
const listed = (names: string): string[] =>
  names
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '');
const inner = (name: string): string => name.split(' as ')[0] as string;
const outer = (name: string): string => name.split(' as ').at(-1) as string;
const renamed = (names: string): string =>
  `{ ${listed(names)
    .map((name) => (name.includes(' as ') ? `${inner(name)}: ${outer(name)}` : name))
    .join(', ')} }`;
