/** The incidents of a root, and their stretches of the log as sources of their own. A few are open at once. */
import { statSync } from 'node:fs';
import type { IncidentListed, IncidentShown } from '../../schemas/incidents.ts';
import { CofaError } from '../../schemas/errors.ts';
import { listedOf, shownOf } from '../incidents/describe.ts';
import { IncidentFolder, isIncidentName, type StoredIncident } from '../incidents/folder.ts';
import { loadFile } from '../replay/load.ts';
import { Source } from './source.ts';
import { Streams } from './stream.ts';

/** Stretches that are open at once; each has 20,000 events at most. */
const MOST_OPEN = 4;

export interface OpenStretch {
  source: Source;
  streams: Streams;
}

interface Kept {
  stretch: Promise<OpenStretch>;
  /** Which file it was read from: the black box keeps an incident anew when it has grown. */
  mark: number | undefined;
  /** Requests and pages that look at it. */
  users: number;
}

export class IncidentLogs {
  readonly #root: string;
  readonly #folder: IncidentFolder;
  /** The one used last at the end. */
  readonly #open = new Map<string, Kept>();

  constructor(root: string, dir: string) {
    this.#root = root;
    this.#folder = new IncidentFolder(dir);
  }

  /** The newest first. `problems`: what cannot be read, a sentence each. */
  async list(): Promise<{ incidents: IncidentListed[]; problems: string[] }> {
    const { incidents, problems } = await this.#folder.list();
    return { incidents: incidents.map(listedOf).toReversed(), problems };
  }

  /** Errors: `not-found`, `integrity`. */
  async show(name: string, signal: AbortSignal): Promise<IncidentShown> {
    return await shownOf(await this.#stored(name), { root: this.#root, signal });
  }

  /** Holds the stretch of an incident open; call `leave` when done. Errors: `not-found`, `integrity`, `busy`. */
  async enter(name: string): Promise<OpenStretch & { leave: () => void }> {
    const kept = this.#kept(name) ?? this.#begin(name);
    this.#open.delete(name);
    this.#open.set(name, kept);
    kept.users += 1;
    let isIn = true;
    const leave = () => {
      if (isIn) kept.users -= 1;
      isIn = false;
    };
    try {
      return { ...(await kept.stretch), leave };
    } catch (error) {
      leave();
      if (this.#open.get(name) === kept) this.#open.delete(name);
      throw error;
    }
  }

  /** What is open of it, and still what lies on the disk. */
  #kept(name: string): Kept | undefined {
    const kept = this.#open.get(name);
    if (kept === undefined || kept.users > 0 || kept.mark === this.#markOf(name)) return kept;
    this.#open.delete(name);
    void closeOf(kept);
    return undefined;
  }

  #begin(name: string): Kept {
    const mark = this.#markOf(name);
    return { stretch: this.#load(name, mark), mark, users: 0 };
  }

  /** Rises when another file takes the name. */
  #markOf(name: string): number | undefined {
    if (!isIncidentName(name)) return undefined;
    const { mtimeMs } = statSync(this.#folder.logPath(name), { throwIfNoEntry: false }) ?? {};
    return mtimeMs === undefined ? undefined : Math.round(mtimeMs * 1_000);
  }

  async close(): Promise<void> {
    const all = [...this.#open.values()];
    this.#open.clear();
    await Promise.all(all.map(closeOf));
  }

  async #load(name: string, mark = 1): Promise<OpenStretch> {
    if (this.#open.size >= MOST_OPEN) await this.#makeRoom();
    const { path, facts } = await this.#stored(name);
    if (path === undefined)
      throw new CofaError('not-found', `the stretch of the log of incident ${name} is not there`);
    const loaded = await loadFile(path, { partial: true });
    const title = `incident ${facts.incident.seq} of ${facts.node}`;
    // A stretch that was closed meanwhile and is opened again is the same, as long as its file is.
    const source = new Source({ loaded: { ...loaded, title }, incidents: this, generation: mark });
    return { source, streams: new Streams(source) };
  }

  async #makeRoom(): Promise<void> {
    const idle = [...this.#open].find(([, { users }]) => users === 0);
    if (idle === undefined)
      throw new CofaError('busy', 'too many incidents are looked at', { hint: 'close some of their pages' });
    this.#open.delete(idle[0]);
    await closeOf(idle[1]);
  }

  async #stored(name: string): Promise<StoredIncident> {
    const stored = isIncidentName(name) ? await this.#folder.read(name) : undefined;
    if (stored === undefined) throw new CofaError('not-found', `there is no incident ${name.slice(0, 60)}`);
    return stored;
  }
}

async function closeOf({ stretch }: Kept): Promise<void> {
  const opened = await stretch.catch(() => undefined);
  opened?.streams.close();
  await opened?.source.closeLog();
}
