/** Writes the log of an engine, or a part of an exported one, into a file: streamed, with bounded memory. */
import { defined } from '../../schemas/defined.ts';
import type { PathsOf } from '../image/file-paths.ts';
import type { LiveLog } from './live-log.ts';
import { planLive, type LoadOptions } from './load.ts';
import { type BlockPaths, LogFileWriter, type LogHeader, type LogSummary } from './log-file.ts';
import { decodeRecord } from './record.ts';
import { learnDiffId } from './replay-log.ts';
import { ShapeCollector, type Shapes } from './shapes.ts';

export interface ExportOptions extends LoadOptions {
  /** Version of cofa, for the header. */
  cofa: string;
  /** ms since the epoch */
  now: number;
  replace?: boolean;
  /** File paths of blocks, where they can be found; stored for the blocks that traces name. */
  pathsOf?: PathsOf;
  /** The file takes no more events when it has so many bytes, about. */
  maxBytes?: number;
  /** Where the shapes of layers are; stored for the layers of the log. */
  shapes?: Shapes;
}

export interface ExportResult extends LogSummary {
  file: string;
  node: string;
  /** Of the file. */
  bytes: number;
  /** Sequence that the state at its beginning belongs to; 0: it begins with nothing. */
  beginning: number;
  /** Events of the end are left out: `maxBytes`. */
  cut: boolean;
}

/** Blocks whose paths are stored at most. */
const MAX_PATHS = 200_000;

/** Errors: `conflict` where FILE exists, `not-found` where no image or mount fits, those of the log. */
export async function exportLog(live: LiveLog, file: string, options: ExportOptions): Promise<ExportResult> {
  const { cutter, records } = await planLive(live, options);
  const paths: BlockPaths = {};
  const known = new Set<string>();
  const shapes = options.shapes && new ShapeCollector(options.shapes);
  let writer: LogFileWriter | undefined;
  const start = async () => {
    const begin = cutter.beginning();
    const { image, mount } = options;
    const beginning =
      begin.seq === 0
        ? undefined
        : { seq: begin.seq, at: begin.at, reason: cutter.reason ?? ('from' as const) };
    const header: LogHeader = defined({
      node: live.node,
      cofa: options.cofa,
      exportedAt: options.now,
      image,
      mount,
      beginning,
    });
    return await LogFileWriter.create(file, header, {
      ...(begin.seq === 0 ? {} : { beginning: begin }),
      replace: options.replace === true,
    });
  };
  let seen = 0;
  let cut = false;
  const diffIds = new Map<string, string>();
  try {
    // An existing file is reported before the log is read.
    if (options.from === undefined) writer = await start();
    for await (const raw of live.records(defined({ ...records, signal: options.signal }))) {
      if (cutter.isOver) break;
      if (++seen % 4096 === 0) options.onProgress?.(seen);
      if (!cutter.wants(raw)) continue;
      writer ??= await start();
      cut = writer.bytes >= (options.maxBytes ?? Number.POSITIVE_INFINITY);
      if (cut) break;
      const decoded = decodeRecord(raw.bytes);
      await writer.add(raw, decoded.at ?? 0);
      shapes?.learn(raw, decoded);
      const id = raw.subject.slice(raw.subject.lastIndexOf('.') + 1);
      if (decoded.type === 'layer.opened') learnDiffId(diffIds, id, decoded.record);
      if (decoded.type === 'layer.trace' && options.pathsOf !== undefined) {
        const layer = `sha256:${id}`;
        collectPaths(paths, known, diffIds.get(layer) ?? layer, decoded.record, options.pathsOf);
      }
    }
    options.signal?.throwIfAborted();
    writer ??= await start();
    shapes?.learnBeginning(cutter.beginning());
    const summary = await writer.finish(paths, shapes?.collect());
    return {
      file,
      node: live.node,
      bytes: writer.bytes,
      beginning: cutter.beginning().seq,
      cut,
      ...summary,
    };
  } catch (error) {
    await writer?.abandon();
    throw error;
  }
}

function collectPaths(
  paths: BlockPaths,
  known: Set<string>,
  diffId: string,
  record: Record<string, unknown>,
  pathsOf: PathsOf,
): void {
  for (const read of Array.isArray(record.reads) ? record.reads : []) {
    const { block, blocks } = (read ?? {}) as { block?: unknown; blocks?: unknown };
    if (typeof block !== 'number') continue;
    const end = block + Math.min(typeof blocks === 'number' ? blocks : 1, 1024);
    for (let one = block; one < end; one++) {
      const key = `${diffId}/${one}`;
      if (known.has(key) || known.size >= MAX_PATHS) continue;
      known.add(key);
      const found = pathsOf(diffId, one);
      if (found.length > 0) (paths[diffId] ??= []).push([one, [...found]]);
    }
  }
}
