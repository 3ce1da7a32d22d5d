/**
 * podman's, buildah's and CRI-O's storage.conf: the additional image store of cofa is added to its list. The file itself
 * marks what was changed, as toml-edit.ts does.
 */
import { CofaError } from '../../schemas/errors.ts';
import type { FileChange, ReadFile } from './plans.ts';
import { applyEdits, isEdited, revertEdits, tableValue } from './toml-edit.ts';

export const STORAGE_CONF = '/etc/containers/storage.conf';
/** What distributions bring; where the file above is there, podman reads none of this one. */
export const SYSTEM_STORAGE_CONF = '/usr/share/containers/storage.conf';

const OPTIONS = ['storage', 'options'] as const;
const KEY = 'additionalimagestores';
const MARK = '# cofa install';
const COPIED =
  '# cofa install has made this file: podman reads it instead of /usr/share/containers/storage.conf.';
/** What containers/storage takes where there is no file. */
const DEFAULTS = `[storage]
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
`;

/** The file with the store in it; the same text where it is there. Error `unsupported` where its list cannot be understood. */
export function storageConf(before: string | undefined, system: string | undefined, store: string): string {
  const text = before ?? `${COPIED}\n${system ?? DEFAULTS}`;
  const driver = tableValue(text, ['storage'], 'driver')?.replaceAll(/["']/g, '') ?? '';
  if (driver !== '' && driver !== 'overlay')
    throw new CofaError('unsupported', `podman keeps its images by the driver ${driver}`, {
      hint: 'images of cofa need overlay: podman system reset, and driver = "overlay" in storage.conf',
    });
  if (imageStoresOf(text).includes(store)) return text;
  const plain = revertStorage(text);
  const lines = plain.split('\n');
  const at = listLine(lines);
  if (at === undefined)
    return applyEdits(plain, [{ table: OPTIONS, keys: { [KEY]: `[${JSON.stringify(store)}]` } }]);
  const line = lines[at] as string;
  const open = line.indexOf('[');
  if (open < 0) throw notUnderstood(line);
  const rest = line.slice(open + 1);
  if (rest.replace(/#.*$/, '').includes(']')) {
    const others = storesIn(line.slice(open));
    const literal = `[${[store, ...others].map((one) => JSON.stringify(one)).join(', ')}]`;
    return applyEdits(plain, [{ table: OPTIONS, keys: { [KEY]: literal } }]);
  }
  // A list over several lines gets one more.
  lines.splice(at + 1, 0, `  ${JSON.stringify(store)}, ${MARK}: line`);
  return lines.join('\n');
}

/** The file without what `storageConf` has written; undefined where it is what was copied then, and nothing else. */
export function withoutStore(text: string, system: string | undefined): string | undefined {
  const plain = revertStorage(text);
  if (!plain.startsWith(`${COPIED}\n`)) return plain;
  const copied = plain.slice(COPIED.length + 1);
  return copied.trim() === (system ?? DEFAULTS).trim() ? undefined : copied;
}

const revertStorage = (text: string): string =>
  revertEdits(
    text
      .split('\n')
      .filter((line) => !line.endsWith(`${MARK}: line`))
      .join('\n'),
  );

export const isStorageEdited = (text: string): boolean => isEdited(text) || text.includes(`${MARK}: line`);

/** The additional image stores that a storage.conf names. */
export function imageStoresOf(text: string): string[] {
  const lines = text.split('\n');
  const at = listLine(lines);
  if (at === undefined) return [];
  let list = '';
  for (const line of lines.slice(at)) {
    list += `${line.replace(/(^|\s)#.*$/, '')}\n`;
    if (list.includes(']')) break;
  }
  return storesIn(list);
}

const storesIn = (list: string): string[] =>
  Array.from(list.matchAll(/"([^"]*)"|'([^']*)'/g), ([, double, single]) => double ?? (single as string));

/** The line of the key in `[storage.options]`. */
function listLine(lines: readonly string[]): number | undefined {
  if (tableValue(lines.join('\n'), OPTIONS, KEY) === undefined) return undefined;
  const header = lines.findIndex((line) => /^\s*\[\s*storage\s*\.\s*options\s*\]/.test(line));
  const at = lines.findIndex((line, index) => index > header && new RegExp(`^\\s*${KEY}\\s*=`).test(line));
  return header < 0 || at < 0 ? undefined : at;
}

const notUnderstood = (line: string): CofaError =>
  new CofaError('unsupported', `this line of storage.conf is not understood: ${line.trim()}`, {
    hint: `add cofa's store to ${KEY} by hand`,
  });

/** What `cofa install podman` changes, beside the engine's service. Errors: those of `storageConf`. */
export function planPodman(order: { path: string; read: ReadFile; store: string }): FileChange[] {
  const { path, read, store } = order;
  const before = read(path);
  const after = storageConf(before, read(SYSTEM_STORAGE_CONF), store);
  const why = 'podman, buildah and CRI-O find the images of cofa';
  return before === after ? [] : [{ path, before, after, why }];
}

/** How `cofa uninstall podman` takes that back. */
export function planPodmanUninstall({ path, read }: { path: string; read: ReadFile }): FileChange[] {
  const before = read(path);
  if (before === undefined || !isStorageEdited(before)) return [];
  const after = withoutStore(before, read(SYSTEM_STORAGE_CONF));
  return [{ path, before, after, why: 'podman, buildah and CRI-O forget cofa' }];
}
