/** The view Layers: which blocks are here at any moment, when they came, who asked for them, and which files lie in one. */
import { useEffect, useMemo, useState } from 'preact/hooks';
import type { BlockDocument, BlockMapDocument } from '../../../../schemas/replay.ts';
import type { FoundMoment, LayerSummary } from '../../../replay/documents.ts';
import { formatUs } from '../../../replay/format.ts';
import { formatBytes, formatShare, shortDigest } from '../../../terminal/table.ts';
import { askBytes } from '../api.ts';
import { useAsked, useFirst } from '../asked.ts';
import { BlockCanvas } from '../layers/block-canvas.tsx';
import { type ColourMode, MODES, unpacked } from '../layers/blocks.ts';
import { log } from '../live.ts';
import { addressOf, noteAddress } from '../place.ts';
import type { View } from '../views.ts';

export const layersView: View = {
  id: 'layers',
  title: 'Layers',
  keys: [
    ['← → ↑ ↓', 'from block to block'],
    ['n N', 'to the next block that is otherwise, back'],
    ['+ -', 'closer, further away'],
    ['0', 'all of it'],
  ],
  Body,
};

/** `seq`: of the last event that has happened. */
type Head = Omit<BlockMapDocument, 'runs'> & { seq: number; time: string };

/** What one looks at, as the address says it and as one has moved since. */
interface Sight {
  words: URLSearchParams;
  /** A moment in the words of `cofa replay --at`, or how many events have happened; undefined: all of them. */
  at: string | number | undefined;
  block: number;
  mode: ColourMode;
}

const sightOf = (words: URLSearchParams): Sight => ({
  words,
  at: words.get('at')?.slice(0, 100),
  block: placeOf(words.get('block')) ?? 0,
  mode: MODES.find((one) => one === words.get('by')) ?? 'state',
});

function Body({ words }: { words: URLSearchParams }) {
  const list = useAsked<{ count: number; layers: LayerSummary[] }>('layers', {}, { grows: true });
  const layers = list.value?.layers ?? [];
  const first = useFirst(layers[0]?.layer, words);
  const layer = words.get('layer') ?? first;
  const [moved, move] = useState(() => sightOf(words));
  const sight = moved.words === words ? moved : sightOf(words);
  const { at, block, mode } = sight;
  const choose = (next: number) => move({ ...sight, block: next });
  const count = log.value?.count ?? list.value?.count;
  const moment = useAsked<FoundMoment>('log/moment', typeof at === 'string' ? { text: at } : undefined);
  const found = moment.of?.text === at ? moment.value?.position : undefined;
  const place = at === undefined ? count : typeof at === 'string' ? found : at;
  const wanted = count === undefined || place === undefined ? undefined : Math.min(place, count);
  const [asked, setAsked] = useState({ words, position: wanted });
  // Of a moment that moves the next one is asked for when this one is here.
  const position = asked.words === words ? (asked.position ?? wanted) : wanted;
  const query = layer === undefined || position === undefined ? undefined : { layer, at: position };
  const head = useAsked<Head>('layer', query);
  const bytes = useAsked<ArrayBuffer>('blocks', query, { by: askBytes });
  const isOwn = head.value?.layer === layer && head.value !== undefined && block < head.value.blockCount;
  const one = useAsked<BlockDocument>(
    'block',
    query === undefined || !isOwn ? undefined : { ...query, block },
  );
  const isPending = head.isPending || bytes.isPending || one.isPending;
  useEffect(() => {
    if (!isPending || asked.words !== words) setAsked({ words, position: wanted });
  }, [isPending, words, wanted]);
  const blockCount =
    head.value?.layer === layer && bytes.of?.layer === layer ? head.value?.blockCount : undefined;
  const blocks = useMemo(
    () =>
      bytes.value === undefined || blockCount === undefined ? undefined : unpacked(bytes.value, blockCount),
    [bytes.value, blockCount],
  );
  const by = mode === 'state' ? undefined : mode;
  // A sequence names a moment as long as the log holds it, whatever has been removed before.
  const name = at === undefined ? undefined : nameOf(head.value, wanted);
  useEffect(() => {
    if (layer === undefined || (at !== undefined && name === undefined)) return undefined;
    return noteAddress(() => addressOf('layers', { layer, at: name, block: block || undefined, by }));
  }, [words, layer, at, name, block, by]);
  return (
    <>
      <h1 class="hidden">Layers</h1>
      <form class="choices" onSubmit={(event) => event.preventDefault()}>
        <label class="choice">
          Layer
          <select
            value={layer ?? ''}
            onChange={(event) =>
              (location.hash = addressOf('layers', { layer: event.currentTarget.value, at: name ?? at, by }))
            }
          >
            {layers.map((summary) => (
              <option value={summary.layer}>
                {shortDigest(summary.diffId)} {formatBytes(summary.size)} {summary.images.join(', ')}
              </option>
            ))}
          </select>
        </label>
        <label class="choice">
          Colours by
          <select
            value={mode}
            onChange={(event) =>
              move({ ...sight, mode: MODES.find((name) => name === event.currentTarget.value) ?? 'state' })
            }
          >
            {MODES.map((name) => (
              <option value={name}>{name}</option>
            ))}
          </select>
        </label>
        <label class="choice grow">
          Moment
          <input
            type="range"
            min={0}
            max={count ?? 0}
            value={wanted ?? 0}
            onInput={(event) => {
              const to = Number(event.currentTarget.value);
              move({ ...sight, at: to >= (count ?? 0) ? undefined : to });
            }}
          />
        </label>
      </form>
      {[list.error, moment.error, head.error, bytes.error, one.error]
        .filter((sentence) => sentence !== undefined)
        .map((sentence) => (
          <p class="banner bad" role="alert">
            {sentence}
          </p>
        ))}
      {list.value !== undefined && layers.length === 0 && <p class="muted">the log tells of no layer yet</p>}
      {head.value !== undefined && <Counts head={head.value} isEnd={at === undefined} />}
      {blocks !== undefined && head.value !== undefined && (
        <section class="card" aria-label="Blocks">
          <BlockCanvas
            key={layer}
            blocks={blocks}
            mode={mode}
            chosen={Math.min(block, blocks.states.length - 1)}
            choose={choose}
            label={labelOf(head.value)}
          />
        </section>
      )}
      {one.value !== undefined && <Block of={one.value} />}
    </>
  );
}

const placeOf = (text: string | null): number | undefined =>
  text !== null && /^\d{1,12}$/.test(text) ? Number(text) : undefined;

const labelOf = ({ counts, blockCount, size }: Head): string =>
  `${blockCount} blocks of ${formatBytes(size)}: ${counts.present} present, ${counts.fetching} fetching, ${counts.absent} absent`;

/** Undefined as long as the moment that is shown is another one. */
const nameOf = (head: Head | undefined, position: number | undefined): string | undefined =>
  head === undefined || head.position !== position ? undefined : position === 0 ? 'start' : String(head.seq);

function Counts({ head, isEnd }: { head: Head; isEnd: boolean }) {
  const { counts, blockCount, size, diffId, position, time } = head;
  return (
    <p class="facts" role="status">
      {shortDigest(diffId)}: {formatShare(counts.present, blockCount)} of {formatBytes(size)} present
      {counts.fetching > 0 ? `, ${counts.fetching} blocks on their way` : ''} ·{' '}
      {isEnd ? 'at the end of the log' : `after ${position} events, ${time}`}
    </p>
  );
}

const ASKED: Record<NonNullable<BlockDocument['origin']>, string> = {
  demand: 'a reader waited for it',
  hint: 'a hint or readahead said that it would be read',
  pack: 'a startup pack brought it',
  rest: 'the rest of the image was due',
};

function Block({ of }: { of: BlockDocument }) {
  const { block, offset, state, origin, time, paths, reads, jobs } = of;
  return (
    <section class="card" aria-label={`Block ${block}`}>
      <h2>Block {block}</h2>
      <dl class="pairs">
        <dt>state</dt>
        <dd>
          {state}
          {time === undefined ? '' : `, since ${time}`}
        </dd>
        {origin !== undefined && (
          <>
            <dt>fetched since</dt>
            <dd>{ASKED[origin]}</dd>
          </>
        )}
        <dt>bytes</dt>
        <dd>from {offset.toLocaleString('en')} of the layer on</dd>
        <dt>files</dt>
        <dd>{paths.length === 0 ? 'none that is known' : paths.join(', ')}</dd>
        <dt>reads that waited</dt>
        <dd>
          {reads.length === 0
            ? 'none'
            : reads.map(({ time: when, us }) => `${when.slice(11, 23)} for ${formatUs(us)}`).join(', ')}
        </dd>
        <dt>fetches</dt>
        <dd>
          {jobs.length === 0
            ? 'none that the log tells of'
            : jobs
                .map(
                  (job) =>
                    `${job.class} ${job.job}, ${formatBytes(job.bytes)}, ${formatUs(job.us)}${job.fetcher === '' ? '' : `, ${job.fetcher}`}${job.error === undefined ? '' : `, failed: ${job.error}`}`,
                )
                .join('; ')}
        </dd>
      </dl>
    </section>
  );
}
