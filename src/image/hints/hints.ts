/**
 * Hints of an image: blocks that its start is likely to read, in that order; the indexer found them (gather.ts). They
 * have sections, so that another command of the same program can use what that program reads.
 *
 *     char magic[8] "COFAHINT" | number version = 1
 *     number devices, each: 32 bytes of its diffID
 *     number sections, each: number flags (1: for every command) | number bytes of the program's name, these bytes
 *                            number runs, each: number device | number first block | number blocks
 *
 * Numbers as in bytes.ts. The same hints have one encoding. A node fetches hinted blocks and does nothing else with
 * hints: a false one costs bytes that no process reads, so bounds are all that a reader checks.
 */
import type { StartSet } from '../../../actors/start-set.ts';
import { CofaError } from '../../../schemas/errors.ts';
import type { StartRun } from '../../../schemas/fetch.ts';
import { ByteReader, ByteWriter } from '../bytes.ts';
import type { FlatFiles } from '../flat-files.ts';
import { BLOCK_SIZE } from '../span-table.ts';
import type { Wanted } from './image-files.ts';

export interface HintSection {
  /** The program that reads it, as the image's command names it, in latin1; '': only that command does. */
  program: string;
  /** Whether it holds for any command: the program is of the image's entry point. */
  isAlways: boolean;
  /** `device` counts `Hints.devices`. */
  runs: readonly StartRun[];
}

export interface Hints {
  /** diffIDs */
  devices: readonly string[];
  sections: readonly HintSection[];
}

/** Bytes of encoded hints. */
export const MAX_HINTS = 1 << 20;
/** Blocks of all hints of an image: 1 GiB. */
export const MAX_HINT_BLOCKS = 16_384;
const MAX_DEVICES = 4_095;
const MAX_SECTIONS = 512;
const MAX_NAME = 4_096;
const MAGIC = Buffer.from('COFAHINT');
const VERSION = 1;
const ALWAYS = 1;

/** The blocks of the files found; no block twice. `entrypoint`: the words of the image's. */
export function hintsOf(wanted: readonly Wanted[], flat: FlatFiles, entrypoint: readonly string[]): Hints {
  const sections: Array<{ program: string; isAlways: boolean; runs: Array<[number, number, number]> }> = [];
  const devices: string[] = [];
  const indexes = new Map<number, number>();
  const known = new Set<number>();
  let left = MAX_HINT_BLOCKS;
  const add = (program: string, device: number, block: number) => {
    // Layers have fewer than 2^32 blocks.
    const key = device * 2 ** 32 + block;
    if (left === 0 || known.has(key)) return;
    known.add(key);
    left -= 1;
    let index = indexes.get(device);
    if (index === undefined) {
      index = devices.push(flat.devices[device] as string) - 1;
      indexes.set(device, index);
    }
    let section = sections.at(-1);
    if (section?.program !== program) {
      if (sections.length === MAX_SECTIONS) return;
      section = { program, isAlways: program !== '' && entrypoint.includes(program), runs: [] };
      sections.push(section);
    }
    const last = section.runs.at(-1);
    if (last !== undefined && last[0] === index && last[1] + last[2] === block) last[2] += 1;
    else section.runs.push([index, block, 1]);
  };
  for (const { file, from, to, program } of wanted) {
    for (const { at, length, device, from: place } of flat.extents(file)) {
      const begin = Math.max(from, at);
      const end = Math.min(to, at + length);
      if (device === undefined || begin >= end) continue;
      const last = Math.floor((place + end - 1 - at) / BLOCK_SIZE);
      for (let block = Math.floor((place + begin - at) / BLOCK_SIZE); block <= last; block++)
        add(program.length <= MAX_NAME ? program : '', device, block);
    }
  }
  return { devices, sections };
}

export function encodeHints({ devices, sections }: Hints): Buffer {
  const writer = new ByteWriter();
  writer.bytes(MAGIC);
  writer.number(VERSION);
  writer.number(devices.length);
  for (const diffId of devices) writer.bytes(Buffer.from(diffId.slice(7), 'hex'));
  writer.number(sections.length);
  for (const { program, isAlways, runs } of sections) {
    writer.number(isAlways ? ALWAYS : 0);
    writer.number(program.length);
    writer.bytes(Buffer.from(program, 'latin1'));
    writer.number(runs.length);
    for (const run of runs) for (const number of run) writer.number(number);
  }
  return Buffer.from(writer.written());
}

/** Error `integrity` for bytes that `encodeHints` would not have written, and beyond the bounds. */
export function decodeHints(bytes: Buffer): Hints {
  const fault = (why: string) => new CofaError('integrity', `hints: ${why}`);
  if (bytes.length > MAX_HINTS) throw fault(`${bytes.length} bytes`);
  const reader = new ByteReader(bytes, fault);
  if (!reader.bytes(MAGIC.length).equals(MAGIC)) throw fault('they are none');
  if (reader.number() !== VERSION) throw fault('their version is unknown');
  const bounded = (most: number, what: string) => {
    const count = reader.number();
    if (count > most) throw fault(`${count} ${what}`);
    return count;
  };
  const devices = Array.from(
    { length: bounded(MAX_DEVICES, 'layers') },
    () => `sha256:${reader.bytes(32).toString('hex')}`,
  );
  let left = MAX_HINT_BLOCKS;
  const sections = Array.from({ length: bounded(MAX_SECTIONS, 'sections') }, (): HintSection => {
    const flags = bounded(ALWAYS, 'as flags');
    const program = reader.bytes(bounded(MAX_NAME, 'bytes of a name')).toString('latin1');
    const runs = Array.from({ length: bounded(left, 'runs') }, (): StartRun => {
      const device = reader.number();
      if (device >= devices.length) throw fault(`layer ${device} of ${devices.length}`);
      const first = reader.number();
      const count = bounded(left, 'blocks');
      if (count === 0) throw fault('a run without blocks');
      left -= count;
      return [device, first, count];
    });
    return { program, isAlways: flags === ALWAYS, runs };
  });
  reader.end();
  return { devices, sections };
}

/**
 * The blocks that a start reads: for the image's own command all, for another one (`program`: its first word) those
 * that it has in common with that. Only in these layers: hints say nothing about others.
 */
export function startOf(
  { devices, sections }: Hints,
  command: 'default' | { program: string },
  layers: ReadonlySet<string>,
): StartSet {
  const program = command === 'default' ? undefined : Buffer.from(command.program, 'utf8').toString('latin1');
  const isWanted = (section: HintSection) =>
    program === undefined || section.isAlways || (program !== '' && section.program === program);
  return {
    devices,
    runs: sections
      .filter(isWanted)
      .flatMap(({ runs }) => runs.filter(([device]) => layers.has(devices[device] as string))),
  };
}
