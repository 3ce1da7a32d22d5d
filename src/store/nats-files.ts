/** Where the private nats-server has the files of its streams: below `jetstream/<account>/streams` of its `store_dir`. */
import { access, mkdir, readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { PACK_BUCKET, SNAPSHOT_STREAM, STREAM } from '../../schemas/subjects.ts';

/** The account of the log and of all that the engine's processes say to each other. */
export const LOG_ACCOUNT = 'COFA';
/** The account of the startup packs. */
export const PACK_ACCOUNT = 'PACKS';

/** Of the account that there was before there were several. */
const GLOBAL_ACCOUNT = '$G';

const ACCOUNT_OF: Readonly<Record<string, string>> = {
  [STREAM]: LOG_ACCOUNT,
  [SNAPSHOT_STREAM]: LOG_ACCOUNT,
  [`OBJ_${PACK_BUCKET}`]: PACK_ACCOUNT,
};

/** The folder of a stream; `store` is the server's `store_dir`. */
export const streamFolder = (store: string, stream: string): string =>
  folderIn(store, ACCOUNT_OF[stream] ?? GLOBAL_ACCOUNT, stream);

/**
 * Where a running server has the stream: one that an engine of before has started, whose processes were upgraded since, goes
 * on with its only account.
 */
export async function foundStreamFolder(store: string, stream: string): Promise<string> {
  const now = streamFolder(store, stream);
  return (await isThere(now)) ? now : folderIn(store, GLOBAL_ACCOUNT, stream);
}

/**
 * Moves what an engine wrote before there were accounts to where it belongs; the server must not run. A stream that is there
 * already stays as it is. Returns the names of those that were moved.
 */
export async function moveToAccounts(store: string): Promise<string[]> {
  const found = await readdir(join(store, 'jetstream', GLOBAL_ACCOUNT, 'streams')).catch(() => []);
  const moved: string[] = [];
  for (const stream of found) {
    const target = streamFolder(store, stream);
    if (!(stream in ACCOUNT_OF) || (await isThere(target))) continue;
    await mkdir(join(target, '..'), { recursive: true, mode: 0o700 });
    await rename(folderIn(store, GLOBAL_ACCOUNT, stream), target);
    moved.push(stream);
  }
  return moved;
}

const isThere = (path: string): Promise<boolean> =>
  access(path).then(
    () => true,
    () => false,
  );

const folderIn = (store: string, account: string, stream: string): string =>
  join(store, 'jetstream', account, 'streams', stream);
