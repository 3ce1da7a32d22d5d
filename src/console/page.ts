/**
 * The built page. npm's postinstall and ops/install build it; where it is missing, or older than its sources, the console builds
 * it before it listens.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { extname, join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CofaError } from '../../schemas/errors.ts';

const CHECKOUT = fileURLToPath(new URL('../..', import.meta.url));
/** The sources of the page. */
export const PAGE_SOURCES = join(CHECKOUT, 'src/console/web');
/** Where the built page lies, beside the bundles of the command. */
export const PAGE_FOLDER = join(
  process.env.NODE_COMPILE_CACHE || join(CHECKOUT, 'node_modules/.cache/cofa'),
  'console',
);
/** A release brings it, and cannot build it. */
export const SHIPPED_PAGE = join(CHECKOUT, 'src/console/built');
/** In the folder: files that the page was made of, and when they were written. */
export const STAMP = 'sources.json';

export interface PageFile {
  type: string;
  bytes: Uint8Array<ArrayBuffer>;
}

const TYPES: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
};

/** The files of the page by their paths. Error `environment` where it is not built, and cannot be. */
export async function loadPage(
  folder = isBuilt(SHIPPED_PAGE) ? SHIPPED_PAGE : PAGE_FOLDER,
): Promise<ReadonlyMap<string, PageFile>> {
  if (!isFresh(folder)) {
    try {
      const { buildPage } = await import('./build.ts');
      await buildPage(folder);
    } catch (cause) {
      if (!isBuilt(folder))
        throw new CofaError('environment', `the page cannot be built: ${String(cause)}`, {
          cause,
          hint: `node ${join(CHECKOUT, 'src/console/build.ts')} says more`,
        });
    }
  }
  const files = new Map<string, PageFile>();
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    const type = TYPES[extname(entry.name)];
    if (!entry.isFile() || type === undefined) continue;
    const path = join(entry.parentPath, entry.name);
    files.set(`/${relative(folder, path).split(sep).join('/')}`, {
      type,
      bytes: new Uint8Array(readFileSync(path)),
    });
  }
  return files;
}

function isBuilt(folder: string): boolean {
  return statSync(join(folder, 'index.html'), { throwIfNoEntry: false }) !== undefined;
}

/** Whether each file that the page was made of is as it was. */
function isFresh(folder: string): boolean {
  if (!isBuilt(folder)) return false;
  try {
    const made = JSON.parse(readFileSync(join(folder, STAMP), 'utf8')) as Array<[string, number, number]>;
    return made.every(([path, time, size]) => {
      const now = statSync(join(CHECKOUT, path), { throwIfNoEntry: false });
      return now !== undefined && now.mtimeMs === time && now.size === size;
    });
  } catch {
    return false;
  }
}
