/**
 * Builds the page (Preact, by Vite) into one folder of files that load nothing from elsewhere. npm's postinstall and ops/install
 * call it:
 *
 *     node src/console/build.ts
 */
import { mkdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { PAGE_FOLDER, PAGE_SOURCES, STAMP } from './page.ts';

const CHECKOUT = fileURLToPath(new URL('../..', import.meta.url));

/** Makes the page in `folder`, whole or not at all. Errors: of the file system, or of Vite, with the file and the line. */
export async function buildPage(folder = PAGE_FOLDER): Promise<void> {
  const { build } = await import('vite');
  const draft = `${folder}.${process.pid}.draft`;
  const sources = new Set<string>();
  mkdirSync(dirname(folder), { recursive: true });
  try {
    await build({
      configFile: false,
      root: PAGE_SOURCES,
      base: './',
      logLevel: 'error',
      build: {
        outDir: draft,
        emptyOutDir: true,
        target: 'es2023',
        // They know light-dark().
        cssTarget: ['chrome123', 'firefox120', 'safari17.5'],
        modulePreload: { polyfill: false },
        // The policy of the page lets nothing be loaded from a data: address.
        assetsInlineLimit: 0,
      },
      plugins: [
        {
          name: 'cofa-sources',
          buildEnd() {
            for (const id of this.getModuleIds()) {
              const path = relative(CHECKOUT, id.replace(/^\0/, '').replace(/\?.*$/, ''));
              if (!path.startsWith('..') && !path.startsWith('node_modules')) sources.add(path);
            }
          },
        },
      ],
    });
    writeFileSync(join(draft, STAMP), JSON.stringify(stampsOf([...sources, 'package-lock.json'])));
    rmSync(folder, { recursive: true, force: true });
    renameSync(draft, folder);
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
}

/** Path, time and size of each file that is there. */
function stampsOf(paths: readonly string[]): Array<[string, number, number]> {
  return paths.flatMap((path): Array<[string, number, number]> => {
    const now = statSync(join(CHECKOUT, path), { throwIfNoEntry: false });
    return now?.isFile() === true ? [[path, now.mtimeMs, now.size]] : [];
  });
}

if (import.meta.main) await buildPage();
