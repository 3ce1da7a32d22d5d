/** Whether CRI-O of this machine finds cofa's images, and keeps what stands on them after it was killed; as `cofa doctor` tells it. */
import { readdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CRIO_FOLDER, repairs } from '../install/crio.ts';
import { STORAGE_CONF } from '../install/podman.ts';
import type { Check } from './doctor-checks.ts';
import { knowsStore } from './podman-storage.ts';

export interface FoundCrio {
  /** The texts of its settings, in the order in which it reads them; none: it is not on this machine. */
  settings: readonly string[];
  /** storage.conf names the store of this engine. */
  knowsStore: boolean;
}

/** Nothing of a machine without CRI-O, or where it was not told of cofa, is complained about. */
export async function checkCrio(root: string): Promise<Check[]> {
  const texts = await Promise.all(
    (await settingsFiles()).map((path) => readFile(path, 'utf8').catch(() => undefined)),
  );
  const settings = texts.filter((text) => text !== undefined);
  return judgeCrio({ settings, knowsStore: await knowsStore(STORAGE_CONF, root) });
}

async function settingsFiles(): Promise<string[]> {
  const names = await readdir(CRIO_FOLDER).catch(() => []);
  return [
    join(dirname(CRIO_FOLDER), 'crio.conf'),
    ...names.toSorted().map((name) => join(CRIO_FOLDER, name)),
  ];
}

export function judgeCrio({ settings, knowsStore }: FoundCrio): Check[] {
  if (settings.length === 0 || !knowsStore) return [];
  const name = 'CRI-O';
  if (!repairs(settings)) return [{ name, state: 'ok', found: 'finds the images of cofa' }];
  return [
    {
      name,
      state: 'warn',
      found: 'finds the images of cofa, and repairs its storage after it was killed (internal_repair)',
      means:
        'unless it has a fix of 2026 (docs/crio.md) it then wipes its storage: it forgets containers that run, and deletes images',
      fix: 'cofa install crio, then systemctl restart crio',
    },
  ];
}
