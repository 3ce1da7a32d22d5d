/**
 * The files that the `java` launcher of a JDK reads: its libraries, which it loads by name and is not linked with, the
 * archive of shared classes, the head of the image of modules, and the program's archives.
 */
import { type FoundFile, folderOf, type HintSearch } from './image-files.ts';
import type { Libraries } from './libraries.ts';

const LIBRARIES = ['libjli.so', 'server/libjvm.so', 'libjava.so', 'libjimage.so', 'libzip.so'];
/** Programs of nearly any kind need these, `java --version` does not. */
const LATER = ['libnio.so', 'libnet.so'];
const FIRST_FILES = ['/etc/nsswitch.conf', '/etc/localtime'];
const LATER_FILES = ['tzdb.dat', '../conf/security/java.security', '../conf/logging.properties'];
/** The index and the first classes, bytes. */
const MODULES_FRONT = 1 << 20;
const MODULES_END = 64 * 1024;
/** An archive's table is at its end; a small one is read whole. */
const WHOLE_ARCHIVE = 8 << 20;
const ARCHIVE_END = 1 << 20;
const MOST_ARCHIVES = 256;

export const isJava = (program: string): boolean => program === 'java';

/** `program`: the launcher. */
export async function startJava(
  search: HintSearch,
  libraries: Libraries,
  program: FoundFile,
): Promise<string | undefined> {
  const lib = `${folderOf(folderOf(program.path))}/lib`;
  if (search.files.find(`${lib}/modules`) === undefined) return undefined;
  search.wantPath(`${lib}/jvm.cfg`);
  for (const name of LIBRARIES) await loadPath(search, libraries, `${lib}/${name}`);
  const modules = search.files.find(`${lib}/modules`);
  if (modules !== undefined) {
    search.want(modules, 0, MODULES_FRONT);
    search.want(modules, modules.size - MODULES_END, modules.size);
  }
  search.wantPath(`${lib}/server/classes.jsa`);
  for (const path of FIRST_FILES) search.wantPath(path);
  return lib;
}

/** Runs what the arguments behind the launcher's name say. `lib`: what `startJava` has found. */
export async function runJava(
  search: HintSearch,
  libraries: Libraries,
  lib: string,
  args: readonly string[],
  folder: string,
): Promise<void> {
  let isProgram = false;
  for (let at = 0; at < args.length; at++) {
    const word = args[at] as string;
    if (word === '-jar') {
      isProgram = true;
      wantArchive(search, pathIn(folder, args[at + 1] ?? ''));
      break;
    }
    if (word === '-cp' || word === '-classpath' || word === '--class-path') {
      at += 1;
      for (const part of (args[at] ?? '').split(':', MOST_ARCHIVES))
        wantArchives(search, pathIn(folder, part));
    } else if (!word.startsWith('-')) {
      isProgram = true;
      break;
    }
  }
  if (!isProgram) return;
  for (const name of LATER) await loadPath(search, libraries, `${lib}/${name}`);
  for (const name of LATER_FILES) search.wantPath(`${lib}/${name}`);
}

/** Scripts that start programs of Java lie in a folder `bin`, and the archives beside them or in `lib` beside that. */
export function wantArchivesBeside(search: HintSearch, script: FoundFile): void {
  const bin = folderOf(script.path);
  for (const folder of [bin, `${folderOf(bin)}/lib`]) wantArchives(search, `${folder}/*`);
}

const pathIn = (folder: string, path: string): string => (path.startsWith('/') ? path : `${folder}/${path}`);

async function loadPath(search: HintSearch, libraries: Libraries, path: string): Promise<void> {
  const file = search.files.find(path);
  if (file?.kind === 'file') await libraries.load(file, path);
}

function wantArchives(search: HintSearch, path: string): void {
  if (!path.endsWith('/*')) return wantArchive(search, path);
  const folder = folderOf(path);
  for (const name of search.files.list(folder).slice(0, MOST_ARCHIVES))
    if (name.endsWith('.jar')) wantArchive(search, `${folder}/${name}`);
}

function wantArchive(search: HintSearch, path: string): void {
  const file = search.files.find(path);
  if (file?.kind !== 'file') return;
  if (file.size > WHOLE_ARCHIVE) search.want(file, file.size - ARCHIVE_END, file.size);
  else search.want(file);
}
