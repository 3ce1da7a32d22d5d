/**
 * How fast a long log replays: `node ops/bench/replay.ts [EVENTS] [SEED]`, a million by default. Writes a synthetic log
 * into a file, loads it as `cofa replay FILE` does, jumps in it, and compares the state with a plain fold of all events.
 * Times are processor time.
 */
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { emptyNode, foldEvent } from '../../actors/node-state.ts';
import type { CofaEvent } from '../../schemas/events.ts';
import { parseCondition } from '../../src/replay/conditions.ts';
import { loadFile } from '../../src/replay/load.ts';
import { LogFileWriter } from '../../src/replay/log-file.ts';
import { decodeRecord, partsOfSubject, type RawRecord } from '../../src/replay/record.ts';
import { find } from '../../src/replay/search.ts';
import { digestOfNodeState } from '../../src/store/node-codec.ts';
import { syntheticRecords } from '../../test/replay/synthetic-log.ts';

const count = Number(process.argv[2] ?? 1_000_000);
const seed = Number(process.argv[3] ?? 1);
const folder = mkdtempSync(join(tmpdir(), 'cofa-bench-replay-'));
const say = (name: string, value: string) => process.stdout.write(`${name.padEnd(44)} ${value}\n`);
const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;
/** Processor time of this process, ms: what others do on the machine does not count. */
const cpu = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
};
const timed = <T>(work: () => T): { ms: number; result: T } => {
  const from = cpu();
  const result = work();
  return { ms: cpu() - from, result };
};

try {
  const file = join(folder, 'log');
  const writer = await LogFileWriter.create(file, { node: 'node-1', cofa: 'bench', exportedAt: 0 });
  const began = performance.now();
  for (const raw of syntheticRecords(count, seed)) await writer.add(raw, 0);
  await writer.finish();
  say(
    'written',
    `${count} events, ${megabytes(statSync(file).size)}, ${Math.round(performance.now() - began)} ms`,
  );

  // The fold alone, of decoded events: a slice that fits into memory, again and again.
  const slice = [...take(syntheticRecords(count, seed), Math.min(count, 100_000))].map((raw) => ({
    id: partsOfSubject(raw.subject).id,
    event: decodeRecord(raw.bytes).record as unknown as CofaEvent,
  }));
  const fold = timed(() => {
    const state = emptyNode();
    for (const { id, event } of slice) foldEvent(state, id, event);
  });
  say('fold of decoded events', `${Math.round(slice.length / fold.ms)} thousand events/s`);

  const plain = timed(() => {
    const state = emptyNode();
    for (const raw of syntheticRecords(count, seed))
      foldEvent(
        state,
        partsOfSubject(raw.subject).id,
        decodeRecord(raw.bytes).record as unknown as CofaEvent,
      );
    return digestOfNodeState(state);
  });

  globalThis.gc?.();
  const before = process.memoryUsage();
  const from = cpu();
  const clock = performance.now();
  const loaded = await loadFile(file);
  const ms = cpu() - from;
  const wall = performance.now() - clock;
  globalThis.gc?.();
  const after = process.memoryUsage();
  const { log } = loaded;
  say(
    'load (read, decode, fold, index, checkpoints)',
    `${Math.round(ms)} ms (${Math.round(wall)} ms by the clock), ${Math.round(count / ms)} thousand events/s`,
  );
  say(
    'memory after loading',
    `${megabytes(after.rss - before.rss)} rss more, ${megabytes(log.memory)} by its own count`,
  );
  say('checkpoints', String(log.checkpointCount));

  const jumps: number[] = [];
  for (let index = 0; index < 200; index++) {
    const position = Math.floor((((index * 7919) % 1000) / 1000) * log.count);
    jumps.push(timed(() => log.stateAt(position)).ms);
  }
  jumps.sort((a, b) => a - b);
  say('jump anywhere', `median ${jumps[100]?.toFixed(1)} ms, longest ${jumps.at(-1)?.toFixed(1)} ms`);
  const steps: number[] = [];
  for (let position = log.count - 1; position > log.count - 100; position--)
    steps.push(timed(() => log.stateAt(position)).ms);
  steps.sort((a, b) => a - b);
  say('step back', `median ${steps[50]?.toFixed(1)} ms, longest ${steps.at(-1)?.toFixed(1)} ms`);
  const searched = timed(() => find(log, { condition: parseCondition('read > 1000s') }, 0, log.count));
  say('condition that never holds, over all events', `${Math.round(searched.ms)} ms`);
  const text = timed(() => find(log, { text: 'no such text' }, 0, log.count));
  say('text that is nowhere, over all events', `${Math.round(text.ms)} ms`);
  const same = digestOfNodeState(log.stateAt(log.count)) === plain.result;
  say('state at its end, against a plain fold', same ? 'identical' : 'DIFFERENT');
  if (!same) process.exitCode = 1;
  await loaded.close();
} finally {
  rmSync(folder, { recursive: true });
}

function* take(records: Iterable<RawRecord>, most: number): IterableIterator<RawRecord> {
  let left = most;
  for (const raw of records) {
    if (left-- <= 0) return;
    yield raw;
  }
}
