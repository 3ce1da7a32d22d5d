/** The view Layers: which blocks are here at any moment, when they came, who asked for them, and which files lie in one. */
import { useEffect, useState } from 'preact/hooks';
import type { BlockDocument, BlockMapDocument } from '../../../../schemas/replay.ts';
import type { LayerSummary } from '../../../replay/documents.ts';
import { formatUs } from '../../../replay/format.ts';
import { formatBytes, formatShare, shortDigest } from '../../../terminal/table.ts';
import { askBytes, sentenceOf } from '../api.ts';
import { useAsked } from '../asked.ts';
import { BlockCanvas } from '../layers/block-canvas.tsx';
import { type Blocks, type ColourMode, MODES, unpacked } from '../layers/blocks.ts';
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

type Head = Omit<BlockMapDocument, 'runs'> & { time: string };

function Body({ words }: { words: URLSearchParams }) {
  const list = useAsked<{ count: number; layers: LayerSummary[] }>('layers', {}, { grows: true });
  const layers = list.value?.layers ?? [];
  const layer = words.get('layer') ?? layers[0]?.layer;
  const count = log.value?.count ?? list.value?.count ?? 0;
  const [at, setAt] = useState<number | undefined>(placeOf(words.get('at')));
  const [block, choose] = useState(placeOf(words.get('block')) ?? 0);
  const [mode, setMode] = useState<ColourMode>(MODES.find((one) => one === words.get('by')) ?? 'state');
  const position = Math.min(at ?? count, count);
  const head = useAsked<Head>('layer', layer === undefined ? undefined : { layer, at: position });
  const { blocks, error } = useBlocks(layer, position, head.value);
  const isOwn = head.value !== undefined && block < head.value.blockCount;
  const one = useAsked<BlockDocument>(
    'block',
    layer === undefined || !isOwn ? undefined : { layer, block, at: position },
  );
  useEffect(() => {
    const by = mode === 'state' ? undefined : mode;
    if (layer !== undefined) noteAddress(addressOf('layers', { layer, at, block: block || undefined, by }));
  }, [layer, at, block, mode]);
  return (
    <>
      <h1 class="hidden">Layers</h1>
      <form class="choices" onSubmit={(event) => event.preventDefault()}>
        <label class="choice">
          Layer
          <select
            value={layer ?? ''}
            onChange={(event) => {
              choose(0);
              location.hash = addressOf('layers', { layer: event.currentTarget.value, at });
            }}
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
            onChange={(event) => setMode(MODES.find((name) => name === event.currentTarget.value) ?? 'state')}
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
            max={count}
            value={position}
            onInput={(event) => {
              const to = Number(event.currentTarget.value);
              setAt(to >= count ? undefined : to);
            }}
          />
        </label>
      </form>
      {[list.error, head.error, error, one.error]
        .filter((sentence) => sentence !== undefined)
        .map((sentence) => (
          <p class="banner bad" role="alert">
            {sentence}
          </p>
        ))}
      {list.value !== undefined && layers.length === 0 && <p class="muted">the log tells of no layer yet</p>}
      {head.value !== undefined && <Counts head={head.value} at={at} />}
      {blocks !== undefined && head.value !== undefined && (
        <section class="card" aria-label="Blocks">
          <BlockCanvas
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

/** The bytes of the map; one answer after the other, so that a moved slider asks for where it is by then. */
function useBlocks(
  layer: string | undefined,
  at: number,
  head: Head | undefined,
): { blocks: Blocks | undefined; error: string | undefined } {
  const [got, set] = useState<{ layer?: string; blocks: Blocks | undefined; error: string | undefined }>({
    blocks: undefined,
    error: undefined,
  });
  const count = head?.layer === layer ? head?.blockCount : undefined;
  useEffect(() => {
    if (layer === undefined || count === undefined) return undefined;
    const stop = new AbortController();
    askBytes('blocks', { layer, at }, stop.signal).then(
      (bytes) => set({ layer, blocks: unpacked(bytes, count), error: undefined }),
      (error: unknown) => {
        if (!stop.signal.aborted) set({ blocks: undefined, error: sentenceOf(error) });
      },
    );
    return () => stop.abort();
  }, [layer, at, count]);
  return got.layer === layer ? got : { blocks: undefined, error: got.error };
}

const labelOf = ({ counts, blockCount, size }: Head): string =>
  `${blockCount} blocks of ${formatBytes(size)}: ${counts.present} present, ${counts.fetching} fetching, ${counts.absent} absent`;

function Counts({ head, at }: { head: Head; at: number | undefined }) {
  const { counts, blockCount, size, diffId, position, time } = head;
  return (
    <p class="facts" role="status">
      {shortDigest(diffId)}: {formatShare(counts.present, blockCount)} of {formatBytes(size)} present
      {counts.fetching > 0 ? `, ${counts.fetching} blocks on their way` : ''} ·{' '}
      {at === undefined ? 'at the end of the log' : `after ${position} events, ${time}`}
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
