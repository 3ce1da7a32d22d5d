/**
 * How far the log was looked at for incidents: the fold's state after an event, so that the next look goes on there. What cannot
 * be read, or belongs to another log, is as none: then the log is looked at from its beginning, and finds the same incidents.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { type Incident, noIncidents, type SavedIncidents } from '../../actors/incidents.ts';
import { IncidentFacts } from '../../schemas/incidents.ts';
import { writeWhole } from '../store/layout.ts';

const number = z.number();
const allowance = z.object({ left: number, at: number });

const Saved = z.object({
  now: number,
  events: number,
  marks: z.array(z.tuple([number, number, number])),
  open: IncidentFacts.nullable(),
  openBegan: number,
  recent: z.array(IncidentFacts),
  all: allowance,
  causes: z.array(z.tuple([z.string(), z.object({ allowed: allowance, incident: number })])),
  triggers: z.object({
    running: z.boolean(),
    lastAt: number,
    starts: z.array(
      z.object({
        mount: z.string(),
        manifest: z.string(),
        ref: z.string(),
        since: number,
        mountedAt: number.nullable(),
        waits: z.array(z.tuple([number, number])),
      }),
    ),
    images: z.array(z.tuple([z.string(), z.array(z.string())])),
  }),
});

const Place = z.object({
  v: z.literal(1),
  node: z.string(),
  /** The last event that was looked at, and its time: a log of its own has another one there. */
  seq: z.int().min(0),
  at: number,
  /** Sequence of the last `engine.started`. */
  epoch: z.int().min(0),
  fold: Saved,
  /** The open incident as it was kept. */
  kept: IncidentFacts.nullable(),
});

export interface Place {
  node: string;
  seq: number;
  at: number;
  epoch: number;
  fold: SavedIncidents;
  kept: Incident | null;
}

export const placeFile = (dir: string): string => join(dir, 'place.json');

export const noPlace = (node: string): Place => ({
  node,
  seq: 0,
  at: 0,
  epoch: 0,
  fold: noIncidents(),
  kept: null,
});

/** Undefined: none that can be used. */
export async function readPlace(dir: string): Promise<Place | undefined> {
  try {
    return Place.parse(JSON.parse(await readFile(placeFile(dir), 'utf8')));
  } catch {
    return undefined;
  }
}

export async function writePlace(dir: string, place: Place): Promise<void> {
  await writeWhole(placeFile(dir), Buffer.from(JSON.stringify({ v: 1, ...place })));
}
