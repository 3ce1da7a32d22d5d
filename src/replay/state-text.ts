/** States and differences as text for people. */
import type { ReplayDiff, ReplayState } from '../../schemas/replay.ts';
import { formatBytes, formatShare, renderPairs, renderTable, shortDigest } from '../terminal/table.ts';
import type { LayerBar } from './documents.ts';
import { countBlocks } from './state-document.ts';

/** A state as tables: node, mounts, images, layers. */
export function renderState(state: ReplayState): string {
  const tables = [tableOfMounts(state), tableOfImages(state), tableOfLayers(state)];
  return [renderNode(state), ...tables.filter((table) => table !== undefined)].join('\n');
}

function renderNode(state: ReplayState): string {
  const pairs: Array<readonly [string, string]> = [
    ['node', state.node],
    ['moment', `sequence ${state.seq}, event ${state.position}, ${state.time ?? 'time unknown'}`],
    ['engine', `${state.running ? 'running' : 'stopped'}${state.crashed ? ', the one before crashed' : ''}`],
  ];
  if (state.processes.length > 0)
    pairs.push(['processes', state.processes.map(({ name, pid }) => `${name} ${pid ?? 'ended'}`).join(', ')]);
  if (state.members.length > 0)
    pairs.push(['fleet', `${state.members.length} other members: ${namesOf(state.members)}`]);
  if (state.leftOut.length > 0) pairs.push(['left out', namesOf(state.leftOut)]);
  if (state.disbelieved.length > 0) pairs.push(['disbelieved', namesOf(state.disbelieved)]);
  if (state.snapshots > 0) pairs.push(['snapshots', String(state.snapshots)]);
  return renderPairs([...pairs, ['digest', state.digest]]);
}

/** The first few. */
const MOST_NAMES = 12;
const namesOf = (list: ReadonlyArray<{ name: string }>): string => {
  const more = list.length > MOST_NAMES ? ' …' : '';
  return `${list
    .slice(0, MOST_NAMES)
    .map(({ name }) => name)
    .join(', ')}${more}`;
};

function tableOfMounts({ mounts }: ReplayState): string | undefined {
  if (mounts.length === 0) return undefined;
  return renderTable(
    ['MOUNT', 'STATE', 'ID', 'IMAGE'],
    mounts.map((mount) => [mount.dir, mount.state, mount.id, mount.ref]),
  );
}

function tableOfImages({ images }: ReplayState): string | undefined {
  if (images.length === 0) return undefined;
  const rows = images.map((image) => [
    image.ref,
    image.state,
    image.origin ?? '-',
    image.trust ?? '-',
    String(image.layers.length),
    shortDigest(image.manifest),
  ]);
  return renderTable(['IMAGE', 'STATE', 'INDEX', 'TRUST', 'LAYERS', 'MANIFEST'], rows, ['LAYERS']);
}

function tableOfLayers({ layers }: ReplayState): string | undefined {
  if (layers.length === 0) return undefined;
  const rows = layers.map((layer) => [
    shortDigest(layer.diffId),
    layer.state,
    formatBytes(layer.size),
    formatShare(layer.presentCount, layer.blockCount),
    `${layer.presentCount}/${layer.blockCount}`,
    blockBar(layer.present, layer.blockCount, 32),
  ]);
  return renderTable(['LAYER', 'STATE', 'SIZE', 'PRESENT', 'BLOCKS', 'MAP'], rows, [
    'SIZE',
    'PRESENT',
    'BLOCKS',
  ]);
}

/** What differs, a line each; between the two moments in the first line. */
export function renderDiff(diff: ReplayDiff): string {
  const lines = [
    `from sequence ${diff.from.seq} (${diff.from.time ?? '-'}) to ${diff.to.seq} (${diff.to.time ?? '-'})`,
    ...diffLines(diff),
  ];
  return `${lines.join('\n')}\n`;
}

/** What is different, one thing a line; `no difference` where there is none. */
export function diffLines(diff: ReplayDiff): string[] {
  const lines = changeLines(diff);
  return lines.length > 0 ? lines : [diff.equal ? 'no difference' : 'no difference that is shown here'];
}

/** The same, and nothing where nothing is different. */
export function changeLines(diff: Omit<ReplayDiff, 'equal'>): string[] {
  const lines: string[] = [];
  if (diff.running !== undefined) lines.push(`engine  ${diff.running.to ? 'started' : 'stopped'}`);
  for (const { id, change, fields } of diff.processes)
    lines.push(`process ${SIGNS[change]} ${id}  ${fieldsText(change, fields)}`);
  for (const { id, change, fields } of diff.members)
    lines.push(`member  ${SIGNS[change]} ${id}  ${fieldsText(change, fields)}`);
  for (const { id, change, fields } of diff.leftOut)
    lines.push(`left out ${SIGNS[change]} ${id}  ${fieldsText(change, fields)}`);
  for (const { id, change, fields } of diff.disbelieved)
    lines.push(`disbelieved ${SIGNS[change]} ${id}  ${fieldsText(change, fields)}`);
  for (const { id, change, fields } of diff.images)
    lines.push(`image   ${SIGNS[change]} ${shortDigest(id)}  ${fieldsText(change, fields)}`);
  for (const { id, change, fields } of diff.mounts)
    lines.push(`mount   ${SIGNS[change]} ${id.slice(0, 12)}  ${fieldsText(change, fields)}`);
  for (const { diffId, change, gained, lost, fields } of diff.layers) {
    const blocks = [
      ...(gained.length > 0 ? [`+${countBlocks(gained)} blocks ${rangesText(gained)}`] : []),
      ...(lost.length > 0 ? [`-${countBlocks(lost)} blocks ${rangesText(lost)}`] : []),
    ];
    const text = [...blocks, fieldsText(change, fields)].filter((part) => part !== '').join('  ');
    lines.push(`layer   ${SIGNS[change]} ${shortDigest(diffId)}  ${text}`);
  }
  return lines;
}

const SIGNS = { added: '+', removed: '-', changed: '~' } as const;

function fieldsText(
  change: 'added' | 'removed' | 'changed',
  fields: Record<string, { from: unknown; to: unknown }>,
): string {
  return Object.entries(fields)
    .map(([name, { from, to }]) => {
      if (change === 'added') return `${name}=${valueText(to)}`;
      if (change === 'removed') return `${name}=${valueText(from)}`;
      return `${name}: ${valueText(from)} → ${valueText(to)}`;
    })
    .join('  ');
}

function valueText(value: unknown): string {
  if (value === null) return '-';
  if (typeof value === 'string') return value.startsWith('sha256:') ? shortDigest(value) : value;
  return JSON.stringify(value);
}

/** `0-15, 32, 40-47 …`: the first few. */
export function rangesText(ranges: ReadonlyArray<readonly [number, number]>, most = 6): string {
  const shown = ranges
    .slice(0, most)
    .map(([first, count]) => (count === 1 ? `${first}` : `${first}-${first + count - 1}`));
  return `${shown.join(', ')}${ranges.length > most ? ' …' : ''}`;
}

/** How full a part of a layer is: ten steps in nine marks. */
const SHADES = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'] as const;

/** A layer's blocks as `width` marks, each the share that is present of its part. `·` stands for none. */
export function blockBar(
  present: ReadonlyArray<readonly [number, number]>,
  blockCount: number,
  width: number,
): string {
  return shares(present, blockCount, width)
    .map((share) =>
      share <= 0 ? '·' : (SHADES[share >= 1 ? 8 : Math.min(7, 1 + Math.floor(share * 7))] ?? '█'),
    )
    .join('');
}

/** Layers with a bar of `cells` parts in place of their ranges. */
export function layersBarred(layers: ReplayState['layers'], cells: number): LayerBar[] {
  return layers.map(({ present, ...layer }) => ({
    ...layer,
    bar: shares(present, layer.blockCount, cells).map((share) => Math.round(share * 1000) / 1000),
  }));
}

/** The share of present blocks in each of `width` parts of a layer, 0 to 1. */
export function shares(
  present: ReadonlyArray<readonly [number, number]>,
  blockCount: number,
  width: number,
): number[] {
  const cells = Math.max(1, Math.min(width, blockCount));
  const counts = Array.from({ length: cells }, () => 0);
  for (const [first, count] of present) {
    const end = Math.min(first + count, blockCount);
    for (let cell = Math.floor((first * cells) / blockCount); cell < cells; cell++) {
      const from = Math.max(first, Math.ceil((cell * blockCount) / cells));
      const to = Math.min(end, Math.ceil(((cell + 1) * blockCount) / cells));
      if (to > from) counts[cell] = (counts[cell] ?? 0) + to - from;
      if (end <= ((cell + 1) * blockCount) / cells) break;
    }
  }
  return counts.map((count, cell) => {
    const from = Math.ceil((cell * blockCount) / cells);
    const to = Math.ceil(((cell + 1) * blockCount) / cells);
    return to === from ? 0 : count / (to - from);
  });
}
