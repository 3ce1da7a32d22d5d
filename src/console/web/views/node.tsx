/** The view Node: how the node is, in words, and what moves. */
import type { ComponentChildren } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import type { NodeDocument, NodeImage, NodeProcess, StartSummary } from '../../../replay/documents.ts';
import { formatBytes, formatDuration, formatShare, shortDigest } from '../../../terminal/table.ts';
import { node } from '../live.ts';
import { addressOf } from '../place.ts';
import type { View } from '../views.ts';
import { START_PARTS } from '../../../../schemas/start-parts.ts';

export const nodeView: View = { id: 'node', title: 'Node', Body };

function Body() {
  const now = useClock();
  const { value } = node;
  if (value === undefined) return <p class="muted">asking the engine …</p>;
  return (
    <>
      <h1 class="hidden">Node {value.node}</h1>
      <Health node={value} now={now} />
      <div class="sides">
        <div class="cards wide">
          <Card title={`Images (${value.images.length})`}>
            <Images images={value.images} />
          </Card>
          <Card title="Recent starts">
            <Starts starts={value.starts} />
          </Card>
        </div>
        <div class="cards">
          <Card title={`Mounts (${value.mounts.length})`}>
            <Mounts mounts={value.mounts} />
          </Card>
          <Card title={`Processes (${value.processes.length})`}>
            <Processes processes={value.processes} now={now} />
          </Card>
          <Card title="Cache">
            <Cache cache={value.cache} />
          </Card>
          <Card title="Event log">
            <LogFacts log={value.log} />
          </Card>
        </div>
      </div>
    </>
  );
}

/** Durations go on between two answers. */
function useClock(): number {
  const [now, set] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => set(Date.now()), 1_000);
    return () => clearInterval(timer);
  }, []);
  return now;
}

function Card({ title, children }: { title: string; children: ComponentChildren }) {
  return (
    <section class="card" aria-label={title}>
      <h2>{title}</h2>
      {children}
    </section>
  );
}

function Health({
  node: { health, root, version, startedAt, time, isLive },
  now,
}: {
  node: NodeDocument;
  now: number;
}) {
  const facts = [
    ...(version === undefined ? [] : [`cofa ${version}`]),
    ...(startedAt === undefined ? [] : [`up ${formatDuration(now - Date.parse(startedAt))}`]),
    ...(root === undefined ? [] : [root]),
    ...(isLive || time === null ? [] : [`as of ${time}`]),
  ];
  return (
    <section class={`health ${health.level}`} aria-label="Health">
      <p class="headline" role="status">
        {health.headline}
      </p>
      {health.degraded.length > 0 && (
        <ul class="degraded">
          {health.degraded.map((sentence) => (
            <li>{sentence}</li>
          ))}
        </ul>
      )}
      <p class="muted">{facts.join(' · ')}</p>
    </section>
  );
}

function Images({ images }: { images: readonly NodeImage[] }) {
  if (images.length === 0) return <p class="muted">none yet</p>;
  return (
    <ul class="rows">
      {images.map((image) => (
        <Image key={image.manifest} image={image} />
      ))}
    </ul>
  );
}

function Image({ image }: { image: NodeImage }) {
  const { ref, state, origin, trust, bytes, blocks, reads, passed, layers } = image;
  const share = bytes.total === 0 ? 0 : bytes.present / bytes.total;
  const facts = [
    `${formatBytes(bytes.present)} of ${formatBytes(bytes.total)}`,
    ...(blocks.fetching > 0 ? [`${blocks.fetching} blocks on their way`] : []),
    ...(bytes.fetched > 0 ? [`${formatBytes(bytes.fetched)} fetched`] : []),
    ...(reads === undefined || reads.hits + reads.misses === 0
      ? []
      : [`${formatShare(reads.hits, reads.hits + reads.misses)} of reads found their blocks`]),
    `${layers} ${layers === 1 ? 'layer' : 'layers'}`,
  ];
  return (
    <li class="image">
      <div class="line">
        <span class="name">{ref}</span>
        <Badge
          text={state}
          level={state === 'failed' ? 'bad' : state === 'ready' || state === 'prepared' ? 'good' : 'plain'}
        />
        {origin !== undefined && (
          <Badge text={origin === 'sidecar' ? 'sidecar' : 'indexed here'} level="plain" />
        )}
        {trust !== undefined && <Badge text={trust} level={trust === 'refuted' ? 'bad' : 'plain'} />}
        {reads !== undefined && reads.errors > 0 && (
          <Badge text={`${reads.errors} reads failed`} level="bad" />
        )}
        <span class="number">{formatShare(bytes.present, bytes.total)}</span>
      </div>
      <Bar share={share} label={`how much of ${ref} has arrived`} moving={blocks.fetching > 0} />
      <p class="muted facts">{facts.join(' · ')}</p>
      {passed?.map(({ sidecar, reason }) => (
        <p class="facts">
          sidecar {shortDigest(sidecar)} is not used: {reason}
        </p>
      ))}
    </li>
  );
}

function Bar({ share, label, moving }: { share: number; label: string; moving?: boolean }) {
  const percent = Math.round(share * 1000) / 10;
  return (
    <div
      class={moving === true ? 'bar moving' : 'bar'}
      role="progressbar"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={percent}
    >
      <div style={{ width: `${percent}%` }} />
    </div>
  );
}

const Badge = ({ text, level }: { text: string; level: 'good' | 'bad' | 'plain' }) => (
  <span class={`badge ${level}`}>{text}</span>
);

function Starts({ starts }: { starts: readonly StartSummary[] }) {
  if (starts.length === 0) return <p class="muted">the log tells of none</p>;
  const longest = Math.max(
    1,
    ...starts.map(({ startMs = 0, expected }) =>
      Math.max(startMs, expected?.packMs ?? expected?.earlierMs ?? 0),
    ),
  );
  return (
    <>
      <ul class="rows">
        {starts.map((start) => (
          <Start key={start.mount} start={start} longest={longest} />
        ))}
      </ul>
      <p class="legend" aria-hidden="true">
        {START_PARTS.filter((part) => starts.some(({ parts }) => parts.some((one) => one.part === part))).map(
          (part) => (
            <span>
              <i class={`swatch phase-${part}`} /> {part}
            </span>
          ),
        )}
        <span>
          <i class="mark" /> expected
        </span>
      </p>
    </>
  );
}

function Start({ start, longest }: { start: StartSummary; longest: number }) {
  const { mount, ref, time, seq, state, mountMs, startMs, parts, expected, reads, failure, bytes } = start;
  const facts = [
    time.slice(11, 23),
    ...(mountMs === undefined ? [] : [`mounted after ${formatDuration(mountMs)}`]),
    ...(reads === undefined || reads.count === 0
      ? []
      : [`${reads.count} reads waited, ${formatDuration(reads.blockedUs / 1000)} in all`]),
    ...(bytes === undefined || bytes === 0 ? [] : [`for ${formatBytes(bytes)}`]),
    ...expectedWords(expected),
  ];
  const spoken = parts.map(({ part, us }) => `${part} ${formatDuration(us / 1000)}`).join(', ');
  const expectedMs = expected?.packMs ?? expected?.earlierMs;
  return (
    <li class="start">
      <div class="line">
        <a class="name" href={addressOf('log', { at: seq })}>
          {ref}
        </a>
        {state !== 'ready' && <Badge text={state} level={state === 'failed' ? 'bad' : 'plain'} />}
        {state === 'ready' && (
          <a
            class="facts"
            href={addressOf('start', { mount })}
            aria-label={`why the start of ${ref} took so long`}
          >
            why
          </a>
        )}
        {reads !== undefined && reads.failed > 0 && (
          <Badge text={`${reads.failed} reads failed`} level="bad" />
        )}
        <span class="number">{startMs === undefined ? '' : formatDuration(startMs)}</span>
      </div>
      {parts.length > 0 && (
        <div class="phases" role="img" aria-label={spoken}>
          {parts.map(({ part, us }) => (
            <div
              class={`phase-${part}`}
              style={{ width: `${(us / 1000 / longest) * 100}%` }}
              title={`${part} ${formatDuration(us / 1000)}`}
            />
          ))}
          {expectedMs !== undefined && (
            <i class="mark" style={{ left: `${Math.min(100, (expectedMs / longest) * 100)}%` }} />
          )}
        </div>
      )}
      <p class="muted facts">{failure ?? facts.join(' · ')}</p>
    </li>
  );
}

function expectedWords(expected: StartSummary['expected']): string[] {
  const { packMs, earlierMs, earlier = 0 } = expected ?? {};
  return [
    ...(packMs === undefined ? [] : [`with a startup pack about ${formatDuration(packMs)}`]),
    ...(earlierMs === undefined
      ? []
      : [`${earlier === 1 ? 'one' : earlier} like it before took ${formatDuration(earlierMs)}`]),
  ];
}

function Mounts({ mounts }: { mounts: NodeDocument['mounts'] }) {
  if (mounts.length === 0) return <p class="muted">none</p>;
  return (
    <ul class="rows">
      {mounts.map(({ id, dir, ref, state, trust, container }) => (
        <li key={id}>
          <div class="line">
            <span class="name">{dir}</span>
            <Badge text={state} level={state === 'mounted' ? 'good' : state === 'failed' ? 'bad' : 'plain'} />
            {trust === 'refuted' && <Badge text="refuted" level="bad" />}
          </div>
          <p class="muted facts">{container === undefined ? ref : `${ref} · container ${container}`}</p>
        </li>
      ))}
    </ul>
  );
}

function Processes({ processes, now }: { processes: readonly NodeProcess[]; now: number }) {
  if (processes.length === 0) return <p class="muted">none</p>;
  return (
    <ul class="rows">
      {processes.map(({ name, pid, state, since, restarts, rssBytes, lastEnd }) => {
        const facts = [
          ...(pid === 0 ? [] : [`pid ${pid}`]),
          ...(since === undefined ? [] : [`for ${formatDuration(now - Date.parse(since))}`]),
          ...(rssBytes === undefined ? [] : [formatBytes(rssBytes)]),
          ...(restarts === 0 ? [] : [`${restarts} restarts`]),
          ...(lastEnd === undefined ? [] : [`before: ${lastEnd.reason}`]),
        ];
        return (
          <li key={name}>
            <div class="line">
              <span class="name">{name}</span>
              <Badge
                text={state}
                level={state === 'running' ? 'good' : state === 'failed' ? 'bad' : 'plain'}
              />
            </div>
            <p class="muted facts">{facts.join(' · ')}</p>
          </li>
        );
      })}
    </ul>
  );
}

function Cache({ cache }: { cache: NodeDocument['cache'] }) {
  if (cache === undefined) return <p class="muted">the log does not tell</p>;
  const { usedBytes, limitBytes, freeBytes, reserveBytes, evictedBytes, metadataBytes, prefetch } = cache;
  const limit = limitBytes ?? usedBytes + Math.max(0, freeBytes - reserveBytes);
  return (
    <>
      <Bar share={limit === 0 ? 0 : Math.min(1, usedBytes / limit)} label="how full the cache is" />
      <dl class="pairs">
        <dt>used</dt>
        <dd>
          {formatBytes(usedBytes)} of {formatBytes(limit)}
          {limitBytes === null ? ' that the disk has' : ''}
        </dd>
        <dt>metadata</dt>
        <dd>{formatBytes(metadataBytes)}</dd>
        <dt>free on the disk</dt>
        <dd>
          {formatBytes(freeBytes)}, {formatBytes(reserveBytes)} stay free
        </dd>
        <dt>evicted</dt>
        <dd>{formatBytes(evictedBytes)}</dd>
        <dt>prefetch</dt>
        <dd>{prefetch ? 'has room' : 'has no room'}</dd>
      </dl>
    </>
  );
}

function LogFacts({ log: { events, bytes, limit } }: { log: NodeDocument['log'] }) {
  return (
    <dl class="pairs">
      <dt>events</dt>
      <dd>{events.toLocaleString('en')}</dd>
      {bytes !== undefined && limit !== undefined && (
        <>
          <dt>kept</dt>
          <dd>
            {formatBytes(bytes)} of {formatBytes(limit)}
          </dd>
        </>
      )}
    </dl>
  );
}
