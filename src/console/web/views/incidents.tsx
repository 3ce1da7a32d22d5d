/** The view Incidents: what went wrong, what happened in one, and the log around it as a log of its own. */
import type { IncidentListed, IncidentShown } from '../../../../schemas/incidents.ts';
import type { IncidentsDocument } from '../../../replay/documents.ts';
import { formatBytes } from '../../../terminal/table.ts';
import { pageOfIncident } from '../api.ts';
import { useAsked } from '../asked.ts';
import { addressOf } from '../place.ts';
import type { View } from '../views.ts';

export const incidentsView: View = { id: 'incidents', title: 'Incidents', Body };

function Body({ words }: { words: URLSearchParams }) {
  const list = useAsked<IncidentsDocument>('incidents', {}, { grows: true });
  const name = words.get('name')?.slice(0, 60) ?? undefined;
  const one = useAsked<IncidentShown>('incident', name === undefined ? undefined : { name });
  return (
    <>
      <h1 class="hidden">Incidents</h1>
      {[list.error, one.error, ...(list.value?.problems ?? [])]
        .filter((sentence) => sentence !== undefined)
        .map((sentence) => (
          <p class="banner bad" role="alert">
            {sentence}
          </p>
        ))}
      <div class="cards">
        <section class="card" aria-label="Incidents that are kept">
          <h2>Incidents</h2>
          {list.value !== undefined && <List of={list.value} chosen={name} />}
        </section>
        {one.value !== undefined && <Shown of={one.value} />}
      </div>
    </>
  );
}

const timeOf = (time: string): string => time.slice(0, 19).replace('T', ' ');

function List({
  of: { isOfNode, incidents },
  chosen,
}: {
  of: IncidentsDocument;
  chosen: string | undefined;
}) {
  if (!isOfNode)
    return (
      <p class="muted">
        This is the log of a file. A node keeps its incidents: cofa console shows them there.
      </p>
    );
  if (incidents.length === 0) return <p class="muted">Nothing went wrong that is kept.</p>;
  return (
    <ul class="rows">
      {incidents.map((incident) => (
        <Listed key={incident.name} incident={incident} isChosen={incident.name === chosen} />
      ))}
    </ul>
  );
}

function Listed({ incident, isChosen }: { incident: IncidentListed; isChosen: boolean }) {
  const { name, number, time, kind, summary, times, more, events, bytes } = incident;
  const often = more > 0 ? `${times} times, and ${more} more later` : times === 1 ? 'once' : `${times} times`;
  return (
    <li>
      <div class="line">
        <a class="name" href={addressOf('incidents', { name })} aria-current={isChosen ? 'true' : undefined}>
          {summary}
        </a>
        <span class={`badge ${kind === 'slow-start' ? 'plain' : 'bad'}`}>{kind}</span>
      </div>
      <p class="muted facts">
        {number} · {timeOf(time)} UTC · {often} · {events} events, {formatBytes(bytes)}
      </p>
    </li>
  );
}

function Shown({ of }: { of: IncidentShown }) {
  const { name, number, kind, time, story, relevant, next, file } = of;
  return (
    <section class="card" aria-label={`Incident ${number}`}>
      <h2>
        Incident {number}: {kind}, {timeOf(time)} UTC
      </h2>
      <ul class="degraded">
        {story.map((sentence) => (
          <li>{sentence}</li>
        ))}
      </ul>
      {file !== null && (
        <p>
          <a href={pageOfIncident(name, addressOf('log', { at: number }))}>Open the log around it</a>
        </p>
      )}
      {relevant.length > 0 && (
        <>
          <h3>Events that tell of it</h3>
          <ul class="rows">
            {relevant.map(({ seq, time: at, type, what }) => (
              <li>
                <div class="line">
                  <a href={pageOfIncident(name, addressOf('log', { at: seq }))}>
                    {seq} {type}
                  </a>
                  <span class="number muted facts">{at.slice(11, 23)}</span>
                </div>
                <p class="muted facts">{what}</p>
              </li>
            ))}
          </ul>
        </>
      )}
      {next.length > 0 && (
        <>
          <h3>What looks further, on the node</h3>
          <ul class="rows">
            {next.map(({ command, why }) => (
              <li>
                <code>{command}</code>
                <p class="muted facts">{why}</p>
              </li>
            ))}
          </ul>
        </>
      )}
    </section>
  );
}
