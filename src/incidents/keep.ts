/**
 * Keeps incidents: goes on with the log where the last look ended, folds it (actors/incidents.ts), and writes the stretch of each
 * incident that is complete. The place is written behind what was kept. So a keeper that is killed anywhere begins again at the
 * last place and finds the same: what is there already is written again under the same name, or left as it is.
 */
import { mkdir } from 'node:fs/promises';
import { isDeepStrictEqual } from 'node:util';
import { layersOfImage } from '../../actors/device.ts';
import { type Incident, IncidentFold } from '../../actors/incidents.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { CofaEvent } from '../../schemas/events.ts';
import type { PathsOf } from '../image/file-paths.ts';
import { exportLog } from '../replay/export.ts';
import type { LiveLog } from '../replay/live-log.ts';
import { decodeRecord, partsOfSubject } from '../replay/record.ts';
import { DiskRoom } from '../store/disk-room.ts';
import type { Kept } from './orders.ts';
import { type Budget, IncidentFolder, nameOf } from './folder.ts';
import { noPlace, type Place, readPlace, writePlace } from './place.ts';

export interface KeepOptions {
  live: LiveLog;
  dir: string;
  budget: Budget;
  /** Infinity: no start is slow. */
  slowMs: number;
  /** Version of cofa. */
  cofa: string;
  /** ms since the epoch */
  now: () => number;
  pathsOf?: PathsOf;
  /** Called with the events so far, now and then. */
  onProgress?: (events: number) => void;
  /** What could not be kept. */
  onLost?: (error: unknown) => void;
}

/** Events between two places. */
const STEP = 20_000;
/** One incident takes no more than this share of the budget. */
const SHARE = 4;
/** Bytes of the disk that incidents leave to others, beside the log's room. */
const LEFT_FREE = 32 << 20;
/** Events of other processes may come so much later than their time, ms. */
const LATE_MS = 2_000;

/** Errors: those of reading the log. */
export async function keepIncidents(options: KeepOptions): Promise<Kept> {
  await mkdir(options.dir, { recursive: true, mode: 0o700 });
  const keeper = new Keeper(options);
  return await keeper.run();
}

class Keeper {
  readonly #options: KeepOptions;
  readonly #folder: IncidentFolder;
  readonly #result: Kept = { kept: [], lost: 0 };

  constructor(options: KeepOptions) {
    this.#options = options;
    this.#folder = new IncidentFolder(options.dir);
  }

  async run(): Promise<Kept> {
    const { live, dir, slowMs, now, budget, onProgress } = this.#options;
    await this.#folder.tidy();
    const place = await this.#placeOf();
    const fold = new IncidentFold(slowMs, place.fold);
    if (place.seq === 0) this.#begin(fold, place);
    let events = 0;
    const range = place.seq === 0 ? {} : { fromSeq: place.seq + 1, epoch: place.epoch };
    for await (const { seq, subject, bytes } of live.records(range)) {
      const { type, strange, record, at } = decodeRecord(bytes);
      if (type === 'engine.started') place.epoch = seq;
      // What this cofa cannot read it cannot judge.
      if (strange === undefined) fold.take(seq, partsOfSubject(subject).id, record as unknown as CofaEvent);
      Object.assign(place, { seq, at: at ?? 0 });
      if (++events % STEP !== 0) continue;
      onProgress?.(events);
      await this.#keepComplete(fold, place);
    }
    await this.#keepComplete(fold, place);
    const { open, dueAt } = fold;
    if (open !== undefined && dueAt !== undefined) {
      const wait = dueAt + LATE_MS - now();
      // A clock that was set back is not waited for.
      if (wait > 0 && wait <= 10 * 60_000) this.#result.againMs = Math.ceil(wait);
      else if (!isDeepStrictEqual(place.kept, open)) {
        if (await this.#keep(open)) place.kept = open;
      }
    }
    await writePlace(dir, { ...place, fold: fold.save() });
    const removed = await this.#folder.keepWithin(budget);
    this.#result.kept = this.#result.kept.filter(({ name }) => !removed.includes(name));
    return this.#result;
  }

  /** Where the last look ended, if this is the same log. */
  async #placeOf(): Promise<Place> {
    const { live, dir } = this.#options;
    const place = await readPlace(dir);
    if (place === undefined || place.node !== live.node) return noPlace(live.node);
    if (place.seq === 0) return place;
    if (live.last === undefined || live.last < place.seq) return noPlace(live.node);
    for await (const { seq, bytes } of live.records({ fromSeq: place.seq, epoch: place.epoch })) {
      // The event may have been removed; where it is there, it is the one that was looked at.
      const isOther = seq === place.seq && (decodeRecord(bytes).at ?? 0) !== place.at;
      return isOther ? noPlace(live.node) : place;
    }
    return place;
  }

  /** What the log has removed is known from the engine's snapshot. */
  #begin(fold: IncidentFold, place: Place): void {
    const { from } = this.#options.live.beginning;
    if (from === undefined) return;
    const { running, images } = from.state;
    fold.begin(
      running,
      [...images].map(([manifest, image]) => [manifest, layersOfImage(image)] as const),
    );
    Object.assign(place, { epoch: from.epoch });
  }

  async #keepComplete(fold: IncidentFold, place: Place): Promise<void> {
    const { complete, counted } = fold.drain();
    for (const incident of complete) {
      // It was kept when it was quiet, and has not grown since; a user may have removed it.
      if (!isDeepStrictEqual(place.kept, incident)) await this.#keep(incident);
      if (place.kept?.seq === incident.seq) place.kept = null;
    }
    for (const incident of counted) await this.#count(incident);
    if (complete.length + counted.length > 0)
      await writePlace(this.#options.dir, { ...place, fold: fold.save() });
  }

  /** Whether it was kept. A full disk loses it, and nothing else. */
  async #keep(incident: Incident): Promise<boolean> {
    const { live, dir, budget, cofa, now, pathsOf, onLost } = this.#options;
    const name = nameOf(incident);
    const maxBytes = Math.floor(budget.bytes / SHARE);
    try {
      new DiskRoom(dir, LEFT_FREE).take(Math.min(maxBytes, 4 << 20));
      const { events, bytes, cut } = await exportLog(live, this.#folder.logPath(name), {
        from: { kind: 'seq', seq: incident.from },
        to: { kind: 'seq', seq: incident.to },
        cofa,
        now: now(),
        replace: true,
        maxBytes,
        ...(pathsOf === undefined ? {} : { pathsOf }),
      });
      const log = { file: this.#folder.logPath(name).slice(dir.length + 1), events, bytes, cut };
      await this.#folder.write(name, { v: 1, node: live.node, cofa, incident, log });
      this.#result.kept.push({ name, kind: incident.kind });
      return true;
    } catch (error) {
      if (!isOfDisk(error)) throw error;
      this.#result.lost += 1;
      onLost?.(error);
      return false;
    }
  }

  /** More of the same has come; where the incident was removed it stays so. */
  async #count(incident: Incident): Promise<void> {
    try {
      const stored = await this.#folder.read(nameOf(incident));
      if (stored !== undefined) await this.#folder.write(stored.name, { ...stored.facts, incident });
    } catch (error) {
      this.#options.onLost?.(error);
    }
  }
}

const DISK_ERRORS = new Set(['ENOSPC', 'EDQUOT', 'EIO', 'EROFS', 'EACCES']);

/** The disk is full or ill. What else fails, such as NATS that is away, is tried again with the next look. */
const isOfDisk = (error: unknown): boolean =>
  error instanceof CofaError
    ? error.code === 'no-space'
    : DISK_ERRORS.has(String((error as { code?: unknown }).code));
