/** The view A start: what it was spent on, its critical path on a time line, what would have made it faster, and another beside it. */
import { useEffect } from 'preact/hooks';
import type { StartComparison, Waterfall as Fall, WhyStart } from '../../../../schemas/replay.ts';
import type { StartSummary } from '../../../replay/documents.ts';
import { CAUSE_TEXT } from '../../../replay/causes.ts';
import { formatUs } from '../../../replay/format.ts';
import { formatBytes, formatDuration, formatShare } from '../../../terminal/table.ts';
import { useAsked, useFirst } from '../asked.ts';
import { addressOf, noteAddress } from '../place.ts';
import { STEP_COLOURS } from '../start/rows.ts';
import { WhatIfPanel } from '../start/what-if.tsx';
import { Waterfall } from '../start/waterfall.tsx';
import type { View } from '../views.ts';

export const startView: View = {
  id: 'start',
  title: 'A start',
  keys: [
    ['↑ ↓', 'the row before, the next one'],
    ['PgUp PgDn Home End', 'further'],
    ['← →', 'earlier, later'],
    ['+ -', 'closer, further away'],
    ['0', 'all of it'],
  ],
  Body,
};

interface StartDocument {
  why: WhyStart;
  fall: Fall;
}

function Body({ words }: { words: URLSearchParams }) {
  const list = useAsked<{ starts: StartSummary[] }>('starts', {}, { grows: true });
  const starts = list.value?.starts ?? [];
  const first = useFirst(starts.find(({ state }) => state === 'ready')?.mount, words);
  const mount = words.get('mount') ?? first;
  const other = words.get('with') ?? undefined;
  const one = useAsked<StartDocument>('start', mount === undefined ? undefined : { mount });
  const two = useAsked<StartDocument>('start', other === undefined ? undefined : { mount: other });
  const pair = mount === undefined || other === undefined ? undefined : { mount, with: other };
  const compared = useAsked<StartComparison>('compare', pair);
  const go = (to: { mount?: string | undefined; with?: string | undefined }) => {
    location.hash = addressOf('start', { mount, with: other, ...to });
  };
  useEffect(() => {
    if (mount === undefined || words.has('mount')) return undefined;
    return noteAddress(() => addressOf('start', { ...Object.fromEntries(words), mount }));
  }, [words, mount]);
  const shown = one.value;
  const span = Math.max(1, shown?.fall.us ?? 0, other === undefined ? 0 : (two.value?.fall.us ?? 0));
  return (
    <>
      <h1 class="hidden">A start</h1>
      <form class="choices" onSubmit={(event) => event.preventDefault()}>
        <Choice label="Start" value={mount} starts={starts} onChoose={(id) => go({ mount: id })} />
        <Choice
          label="Beside"
          value={other}
          starts={starts.filter((start) => start.mount !== mount)}
          none="none"
          onChoose={(id) => go({ with: id })}
        />
      </form>
      {[list.error, one.error, two.error, compared.error]
        .filter((error) => error !== undefined)
        .map((error) => (
          <p class="banner bad" role="alert">
            {error}
          </p>
        ))}
      {mount === undefined && <p class="muted">the log tells of no start that came to its end</p>}
      {shown !== undefined && (
        <>
          <Summary why={shown.why} />
          <div class={other === undefined ? 'falls' : 'falls two'}>
            {other !== undefined && two.value !== undefined && (
              <Waterfall
                key={`beside ${two.value.why.mount}`}
                fall={two.value.fall}
                span={span}
                title={`Beside: ${two.value.why.ref}`}
              />
            )}
            <Waterfall key={shown.why.mount} fall={shown.fall} span={span} title={shown.why.ref} />
          </div>
          <Legend />
          {mount !== undefined && <WhatIfPanel key={mount} mount={mount} words={words} />}
          <div class="cards">
            <Parts why={shown.why} />
            {compared.value !== undefined && <Comparison compared={compared.value} />}
            <Machine why={shown.why} />
            <Programs why={shown.why} />
          </div>
        </>
      )}
    </>
  );
}

function Choice(props: {
  label: string;
  value: string | undefined;
  starts: readonly StartSummary[];
  none?: string;
  onChoose: (id: string | undefined) => void;
}) {
  const { label, value, starts, none, onChoose } = props;
  const isListed = value === undefined || starts.some(({ mount }) => mount === value);
  return (
    <label class="choice">
      {label}
      <select
        value={value ?? ''}
        onChange={(event) =>
          onChoose(event.currentTarget.value === '' ? undefined : event.currentTarget.value)
        }
      >
        {none !== undefined && <option value="">{none}</option>}
        {!isListed && <option value={value}>{value}</option>}
        {starts.map(({ mount, ref, time, startMs }) => (
          <option value={mount}>
            {time.slice(11, 19)} {ref}
            {startMs === undefined ? '' : `, ${formatDuration(startMs)}`}
          </option>
        ))}
      </select>
    </label>
  );
}

function Summary({ why }: { why: WhyStart }) {
  const { wall, cause, faster, reads, bytes } = why;
  return (
    <section class={`health ${cause === undefined ? 'good' : 'busy'}`} aria-label="Summary">
      <p class="headline">
        {formatUs(wall.us)}
        {cause === undefined ? '' : `, held up most by ${CAUSE_TEXT[cause]}`}
      </p>
      <p class="muted facts">
        {why.ref} · from {wall.time} · {formatShare(wall.accountedUs, wall.us)} accounted for · {reads.count}{' '}
        reads waited for {formatBytes(bytes)}
      </p>
      {faster.length > 0 && (
        <>
          <h2>What would have made it faster</h2>
          <ul class="degraded">
            {faster.map(({ text, savedUs }) => (
              <li>
                {text} <span class="muted">(about {formatUs(savedUs)})</span>
              </li>
            ))}
          </ul>
        </>
      )}
    </section>
  );
}

function Parts({ why: { wall } }: { why: WhyStart }) {
  // The log knows it of the program and of runc alone, where `cofa run` has told of them.
  const hasWork = wall.parts.some(({ cpuUs }) => cpuUs !== undefined);
  return (
    <section class="card" aria-label="Parts">
      <h2>Where the time went</h2>
      <table class="figures">
        <thead>
          <tr>
            <th scope="col">part</th>
            <th scope="col">time</th>
            <th scope="col">share</th>
            {hasWork && <th scope="col">processor time</th>}
          </tr>
        </thead>
        <tbody>
          {wall.parts.map(({ part, us, cpuUs, what }) => (
            <tr>
              <th scope="row" title={what}>
                {part}
              </th>
              <td>{formatUs(us)}</td>
              <td>{formatShare(us, wall.us)}</td>
              {hasWork && <td>{cpuUs === undefined ? '' : formatUs(cpuUs)}</td>}
            </tr>
          ))}
          {Object.entries(wall.steps).map(([step, us]) => (
            <tr class="muted">
              <th scope="row">reads: {step}</th>
              <td>{formatUs(us)}</td>
              <td>{formatShare(us, wall.us)}</td>
              {hasWork && <td />}
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

function Machine({ why: { wall } }: { why: WhyStart }) {
  const { machine, processes } = wall;
  if (machine === undefined) return null;
  const all = machine.cpus * Math.max(1, wall.us);
  return (
    <section class="card" aria-label="Processors">
      <h2>Processors</h2>
      <p class="facts">
        {machine.cpus} processors, {formatShare(machine.busyUs, all)} busy,{' '}
        {formatShare(machine.othersUs, all)} for other programs
      </p>
      <table class="figures">
        <thead>
          <tr>
            <th scope="col">process</th>
            <th scope="col">worked</th>
            <th scope="col">waited for one</th>
          </tr>
        </thead>
        <tbody>
          {processes.map(({ name, cpuUs, waitUs }) => (
            <tr>
              <th scope="row">{name}</th>
              <td>{formatUs(cpuUs)}</td>
              <td>{formatUs(waitUs)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

/** Rows of programs; the waterfall has all of them. */
const MOST_PROGRAMS = 20;

function Programs({ why: { wall } }: { why: WhyStart }) {
  if (wall.programs === undefined) return null;
  const { seen, more, unseenUs = 0 } = wall.programs;
  const left = Math.max(0, seen.length - MOST_PROGRAMS) + more;
  return (
    <section class="card" aria-label="Programs">
      <h2>Programs of the container</h2>
      <p class="muted facts">
        As samples saw them.
        {unseenUs > 0 &&
          ` ${formatUs(unseenUs)} more went to runc, to what ended between two samples, and to all behind the last one.`}
        {left > 0 && ` At least ${left} are not listed.`}
      </p>
      <table class="figures">
        <thead>
          <tr>
            <th scope="col">program</th>
            <th scope="col">process</th>
            <th scope="col">from</th>
            <th scope="col">worked</th>
          </tr>
        </thead>
        <tbody>
          {[...seen]
            .sort((a, b) => b.cpuUs - a.cpuUs)
            .slice(0, MOST_PROGRAMS)
            .map(({ name, pid, startUs, cpuUs }) => (
              <tr>
                <th scope="row">{name}</th>
                <td>{pid}</td>
                <td>+{formatUs(startUs)}</td>
                <td>{formatUs(cpuUs)}</td>
              </tr>
            ))}
        </tbody>
      </table>
    </section>
  );
}

function Comparison({ compared: { text, parts } }: { compared: StartComparison }) {
  return (
    <section class="card" aria-label="Comparison">
      <h2>Beside the other one</h2>
      <ul class="degraded">
        {text.map((sentence) => (
          <li>{sentence}</li>
        ))}
      </ul>
      <table class="figures">
        <thead>
          <tr>
            <th scope="col">part</th>
            <th scope="col">beside</th>
            <th scope="col">this one</th>
          </tr>
        </thead>
        <tbody>
          {parts.map(({ part, aUs, bUs }) => (
            <tr>
              <th scope="row">{part}</th>
              <td>{formatUs(aUs)}</td>
              <td>{formatUs(bUs)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

function Legend() {
  return (
    <p class="legend">
      {['queue', 'lookup', 'first-byte', 'transfer', 'verify', 'write', 'other'].map((step) => (
        <span>
          <i class="swatch" style={{ background: `var(${STEP_COLOURS[step]})` }} /> {step}
        </span>
      ))}
    </p>
  );
}
