/** What the start would take over another link, or with another policy: fields, and the outcome beside the recorded one. */
import { useState } from 'preact/hooks';
import type { WhatIf } from '../../../../schemas/replay.ts';
import { formatUs } from '../../../replay/format.ts';
import { type Conditions, policyOf, sentenceOf } from '../../../replay/what-if/conditions-text.ts';
import { formatBytes } from '../../../terminal/table.ts';
import { useAsked } from '../asked.ts';
import { addressOf } from '../place.ts';

/** Words of the address, and of the question. */
const WORDS = ['rate', 'rtt', 'ahead', 'prefetch', 'fetchers', 'cores', 'block', 'best'] as const;
type Word = (typeof WORDS)[number];
type Wanted = Partial<Record<Word, string>>;

/** Each choice, and its words. */
const AHEAD: ReadonlyArray<readonly [string, string]> = [
  ['pack', 'with a startup pack'],
  ['none', 'without a pack'],
  ['nothing', 'without pack and hints'],
];
const PREFETCH: ReadonlyArray<readonly [string, string]> = [
  ['on', 'on'],
  ['off', 'off'],
  ['1000000', '1 MB a second'],
  ['5000000', '5 MB a second'],
  ['20000000', '20 MB a second'],
];
/** Sizes of blocks, bytes: the format has 64 KiB. */
const BLOCKS: ReadonlyArray<readonly [string, string]> = [4, 16, 32, 64, 128, 256, 1024].map((kib) => [
  String(kib * 1024),
  `${kib} KiB`,
]);
const RATES = ['10M', '50M', '100M', '1G', 'max'];
/** Policies that are shown. */
const MOST_POLICIES = 8;

interface Props {
  mount: string;
  /** Of the address: what is asked stands there, so that it can be given to others. */
  words: URLSearchParams;
}

export function WhatIfPanel({ mount, words }: Props) {
  const asked = wantedOf(words);
  const isAsked = words.has('if');
  const [wanted, set] = useState<Wanted>(asked);
  const what = useAsked<WhatIf>('what-if', isAsked ? { mount, ...asked } : undefined);
  const change = (word: Word) => (value: string) => {
    const { [word]: _, ...others } = wanted;
    set(value === '' ? others : { ...others, [word]: value });
  };
  const go = (to: Wanted | undefined) => {
    const beside = words.get('with') ?? undefined;
    location.hash = addressOf('start', {
      mount,
      with: beside,
      ...(to === undefined ? {} : { if: 'yes', ...to }),
    });
  };
  const { best: _, ...changes } = wanted;
  return (
    <section class="card what-if" aria-label="What if">
      <h2>What if</h2>
      <p class="muted facts">
        The start is run again in simulated time, through the decisions of the engine. What is left empty is
        as it was recorded.
      </p>
      <form
        class="choices"
        onSubmit={(event) => {
          event.preventDefault();
          go(changes);
        }}
      >
        <Text label="Rate, bit/s" value={wanted.rate} list={RATES} onChange={change('rate')} />
        <Text label="Round trip, ms" value={wanted.rtt} onChange={change('rtt')} />
        <Choice label="Said before" value={wanted.ahead} of={AHEAD} onChange={change('ahead')} />
        <Choice label="Prefetch" value={wanted.prefetch} of={PREFETCH} onChange={change('prefetch')} />
        <Text label="Fetchers" value={wanted.fetchers} onChange={change('fetchers')} />
        <Text label="Processors" value={wanted.cores} onChange={change('cores')} />
        <Choice label="Blocks" value={wanted.block} of={BLOCKS} onChange={change('block')} />
        <span class="group">
          <button type="submit">Run it again</button>
          <button type="button" onClick={() => go({ ...changes, best: 'yes' })}>
            Which policy is best
          </button>
          <button type="button" disabled={!isAsked} onClick={() => go(undefined)}>
            {what.isPending ? 'Cancel' : 'Close'}
          </button>
        </span>
      </form>
      <p role="status" class="facts">
        {what.isPending ? 'running it again …' : ''}
      </p>
      {what.error !== undefined && (
        <p class="bad" role="alert">
          {what.error}
        </p>
      )}
      {what.value !== undefined && <Outcome what={what.value} />}
    </section>
  );
}

function wantedOf(words: URLSearchParams): Wanted {
  const given = WORDS.map((word) => [word, words.get(word)?.slice(0, 40)] as const);
  return Object.fromEntries(given.filter(([, value]) => value !== undefined && value !== ''));
}

function Text(o: {
  label: string;
  value: string | undefined;
  list?: readonly string[];
  onChange: (value: string) => void;
}) {
  const id = o.list === undefined ? undefined : `list-${o.label.replace(/\W/g, '-')}`;
  return (
    <label class="choice">
      {o.label}
      <input
        class="short"
        value={o.value ?? ''}
        placeholder="as it was"
        list={id}
        onInput={(event) => o.onChange(event.currentTarget.value.trim())}
      />
      {o.list !== undefined && (
        <datalist id={id}>
          {o.list.map((one) => (
            <option value={one} />
          ))}
        </datalist>
      )}
    </label>
  );
}

function Choice(o: {
  label: string;
  value: string | undefined;
  of: ReadonlyArray<readonly [string, string]>;
  onChange: (value: string) => void;
}) {
  return (
    <label class="choice">
      {o.label}
      <select value={o.value ?? ''} onChange={(event) => o.onChange(event.currentTarget.value)}>
        <option value="">as it was</option>
        {o.of.map(([value, text]) => (
          <option value={value}>{text}</option>
        ))}
      </select>
    </label>
  );
}

type Ran = WhatIf['predicted']['outcome'];

const allBytes = ({ bytes }: Ran): number => Object.values(bytes).reduce((sum, one) => sum + one, 0);

const ROWS: ReadonlyArray<readonly [string, (outcome: Ran) => string]> = [
  ['start', ({ us }) => formatUs(us)],
  ['reads that waited', ({ reads }) => String(reads.waited)],
  ['at least one waited', ({ reads }) => formatUs(reads.blockedUs)],
  ['the longest', ({ reads }) => formatUs(reads.maxUs)],
  ['bytes', (outcome) => formatBytes(allBytes(outcome))],
  ['of them for readers', ({ bytes }) => formatBytes(bytes.demand)],
  ['of a pack', ({ bytes }) => formatBytes(bytes.pack)],
  ['requests', ({ requests }) => String(requests)],
];

function Outcome({ what: { recorded, predicted, best, notes } }: { what: WhatIf }) {
  const columns: ReadonlyArray<readonly [string, Ran]> = [
    ['recorded', recorded.measured],
    ['its model', recorded.model],
    ['what if', predicted.outcome],
  ];
  return (
    <>
      <dl class="pairs">
        <dt>recorded</dt>
        <dd>{sentenceOf(recorded.conditions)}</dd>
        <dt>what if</dt>
        <dd>{sentenceOf(predicted.conditions)}</dd>
      </dl>
      <table class="figures">
        <thead>
          <tr>
            <th scope="col">
              <span class="hidden">what</span>
            </th>
            {columns.map(([name]) => (
              <th scope="col">{name}</th>
            ))}
          </tr>
        </thead>
        <tbody>
          {ROWS.map(([name, cell]) => (
            <tr>
              <th scope="row">{name}</th>
              {columns.map(([, outcome]) => (
                <td>{cell(outcome)}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
      <p class="muted facts">
        How far its model is off the recorded start says how far to trust the rest.
        {notes.map((note) => ` ${note}.`)}
      </p>
      {best !== undefined && <Best best={best} />}
    </>
  );
}

function Best({ best }: { best: ReadonlyArray<{ conditions: Conditions; outcome: Ran }> }) {
  return (
    <>
      <h3>Policies over this link, the fastest first</h3>
      <table class="figures">
        <thead>
          <tr>
            <th scope="col">policy</th>
            <th scope="col">start</th>
            <th scope="col">bytes</th>
            <th scope="col">requests</th>
          </tr>
        </thead>
        <tbody>
          {best.slice(0, MOST_POLICIES).map(({ conditions, outcome }) => (
            <tr>
              <th scope="row">{policyOf(conditions)}</th>
              <td>{formatUs(outcome.us)}</td>
              <td>{formatBytes(allBytes(outcome))}</td>
              <td>{outcome.requests}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </>
  );
}
