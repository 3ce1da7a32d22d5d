/** The events around where one is. It holds as many rows as there is room, and changes what they say. */
import { signal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import type { Debugger } from './debugger.ts';

const ROW = 26;

export function EventList({ debug }: { debug: Debugger }) {
  const box = useRef<HTMLDivElement>(null);
  const rows = useRef(signal(12)).current;
  useEffect(() => {
    const place = box.current;
    if (place === null) return undefined;
    const measure = () => (rows.value = Math.max(3, Math.floor(place.clientHeight / ROW)));
    const observer = new ResizeObserver(measure);
    observer.observe(place);
    const wheel = (event: WheelEvent) => {
      if (event.ctrlKey) return;
      event.preventDefault();
      debug.step(Math.sign(event.deltaY) * Math.max(1, Math.round(Math.abs(event.deltaY) / 40)));
    };
    place.addEventListener('wheel', wheel, { passive: false });
    return () => {
      observer.disconnect();
      place.removeEventListener('wheel', wheel);
    };
  }, [debug]);
  void debug.grown.value;
  void debug.told.value;
  const current = debug.position.value - 1;
  const { count } = debug.columns;
  const first = Math.max(0, Math.min(count - rows.value, current - Math.floor(rows.value / 2)));
  const end = Math.min(count, first + rows.value);
  debug.lines.want(first, end);
  const list = Array.from({ length: Math.max(0, end - first) }, (_, row) => first + row);
  return (
    <div
      ref={box}
      class="events"
      role="listbox"
      tabIndex={0}
      aria-label="Events"
      aria-activedescendant={current >= 0 ? 'event-now' : undefined}
    >
      {list.length === 0 && (
        <div role="option" aria-selected="false" class="muted">
          {debug.isWhole.value ? 'the log has no events' : 'reading …'}
        </div>
      )}
      {list.map((index, row) => (
        <Row key={row} debug={debug} index={index} isCurrent={index === current} />
      ))}
    </div>
  );
}

function Row({ debug, index, isCurrent }: { debug: Debugger; index: number; isCurrent: boolean }) {
  const { columns } = debug;
  const line = debug.lines.at(index);
  return (
    <div
      role="option"
      id={isCurrent ? 'event-now' : undefined}
      aria-selected={isCurrent}
      class={`event style-${line?.style ?? 'plain'}`}
      onClick={() => debug.jump(index + 1)}
    >
      <span class="seq">{columns.seqAt(index)}</span>
      <span class="time">{new Date(columns.timeAt(index)).toISOString().slice(11, 23)}</span>
      <span class="type">{columns.typeAt(index)}</span>
      <span class="what">
        {line === undefined ? columns.idAt(index).slice(0, 8) : `${line.subject}  ${line.summary}`}
      </span>
    </div>
  );
}
