/** What lies beside the list: the event, the state after it, what is different, why. */
import { useEffect, useRef } from 'preact/hooks';
import type { LayerBar } from '../../../replay/documents.ts';
import { formatBytes, formatShare, shortDigest } from '../../../terminal/table.ts';
import { colourOf, colours } from '../theme.ts';
import type { Debugger } from './debugger.ts';

export function EventPanel({ debug }: { debug: Debugger }) {
  const event = debug.event.value;
  return (
    <section class="card panel" aria-label="The event">
      <h2>
        {event !== undefined
          ? event.type
          : debug.position.value === 0
            ? 'The beginning of the log'
            : 'reading …'}
      </h2>
      {event !== undefined && (
        <>
          <p class="muted facts">
            sequence {event.seq} · {event.time} · {event.subject}
          </p>
          {event.strange !== undefined && (
            <p class="bad">{event.strange}: this cofa does not know what it means</p>
          )}
          <ul class="details">
            {event.details.map(({ text, style }) => (
              <li class={`style-${style}`}>{text}</li>
            ))}
          </ul>
          <details>
            <summary>As a document</summary>
            <pre tabIndex={0} aria-label="The event as JSON">
              {JSON.stringify(event.data, null, 2)}
            </pre>
          </details>
        </>
      )}
    </section>
  );
}

export function StatePanel({ debug }: { debug: Debugger }) {
  const state = debug.state.value;
  if (state === undefined) return <section class="card panel" aria-label="The state" />;
  const { running, crashed, processes, mounts, images, layers, changes, waiting } = state;
  return (
    <section class="card panel" aria-label="The state after it">
      <h2>State</h2>
      <p class="facts">
        Engine {running ? 'running' : 'stopped'}
        {crashed ? ', the one before crashed' : ''} ·{' '}
        {processes.map(({ name, pid }) => `${name} ${pid ?? 'ended'}`).join(', ')}
      </p>
      {changes.length > 0 && (
        <>
          <h3>This event changed</h3>
          <ul class="changes">
            {changes.map((line) => (
              <li>{line}</li>
            ))}
          </ul>
        </>
      )}
      {waiting.length > 0 && (
        <>
          <h3>Reads that wait</h3>
          <ul class="details">
            {waiting.map(({ id, text }) => (
              <li key={id}>{text}</li>
            ))}
          </ul>
        </>
      )}
      <h3>Layers ({layers.length})</h3>
      <ul class="rows layers">
        {layers.map((layer) => (
          <Layer key={layer.root ?? layer.diffId} layer={layer} />
        ))}
      </ul>
      <h3>Mounts ({mounts.length})</h3>
      <ul class="details">
        {mounts.map(({ id, dir, state: now, ref }) => (
          <li key={id}>
            {dir} <span class="badge">{now}</span> <span class="muted">{ref}</span>
          </li>
        ))}
      </ul>
      <h3>Images ({images.length})</h3>
      <ul class="details">
        {images.map(({ manifest, ref, state: now, trust }) => (
          <li key={manifest}>
            {ref} <span class="badge">{now}</span> <span class="muted">{trust ?? ''}</span>
          </li>
        ))}
      </ul>
      <p class="muted facts">digest {shortDigest(state.digest)}</p>
    </section>
  );
}

function Layer({ layer }: { layer: LayerBar }) {
  const { diffId, state, size, presentCount, blockCount, images, bar } = layer;
  return (
    <li>
      <div class="line">
        <span class="name">{shortDigest(diffId)}</span>
        <span class="badge">{state}</span>
        <span class="muted facts">{images.map((ref) => ref.split('/').at(-1)).join(', ')}</span>
        <span class="number">{formatShare(presentCount, blockCount)}</span>
      </div>
      <LayerMap bar={bar} label={`${presentCount} of ${blockCount} blocks, ${formatBytes(size)}`} />
    </li>
  );
}

/** A part of a layer is as high as much of it is present. */
function LayerMap({ bar, label }: { bar: readonly number[]; label: string }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const shade = colours.value;
  useEffect(() => {
    const draw = canvas.current?.getContext('2d');
    if (canvas.current === null || draw === null || draw === undefined) return;
    const { width, height } = canvas.current;
    draw.clearRect(0, 0, width, height);
    draw.fillStyle = colourOf('--good');
    const cell = width / Math.max(1, bar.length);
    for (const [place, share] of bar.entries()) {
      if (share > 0) draw.fillRect(place * cell, height * (1 - share), Math.ceil(cell), height * share);
    }
  }, [bar, shade]);
  return <canvas ref={canvas} class="layer-map" width={256} height={14} role="img" aria-label={label} />;
}

export function DifferencePanel({ debug }: { debug: Debugger }) {
  const difference = debug.difference.value;
  if (difference === undefined) return null;
  const { from, to, lines } = difference;
  return (
    <section class="card panel" aria-label="Difference">
      <div class="line">
        <h2>
          From {from.seq} to {to.seq}
        </h2>
        <Close what="the difference" onClick={() => debug.closeDifference()} />
      </div>
      <ul class="changes">
        {lines.map((line) => (
          <li>{line}</li>
        ))}
      </ul>
    </section>
  );
}

export function WhyPanel({ debug }: { debug: Debugger }) {
  const why = debug.explanation.value;
  if (why === undefined) return null;
  return (
    <section class="card panel" aria-label="Why">
      <div class="line">
        <h2>{why.title}</h2>
        <span class="close">
          {why.open.length > 0 && (
            <button type="button" onClick={() => void debug.leaveWhy()}>
              back
            </button>
          )}
          <Close what="why" onClick={() => debug.closeWhy()} />
        </span>
      </div>
      <div class="why" role="group" aria-label={why.title} tabIndex={0}>
        {why.lines.map(({ text, opens }, line) =>
          opens ? (
            <button type="button" class="opens" onClick={() => void debug.openWhy(line)}>
              {text}
            </button>
          ) : (
            <div>{text === '' ? ' ' : text}</div>
          ),
        )}
      </div>
    </section>
  );
}

const Close = ({ what, onClick }: { what: string; onClick: () => void }) => (
  <button type="button" class="quiet close" aria-label={`Close ${what}`} onClick={onClick}>
    ✕
  </button>
);
