/**
 * Bundles: what a command needs of this program, in one file of JavaScript. To find, read and link some dozens of modules takes
 * longer than to run what is in them, and from a cold disk several times as long. Two bundles lie beside Node's compiled code.
 * `run.cjs` has `cofa run` alone, since a short container notices the size of the file as well; `cofa.cjs` has every command.
 *
 *     npm's postinstall, ops/install    make both
 *     ops/cofa                          starts from one if it is there: node run.cjs MAIN ARGUMENT…
 *     cofa run                          makes its own anew where it is stale, while a container runs
 *
 * A bundle knows the time and size of each file that it was made of, and looks at them before it does anything else. So a
 * checkout that changes, or is copied elsewhere with its cache, never runs code that is not its own: the bundle then hands over
 * to main.ts. npm's packages stay outside, but for commander; the other programs do, too.
 */
import { mkdirSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { OnResolveArgs, OnResolveResult, Plugin } from 'esbuild';

const HERE = dirname(fileURLToPath(import.meta.url));
const CHECKOUT = join(HERE, '../..');
const ENTRY = join(HERE, 'program.ts');
const MAIN = join(HERE, 'main.ts');
/** Modules of a start that are imported when it needs them. */
const OF_RUN = ['plain-line.ts', 'run-command.ts', '../container/run.ts'].map((name) => join(HERE, name));
/** They are started by themselves as well. */
const PROGRAMS = ['../supervisor/main.ts', '../console/build.ts'].map((name) => join(HERE, name));
/** By the file's name, which ops/cofa knows: whether it holds a module that is imported when a command needs it. */
const BUNDLES = {
  'run.cjs': (module: string) => OF_RUN.includes(module),
  'cofa.cjs': (module: string) => !PROGRAMS.includes(module),
};
export type BundleName = keyof typeof BUNDLES;
export const BUNDLE_NAMES = Object.keys(BUNDLES) as BundleName[];

/** npm writes it at each installation, so it stands for every package. */
const INSTALLED = join(CHECKOUT, 'node_modules/.package-lock.json');

/** Where ops/cofa looks for bundles. */
export const BUNDLE_FOLDER = process.env.NODE_COMPILE_CACHE || join(CHECKOUT, 'node_modules/.cache/cofa');

/** Makes a bundle in `folder`, whole or not at all. Errors: of the file system, or of esbuild. */
export async function writeBundle(name: BundleName, folder = BUNDLE_FOLDER): Promise<void> {
  const text = await bundle(name);
  mkdirSync(folder, { recursive: true });
  const draft = join(folder, `${name}.${process.pid}.draft`);
  writeFileSync(draft, text);
  renameSync(draft, join(folder, name));
}

/** The text of a bundle. Error: of esbuild, with the file and the line. */
export async function bundle(name: BundleName): Promise<string> {
  const { build, stop } = await import('esbuild');
  const { outputFiles, metafile } = await build({
    entryPoints: [ENTRY],
    absWorkingDir: CHECKOUT,
    bundle: true,
    write: false,
    metafile: true,
    platform: 'node',
    target: 'node24',
    format: 'cjs',
    // Names stay, for the stack of an error.
    minifyWhitespace: true,
    minifySyntax: true,
    define: { 'import.meta.url': MODULE_URL },
    plugins: [modules(BUNDLES[name])],
    logLevel: 'silent',
  }).finally(stop);
  const sources = Object.keys(metafile.inputs)
    .map((path) => resolve(CHECKOUT, path))
    .filter((path) => !isOfPackage(path));
  return withCheck([...sources, INSTALLED], outputFiles[0]?.text ?? '');
}

/** Not of this program, which may itself lie in a folder of packages. */
const isOfPackage = (path: string): boolean => path.slice(CHECKOUT.length).includes('node_modules/');

/** The name of a constant that each module gets: its own URL, since that of the bundle is another. */
const MODULE_URL = '$moduleUrl';

function modules(holds: (module: string) => boolean): Plugin {
  const place = ({ path, kind, importer, resolveDir }: OnResolveArgs): OnResolveResult | undefined => {
    if (kind === 'entry-point') return undefined;
    if (!path.startsWith('.')) return path === 'commander' ? undefined : { external: true };
    const module = join(resolveDir, path);
    return kind === 'dynamic-import' && !isOfPackage(importer) && !holds(module)
      ? { path: pathToFileURL(module).href, external: true }
      : undefined;
  };
  return {
    name: 'cofa',
    setup(build) {
      build.onResolve({ filter: /./ }, place);
      build.onLoad({ filter: /\.[jt]s$/ }, async ({ path }) => ({
        contents: `const ${MODULE_URL} = ${JSON.stringify(pathToFileURL(path).href)};${await readFile(path, 'utf8')}`,
        loader: 'ts',
      }));
    },
  };
}

/** The code behind a look at the files that it was made of. */
function withCheck(paths: readonly string[], code: string): string {
  const files = paths.map((path) => {
    const { mtimeMs, size } = statSync(path);
    return [path, mtimeMs, size];
  });
  return `'use strict';
{
  const { realpathSync, statSync } = require('node:fs');
  // As if the program itself had been started: its path comes first among the arguments.
  const [main] = process.argv.splice(2, 1);
  process.argv[1] = main;
  const isFresh = realpathSync(main) === ${JSON.stringify(MAIN)} && ${JSON.stringify(files)}.every(([path, time, size]) => {
    const now = statSync(path, { throwIfNoEntry: false });
    return now !== undefined && now.mtimeMs === time && now.size === size;
  });
  if (!isFresh) return void import(require('node:url').pathToFileURL(main).href);
}
${code}
module.exports.main(process.argv.slice(2)).then((exit) => process.exit(exit));
`;
}

if (import.meta.main) {
  for (const name of BUNDLE_NAMES) await writeBundle(name);
}
