/** The blocks of a layer as the page has them, and how they are coloured. */

/** As `packed` in src/replay/block-map.ts writes them. */
export interface Blocks {
  /** 0 absent, 1 fetching, 2 present */
  states: Uint8Array;
  /** 0 not known, 1 demand, 2 hint, 3 pack, 4 rest */
  origins: Uint8Array;
  /** s since the first block came; 0: not known. */
  seconds: Float32Array;
}

/** `count` blocks from what `packed` wrote. An answer without times, or one that was cut off, has 0 in `seconds`. */
export function unpacked(bytes: ArrayBuffer, count: number): Blocks {
  const packed = new Uint8Array(bytes, 0, Math.min(count, bytes.byteLength));
  const at = Math.ceil(count / 4) * 4;
  const isWhole = bytes.byteLength >= at + 4 * count;
  return {
    states: packed.map((one) => one & 3),
    origins: packed.map((one) => one >> 2),
    seconds: isWhole ? new Float32Array(bytes, at, count) : new Float32Array(count),
  };
}

export const MODES = ['state', 'who asked', 'when'] as const;
export type ColourMode = (typeof MODES)[number];

/** Name and colour of each shade. */
export const LEGENDS: Record<ColourMode, ReadonlyArray<readonly [name: string, colour: string]>> = {
  state: [
    ['absent', '--track'],
    ['fetching', '--trace'],
    ['present', '--good'],
  ],
  'who asked': [
    ['absent', '--track'],
    ['fetching', '--trace'],
    ['not known', '--muted'],
    ['a reader', '--bad'],
    ['a hint', '--image'],
    ['a pack', '--layer'],
    ['the rest', '--mount'],
  ],
  when: [
    ['absent', '--track'],
    ['before the log', '--muted'],
    ['first tenth', '--when-0'],
    ['', '--when-1'],
    ['', '--when-2'],
    ['', '--when-3'],
    ['last', '--when-4'],
  ],
};

/** The shade of each block. Of a tenth, a quarter, half: most of an image comes late, and its start is what one looks at. */
export function shadeOf(mode: ColourMode, { states, origins, seconds }: Blocks): (block: number) => number {
  if (mode === 'state') return (block) => states[block] ?? 0;
  if (mode === 'who asked')
    return (block) => (states[block] === 2 ? 2 + (origins[block] ?? 0) : (states[block] ?? 0));
  let last = 0;
  for (const one of seconds) if (one > last) last = one;
  return (block) => {
    if (states[block] !== 2) return 0;
    const at = seconds[block] ?? 0;
    if (at === 0) return 1;
    const share = last === 0 ? 0 : at / last;
    return share < 0.1 ? 2 : share < 0.25 ? 3 : share < 0.5 ? 4 : share < 0.75 ? 5 : 6;
  };
}

/**
 * Where a line of 2 CSS pixels around a cell lies, from and to, in one direction: all of it on the canvas. `at`: where the cell begins;
 * `most`: how far the canvas reaches.
 */
export function around(at: number, edge: number, most: number): [from: number, to: number] {
  const from = Math.min(at, most - edge);
  return [Math.max(1, from), Math.min(most - 1, from + edge)];
}
