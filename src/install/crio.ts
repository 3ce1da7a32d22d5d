/**
 * CRI-O finds cofa's images by podman's storage.conf (podman.ts). Beside that it gets one setting, in a file of its own
 * folder, so that no file of others has to be changed.
 */
import { join } from 'node:path';
import type { FileChange, ReadFile } from './plans.ts';
import { tableValue } from './toml-edit.ts';

/** Files of settings, which CRI-O reads in the order of their names: the last one wins. */
export const CRIO_FOLDER = '/etc/crio/crio.conf.d';

const FILE = '99-cofa.conf';
const MARK = '# Written by cofa install crio';
const TEXT = `${MARK}; cofa uninstall crio removes it.
[crio]
# When CRI-O was killed, or the machine lost its power, CRI-O looks for damage in its storage at its next start. Without this fix
# of 2026 it takes each container and image on an additional image store for damaged, and wipes the whole storage:
# https://github.com/podman-container-tools/container-libs/pull/888
internal_repair = false
`;

/** What `cofa install crio` changes beside storage.conf and the engine's service. */
export function planCrio({ folder, read }: { folder: string; read: ReadFile }): FileChange[] {
  const path = join(folder, FILE);
  const before = read(path);
  const why = 'CRI-O deletes no images and containers after it was killed';
  return before === TEXT ? [] : [{ path, before, after: TEXT, why }];
}

/** How `cofa uninstall crio` takes that back; a file that cofa has not written stays. */
export function planCrioUninstall({ folder, read }: { folder: string; read: ReadFile }): FileChange[] {
  const path = join(folder, FILE);
  const before = read(path);
  if (before?.startsWith(MARK) !== true) return [];
  return [{ path, before, after: undefined, why: 'CRI-O repairs its storage as before' }];
}

/** Whether CRI-O repairs its storage, by the texts of its settings in the order in which it reads them. By default it does. */
export const repairs = (settings: readonly string[]): boolean =>
  settings.reduce((before, text) => {
    const literal = tableValue(text, ['crio'], 'internal_repair');
    return literal === undefined ? before : !literal.startsWith('false');
  }, true);
