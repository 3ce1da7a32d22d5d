/** Incidents as `cofa incidents` and the page show them. */
import type { IncidentListed, IncidentShown } from '../../schemas/incidents.ts';
import { loadFile } from '../replay/load.ts';
import type { StoredIncident } from './folder.ts';
import { tellStory } from './story.ts';
import { summaryOf, timesOf } from './summary.ts';

/** As a list has it. */
export function listedOf({ name, facts, bytes, path }: StoredIncident): IncidentListed {
  const { incident, log } = facts;
  const time = (at: number) => new Date(at).toISOString();
  return {
    name,
    number: incident.seq,
    time: time(incident.at),
    lastTime: time(Math.max(incident.lastAt, incident.moreAt ?? 0)),
    kind: incident.kind,
    summary: summaryOf(incident),
    times: timesOf(incident),
    more: incident.more,
    events: log?.events ?? 0,
    bytes,
    file: path ?? null,
  };
}

/** What happened, told from the stretch of the log. `root`: of the engine. Errors: those of the stretch's file. */
export async function shownOf(
  stored: StoredIncident,
  { root, signal }: { root: string; signal: AbortSignal },
): Promise<IncidentShown> {
  const { facts, path: file } = stored;
  const listed = listedOf(stored);
  const known = { ...listed, node: facts.node, causes: facts.incident.causes };
  if (file === undefined) {
    const story = [`${listed.summary}.`, 'The stretch of the log is not there.'];
    return { ...known, story, relevant: [], next: [] };
  }
  const loaded = await loadFile(file, { partial: true, signal });
  try {
    return { ...known, ...tellStory(facts.incident, loaded.log, { file, root }) };
  } finally {
    await loaded.close();
  }
}
