/**
 * The folder of incidents, ROOT/incidents. Each is two files, named after its time and its number:
 *
 *     20261201T041226Z-1234.cofa-log   the stretch of the event log, as `cofa events export` writes it
 *     20261201T041226Z-1234.json       what happened (schemas/incidents.ts); written last: without it there is no incident
 *     place.json                       how far the log was looked at (place.ts)
 *
 * The name follows from the log, so the same incident found again lands on itself.
 */
import { readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Incident } from '../../actors/incidents.ts';
import { CofaError } from '../../schemas/errors.ts';
import { IncidentFile } from '../../schemas/incidents.ts';
import { writeWhole } from '../store/layout.ts';

export const LOG_SUFFIX = '.cofa-log';
const FACTS_SUFFIX = '.json';
const NAME = /^\d{8}T\d{6}Z-(\d{1,16})$/;
/** Bytes of a file of facts; what is larger is none. */
const MAX_FACTS = 256 << 10;

export interface StoredIncident {
  name: string;
  facts: IncidentFile;
  /** Of its files. */
  bytes: number;
  /** The stretch of the log; undefined: there is none. */
  path: string | undefined;
}

/** Bytes and number of incidents that are kept at most. */
export interface Budget {
  bytes: number;
  count: number;
}

export const isIncidentName = (name: string): boolean => NAME.test(name);

export function nameOf({ seq, at }: Pick<Incident, 'seq' | 'at'>): string {
  const time = new Date(at).toISOString().replace(/\.\d+/, '').replaceAll(/[-:]/g, '');
  return `${time}-${seq}`;
}

export class IncidentFolder {
  readonly dir: string;

  constructor(dir: string) {
    this.dir = dir;
  }

  logPath = (name: string): string => join(this.dir, name + LOG_SUFFIX);
  factsPath = (name: string): string => join(this.dir, name + FACTS_SUFFIX);

  /** The oldest first. `problems`: what cannot be read, a sentence each. */
  async list(): Promise<{ incidents: StoredIncident[]; problems: string[] }> {
    const names = (await this.#names()).filter((file) => file.endsWith(FACTS_SUFFIX));
    const incidents: StoredIncident[] = [];
    const problems: string[] = [];
    for (const file of names.sort()) {
      const name = file.slice(0, -FACTS_SUFFIX.length);
      if (!NAME.test(name)) continue;
      const read = await this.read(name).catch((error: Error) => error.message);
      if (typeof read === 'string') problems.push(read);
      else if (read !== undefined) incidents.push(read);
    }
    return { incidents, problems };
  }

  /** Undefined: there is none of this name. Error `integrity` where its facts are none. */
  async read(name: string): Promise<StoredIncident | undefined> {
    const path = this.factsPath(name);
    const size = await sizeOf(path);
    if (size === undefined) return undefined;
    let facts: IncidentFile;
    try {
      if (size > MAX_FACTS) throw new Error(`it has ${size} bytes`);
      facts = IncidentFile.parse(JSON.parse(await readFile(path, 'utf8')));
    } catch (cause) {
      throw new CofaError('integrity', `${path} does not tell of an incident`, {
        cause,
        hint: `remove it: cofa incidents rm ${name}`,
      });
    }
    const log = await sizeOf(this.logPath(name));
    return {
      name,
      facts,
      bytes: size + (log ?? 0),
      path: log === undefined ? undefined : this.logPath(name),
    };
  }

  /** The incident of this name or number, or the `last` one. Errors: `not-found`, `invalid-argument` where there are several. */
  async find(wanted: string): Promise<StoredIncident> {
    const { incidents } = await this.list();
    const found =
      wanted === 'last'
        ? incidents.slice(-1)
        : incidents.filter(({ name }) => name === wanted || NAME.exec(name)?.[1] === wanted);
    const [one, other] = found;
    const hint = 'cofa incidents ls lists them';
    if (one === undefined)
      throw new CofaError(
        'not-found',
        wanted === 'last' ? 'no incident is kept' : `there is no incident ${wanted}`,
        { hint: wanted === 'last' ? 'an engine keeps one some seconds after the failure has ended' : hint },
      );
    if (other !== undefined)
      throw new CofaError('invalid-argument', `${wanted} is ${one.name}, or ${other.name}`, { hint });
    return one;
  }

  async write(name: string, facts: IncidentFile): Promise<void> {
    await writeWhole(this.factsPath(name), Buffer.from(`${JSON.stringify(facts, null, 2)}\n`));
  }

  /** First that there is one, then its stretch. */
  async remove(name: string): Promise<void> {
    if (!NAME.test(name)) throw new CofaError('invalid-argument', `${name} is no incident`);
    await rm(this.factsPath(name), { force: true });
    await rm(this.logPath(name), { force: true });
  }

  /** Deletes what a keeper left that was killed while it wrote: drafts, and stretches without facts. For the only keeper. */
  async tidy(): Promise<void> {
    const files = new Set(await this.#names());
    for (const file of files) {
      const name = file.endsWith(LOG_SUFFIX) ? file.slice(0, -LOG_SUFFIX.length) : '';
      const isAlone = NAME.test(name) && !files.has(name + FACTS_SUFFIX);
      if (isAlone || file.endsWith('.draft')) await rm(join(this.dir, file), { force: true });
    }
  }

  /** Removes the oldest ones beyond the budget; returns their names. */
  async keepWithin({ bytes, count }: Budget): Promise<string[]> {
    const { incidents } = await this.list();
    let sum = incidents.reduce((all, one) => all + one.bytes, 0);
    let left = incidents.length;
    const removed: string[] = [];
    for (const one of incidents) {
      if (sum <= bytes && left <= count) break;
      await this.remove(one.name);
      sum -= one.bytes;
      left -= 1;
      removed.push(one.name);
    }
    return removed;
  }

  async #names(): Promise<string[]> {
    return await readdir(this.dir).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return [];
      throw error;
    });
  }
}

const sizeOf = (path: string): Promise<number | undefined> =>
  stat(path).then(
    ({ size }) => size,
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined;
      throw error;
    },
  );
