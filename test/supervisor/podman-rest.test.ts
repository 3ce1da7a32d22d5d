/** Layers that podman had, and that no image of the store needs any more. */
import { existsSync } from 'node:fs';
import { mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import { subjects } from '../../schemas/subjects.ts';
import { Layout } from '../../src/store/layout.ts';
import { LiveFold } from '../../src/store/live-fold.ts';
import { NodeFold } from '../../src/store/node-fold.ts';
import { linkOf } from '../../src/supervisor/podman/documents.ts';
import { runFolder } from '../../src/supervisor/podman/files.ts';
import { PodmanStore, type PodmanStoreOptions } from '../../src/supervisor/podman/store.ts';
import { Cleanup } from '../support/temp.ts';

const LAYER = 'a'.repeat(64);
const cleanup = new Cleanup();
let layout: Layout;
let dir: string;
let isBusy: boolean;

beforeEach(async () => {
  layout = new Layout(await cleanup.tempDir('podman'));
  const run = runFolder(layout.root);
  cleanup.defer(() => rm(dirname(run), { recursive: true, force: true }));
  dir = join(run, 'layers', LAYER);
  isBusy = true;
});
afterEach(() => cleanup.run());

/** A store that has no image, and one mount that is left. */
function store(): PodmanStore {
  let mounted = [{ dir, state: 'mounted' }];
  return new PodmanStore({
    layout,
    log: pino({ level: 'silent' }),
    live: new LiveFold({
      events: { append: () => Promise.reject(new Error('nothing is appended')) },
      names: subjects('node'),
      fold: new NodeFold(),
    }),
    mounts: {
      list: () => mounted,
      unmount: async () => {
        if (isBusy) throw new CofaError('busy', `${dir} is in use by the mount /merged`);
        mounted = [];
      },
    },
  } as unknown as PodmanStoreOptions);
}

test('a layer below a running container keeps the link by which its overlay names it', async () => {
  const folder = join(layout.podman(), 'overlay', LAYER);
  const link = join(layout.podman(), 'overlay/l', linkOf(LAYER));
  await mkdir(folder, { recursive: true });
  await mkdir(dirname(link), { recursive: true });
  await mkdir(dir, { recursive: true });
  await symlink(dir, join(folder, 'diff'));
  await symlink(`../${LAYER}/diff`, link);
  await writeFile(join(folder, 'link'), linkOf(LAYER));
  const podman = store();
  await podman.begin();
  expect(existsSync(link)).toBe(true);
  isBusy = false;
  await podman.begin();
  expect([existsSync(link), existsSync(folder)]).toEqual([false, false]);
  await podman.close();
});
