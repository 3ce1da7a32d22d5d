/**
 * The files of the private nats-server's event log, brought onto the disk. nats-server acknowledges an event when it is
 * written, which survives its own death and not the machine's: it syncs its files every minute or two (server/filestore.go,
 * `SyncInterval`), and only from 2.10 on can be told to do so always. So who was promised something waits for a sync of
 * the same files from here; it covers all that was acknowledged before, whichever process wrote it.
 */
import { open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { SNAPSHOT_STREAM, STREAM } from '../../schemas/subjects.ts';
import { foundStreamFolder } from './nats-files.ts';

export class LogFiles {
  readonly #folder: string;
  readonly #events: StreamFiles;
  readonly #snapshots: StreamFiles;
  #known = false;

  /** `folder`: `store_dir` of the nats-server. */
  constructor(folder: string) {
    this.#folder = folder;
    this.#events = new StreamFiles(folder, STREAM);
    this.#snapshots = new StreamFiles(folder, SNAPSHOT_STREAM);
  }

  /** What the log acknowledged before the call is on the disk when it returns. */
  readonly sync = (): Promise<void> => this.#sync(this.#events);

  /** The same for the snapshots. */
  readonly syncSnapshots = (): Promise<void> => this.#sync(this.#snapshots);

  async #sync(stream: StreamFiles): Promise<void> {
    if (!this.#known) await syncTree(this.#folder);
    this.#known = true;
    await stream.sync();
  }
}

class StreamFiles {
  readonly #store: string;
  readonly #stream: string;
  /** Number of the last message file that was there at the last sync; 0: none yet. */
  #last = 0;
  /** Known from the first sync on, when the stream is there. */
  #folder: string | undefined;

  constructor(folder: string, stream: string) {
    this.#store = folder;
    this.#stream = stream;
  }

  async sync(): Promise<void> {
    const folder = this.#folder ?? join(await foundStreamFolder(this.#store, this.#stream), 'msgs');
    const numbers = await messageFiles(folder);
    this.#folder = folder;
    // Earlier ones are complete and were synced; the last one may have grown since.
    for (const number of numbers) if (number >= this.#last) await syncFile(join(folder, `${number}.blk`));
    const last = numbers.at(-1) ?? 0;
    if (last !== this.#last) await syncFile(folder);
    this.#last = last;
  }
}

/** Numbers of a stream's message files, in order. */
async function messageFiles(folder: string): Promise<number[]> {
  const names = await readdir(folder);
  return names
    .flatMap((name) => (name.endsWith('.blk') ? [Number.parseInt(name, 10)] : []))
    .sort((a, b) => a - b);
}

async function syncFile(path: string): Promise<void> {
  const file = await open(path, 'r').catch((error: NodeJS.ErrnoException) => {
    // Removed since it was listed: nothing of it is needed any more.
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (file === undefined) return;
  try {
    await file.datasync();
  } finally {
    await file.close();
  }
}

/** The streams' own descriptions, and the folders that everything lies in. */
async function syncTree(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) await syncTree(path);
    else if (entry.isFile()) await syncFile(path);
  }
  await syncFile(folder);
}
