/**
 * Programs that a program starts, by the names that stand among its strings: compilers start compilers proper, assemblers and
 * linkers, servers their helpers. Most strings are no names of programs, and programs such as `sort` and `test` share theirs with
 * words, so a name counts
 *
 *     below a folder that the program names as well      /usr/lib/gcc/ and cc1plus
 *     in its own folder where that is not in PATH          erlexec and beam(.smp)
 *     in PATH where no word looks like it                  g++, gcc-12, ld.bfd
 */
import { type FoundFile, folderOf, type HintSearch, nameOf } from './image-files.ts';

/** Larger ones are interpreters and servers, whose strings are many. */
const MOST_PROGRAM = 2 << 20;
const LARGE = 8 << 20;
const MOST_STRINGS = 20_000;
const MOST_FOLDERS = 16;
/** Folders of one that is named, itself among them. */
const MOST_BELOW = 32;
const DEPTH = 3;
const MOST_HELPERS = 12;
const STRING = /\0([\w.+/-]{2,200})(?=\0)/g;
const NAME = /^[a-z][\w.+-]{1,30}$/;
const UNLIKE_WORDS = /^[a-z]+(?:\+\+|[-.][\w.]+)$/;
const LIBRARY = /\.so(?:\.|$)|\.(?:a|o|c|h|cc|conf|txt|log|pid)$/;
const FOLDER = /^(?:\/[\w.+-]+){3,8}\/?$/;

/** Paths of programs; `inPath` says where PATH leads. */
export async function helpersOf(
  search: HintSearch,
  program: FoundFile,
  inPath: (name: string) => string | undefined,
): Promise<string[]> {
  if (program.size > MOST_PROGRAM) return [];
  const bytes = await search.read(program, 0, program.size);
  const strings = new Set<string>();
  for (const [, one = ''] of bytes.toString('latin1').matchAll(STRING)) {
    strings.add(one);
    if (strings.size >= MOST_STRINGS) break;
  }
  const names = [...strings].filter((one) => NAME.test(one) && !LIBRARY.test(one));
  const folders = [...strings].filter((one) => FOLDER.test(one)).slice(0, MOST_FOLDERS);
  const [own, home] = [nameOf(program.path), folderOf(program.path)];
  const same = inPath(own);
  const isPrivate = same === undefined || search.files.find(same)?.path !== program.path;
  const below = programsBelow(search, isPrivate ? [home, ...folders] : folders);
  const found = new Set<string>();
  /** Of large ones, which are most often alternatives, the largest. */
  let largest: { path: string; size: number } | undefined;
  for (const name of names) {
    if (found.size >= MOST_HELPERS) break;
    const path = below.get(name) ?? (UNLIKE_WORDS.test(name) ? inPath(name) : undefined);
    const file = path === undefined ? undefined : search.files.find(path);
    if (path === undefined || file === undefined || name === own) continue;
    if (file.size <= LARGE) found.add(path);
    else if (file.size > (largest?.size ?? 0)) largest = { path, size: file.size };
  }
  return [...found, ...(largest === undefined ? [] : [largest.path])];
}

/** By their names, in these folders and up to two levels below them. */
function programsBelow(search: HintSearch, folders: readonly string[]): Map<string, string> {
  const found = new Map<string, string>();
  for (const root of folders) {
    let level = [root.replace(/\/$/, '')];
    let left = MOST_BELOW;
    for (let depth = 0; depth < DEPTH && left > 0; depth++) {
      const below: string[] = [];
      for (const folder of level.slice(0, left)) {
        left -= 1;
        for (const name of search.files.list(folder)) {
          const path = `${folder}/${name}`;
          const file = search.files.find(path);
          if (file?.kind === 'dir') below.push(path);
          else if (file?.kind === 'file' && file.isExecutable) {
            for (const called of [name, name.replace(/\.[^.]*$/, '')])
              if (!found.has(called)) found.set(called, path);
          }
        }
      }
      level = below;
    }
  }
  return found;
}
