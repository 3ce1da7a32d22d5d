/**
 * The files that PostgreSQL's initdb reads beside itself and the server: the files of its share from which it makes the
 * first database, the libraries that it loads by name, and some of ICU's data. Of those it reads the collations, since
 * it makes one for each of ICU's locales, and the names of languages and regions (initdb.c, `setup_run_file` and its
 * callers; pg_collation's `pg_import_system_collations`).
 *
 * ICU's data are one table of contents with all items (icu4c, `UDataOffsetTOC` in ucmndata.h): names like
 * `icudt72l/coll/de.res` in order, so a folder lies in one piece.
 */
import { folderOf, type FoundFile, type HintSearch, nameOf } from './image-files.ts';

const SHARED = /\.(?:bki|sql|sample)$|^sql_features\.txt$/;
const MORE_SHARED = ['timezonesets/Default', 'extension/plpgsql.control', 'extension/plpgsql--1.0.sql'];
const LIBRARIES = ['dict_snowball.so', 'plpgsql.so'];
const MOST_SHARED = 64;

/** `initdb`: the program. */
export async function startInitdb(search: HintSearch, initdb: FoundFile): Promise<void> {
  const bin = folderOf(initdb.path);
  const share = sharesOf(bin).find((folder) => search.files.find(`${folder}/postgres.bki`) !== undefined);
  if (share !== undefined) {
    const names = search.files.list(share).filter((name) => SHARED.test(name));
    for (const name of [...names.slice(0, MOST_SHARED), ...MORE_SHARED]) search.wantPath(`${share}/${name}`);
  }
  const lib = [`${folderOf(bin)}/lib`, `${folderOf(bin)}/lib/postgresql`];
  for (const folder of lib) for (const name of LIBRARIES) search.wantPath(`${folder}/${name}`);
  const data = search.wanted.find(({ file }) => nameOf(file.path).startsWith('libicudata.so'));
  if (data !== undefined) await wantCollations(search, data.file);
}

/** Debian has lib/postgresql/VERSION/bin beside share/postgresql/VERSION; built by hand they are in one prefix. */
function sharesOf(bin: string): string[] {
  const prefix = folderOf(bin);
  const debian = /^(.*)\/lib\/postgresql\/([^/]+)$/.exec(prefix);
  const own = [`${prefix}/share/postgresql`, `${prefix}/share`];
  return debian === null ? own : [`${debian[1]}/share/postgresql/${debian[2]}`, ...own];
}

const FOLDERS = ['coll', 'lang', 'region'];
/** The search for the table reads so many bytes at the beginning; it reads so many bytes and items of the table. */
const MOST_FRONT = 64 << 10;
const MOST_TABLE = 1 << 20;
const MOST_ITEMS = 20_000;
/** Largest folder to hint at, bytes. */
const MOST_FOLDER = 16 << 20;

async function wantCollations(search: HintSearch, file: FoundFile): Promise<void> {
  const front = await search.read(file, 0, MOST_FRONT);
  const header = headerAt(front);
  if (header === undefined) return;
  const begin = header + front.readUInt16LE(header);
  const table = await search.read(file, begin, MOST_TABLE);
  const items = itemsOf(table);
  search.want(file, header, begin + Math.min(table.length, items.tableEnd));
  for (const folder of FOLDERS) {
    const first = items.places.findIndex(({ name }) => folderOfItem(name) === folder);
    if (first < 0) continue;
    let last = first;
    while (folderOfItem(items.places[last + 1]?.name ?? '') === folder) last += 1;
    const from = begin + (items.places[first]?.at ?? 0);
    const end = items.places[last + 1]?.at;
    const to = end === undefined ? file.size : begin + end;
    if (to - from <= MOST_FOLDER) search.want(file, from, to);
  }
}

const folderOfItem = (name: string): string => name.split('/')[1] ?? '';

/** `DataHeader` (udata.h): u16 size, magic da 27, …, at 12 the format's name. Undefined: there is none. */
function headerAt(front: Buffer): number | undefined {
  for (let at = 0; at + 16 <= front.length; at += 16)
    if (
      front[at + 2] === 0xda &&
      front[at + 3] === 0x27 &&
      front.toString('latin1', at + 12, at + 16) === 'CmnD'
    )
      return at;
  return undefined;
}

/** u32 count, then for each item u32 offset of its name, u32 offset of its data, both from the count on. */
function itemsOf(table: Buffer): { places: Array<{ name: string; at: number }>; tableEnd: number } {
  const places: Array<{ name: string; at: number }> = [];
  if (table.length < 4) return { places, tableEnd: 0 };
  const count = Math.min(table.readUInt32LE(0), MOST_ITEMS, Math.floor((table.length - 4) / 8));
  let tableEnd = 4 + count * 8;
  for (let item = 0; item < count; item++) {
    const nameAt = table.readUInt32LE(4 + item * 8);
    const end = table.indexOf(0, nameAt);
    if (nameAt >= table.length || end < 0) break;
    tableEnd = Math.max(tableEnd, end);
    places.push({ name: table.toString('latin1', nameAt, end), at: table.readUInt32LE(8 + item * 8) });
  }
  return { places, tableEnd };
}
