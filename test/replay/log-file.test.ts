import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32, zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { copyState } from '../../src/replay/checkpoints.ts';
import { decodeFrame, encodeFrame, FRAME_RECORDS } from '../../src/replay/frames.ts';
import { loadFile } from '../../src/replay/load.ts';
import { LogFileReader, LogFileWriter, type LogHeader } from '../../src/replay/log-file.ts';
import { parseMoment } from '../../src/replay/moments.ts';
import { writeTrace } from '../../src/replay/trace-file.ts';
import { decodeRecord, type RawRecord } from '../../src/replay/record.ts';
import { decodeNodeState, digestOfNodeState, encodeNodeState } from '../../src/store/node-codec.ts';
import { findMount } from '../../src/replay/start-phases.ts';
import { explainStart } from '../../src/replay/why-start.ts';
import { Cleanup } from '../support/temp.ts';
import { LAYER_A, LAYER_B, logOf, MOUNT, record, sampleRecords, START } from './sample-log.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());
const header: LogHeader = { node: 'node-1', cofa: '0.1.0', exportedAt: START };

async function writeLog(
  records: readonly RawRecord[],
  options: Parameters<typeof LogFileWriter.create>[2] = {},
  head: LogHeader = header,
): Promise<string> {
  const path = join(await cleanup.tempDir('log'), 'a.cofa-log');
  const writer = await LogFileWriter.create(path, head, options);
  for (const raw of records) await writer.add(raw, decodeRecord(raw.bytes).at ?? 0);
  await writer.finish();
  return path;
}

function readAll(path: string, partial = false): { records: RawRecord[]; reader: LogFileReader } {
  const reader = LogFileReader.open(path);
  try {
    const records = [...reader.frames({ partial })].flatMap((frame) => frame.records);
    return { records: records.map((raw) => ({ ...raw, bytes: Buffer.from(raw.bytes) })), reader };
  } finally {
    reader.close();
  }
}

describe('an exported log', () => {
  test('no file that is written is without its folder, and the error says what to run', async () => {
    const path = join(await cleanup.tempDir('no-folder'), 'nosuch', 'a.cofa-log');
    const refused = {
      code: 'not-found',
      message: `${path} cannot be made: its folder does not exist`,
      hint: `mkdir -p ${join(path, '..')}`,
    };
    await expect(LogFileWriter.create(path, header)).rejects.toMatchObject(refused);
    const log = logOf(sampleRecords());
    const whole = { from: 0, to: Number.POSITIVE_INFINITY };
    await expect(writeTrace(log, whole, path, { replace: false, mount: undefined })).rejects.toMatchObject(
      refused,
    );
  });

  test('gives back every record byte for byte, and what its trailer says', async () => {
    const records = sampleRecords();
    const { records: back, reader } = readAll(await writeLog(records));
    expect(back).toEqual(records.map((raw) => ({ ...raw, bytes: Buffer.from(raw.bytes) })));
    expect(reader.summary).toMatchObject({
      events: records.length,
      firstSeq: 10,
      lastSeq: records.at(-1)?.seq,
      firstAt: START,
      lastAt: START + 5100,
    });
  });

  test('folds to the state of the log that it was made of', async () => {
    const records = sampleRecords();
    const loaded = await loadFile(await writeLog(records));
    const log = logOf(records);
    expect(digestOfNodeState(loaded.log.stateAt(log.count))).toBe(digestOfNodeState(log.stateAt(log.count)));
    await loaded.close();
  });

  test('that is empty, and one of many frames', async () => {
    expect(readAll(await writeLog([])).records).toEqual([]);
    const many = Array.from({ length: 2 * FRAME_RECORDS + 7 }, (_, index) =>
      record(index + 1, index, 'layer', LAYER_A, { type: 'layer.blocks', ranges: [[index % 400, 1]] }),
    );
    const loaded = await loadFile(await writeLog(many));
    expect(loaded.log.count).toBe(many.length);
    expect(loaded.log.timeline.eventAt(FRAME_RECORDS).seq).toBe(FRAME_RECORDS + 1);
    expect(loaded.log.timeline.eventAt(0).seq).toBe(1);
    await loaded.close();
  });

  test('carries the state in front of its first event', async () => {
    const records = sampleRecords();
    const whole = logOf(records);
    const beginning = {
      seq: whole.seqOf(12),
      at: whole.timeOf(12),
      state: copyState(whole.stateAt(12)),
    };
    const path = await writeLog(
      records.slice(12),
      { beginning },
      { ...header, beginning: { seq: beginning.seq, at: beginning.at, reason: 'from' } },
    );
    const loaded = await loadFile(path);
    expect(loaded.log.beginning.seq).toBe(beginning.seq);
    for (const position of [0, 5, records.length - 12])
      expect(digestOfNodeState(loaded.log.stateAt(position))).toBe(
        digestOfNodeState(whole.stateAt(position + 12)),
      );
    await loaded.close();
  });

  test('is not written over, and nothing of a broken-off one stays', async () => {
    const path = await writeLog([]);
    await expect(LogFileWriter.create(path, header)).rejects.toMatchObject({ code: 'conflict' });
    const writer = await LogFileWriter.create(path, header, { replace: true });
    await writer.abandon();
    expect(readAll(path).records).toEqual([]);
    await expect(LogFileWriter.create(join(path, 'x'), header)).rejects.toMatchObject({ code: 'not-found' });
  });

  test('any frame of records comes back', () => {
    const records = fc.array(
      fc.record({
        gap: fc.integer({ min: 1, max: 2 ** 40 }),
        subject: fc.string({ maxLength: 20 }),
        bytes: fc.uint8Array({ maxLength: 50 }),
      }),
      { maxLength: 50 },
    );
    fc.assert(
      fc.property(records, (given) => {
        let seq = 0;
        const list = given.map(({ gap, subject, bytes }) => {
          seq += gap;
          return { seq, subject: Buffer.from(subject).toString('utf8'), bytes: Buffer.from(bytes) };
        });
        expect(decodeFrame(encodeFrame(list))).toEqual(list);
      }),
    );
  });
});

/** The start of a Python program from an image of this machine's own files, in November 2026. */
test('a file of format 1 still opens: a real start', async () => {
  const path = join(import.meta.dirname, '../fixtures/replay/start-v1.cofa-log');
  const loaded = await loadFile(path);
  const { log } = loaded;
  expect([log.count, log.strange, log.node]).toEqual([55, 0, 'demo']);
  const layers = [...log.stateAt(log.count).layers.values()];
  expect(layers.map(({ presentCount, handedOver }) => [presentCount, handedOver])).toEqual([
    [62, true],
    [970, true],
  ]);
  const why = explainStart(log, findMount(log, '/mnt/app'));
  expect(why.phases.map(({ phase, us }) => [phase, us])).toEqual([
    ['resolve', 93_000],
    ['prepare', 155_000],
    ['attach', 20_000],
    ['mount', 116_000],
    ['reads', 4_108_556],
  ]);
  expect(why.files[0]).toMatchObject({ path: '/usr/bin/python3.11', reads: 6 });
  await loaded.close();
});

describe('a file that is not as it was written', () => {
  test('any changed byte and any cut is told, and never taken for a log', async () => {
    const good = readFileSync(await writeLog(sampleRecords()));
    const path = join(await cleanup.tempDir('log'), 'bad');
    fc.assert(
      fc.property(
        fc.nat(good.length - 1),
        fc.integer({ min: 1, max: 255 }),
        fc.boolean(),
        (at, flip, cut) => {
          const bad = Buffer.from(cut ? good.subarray(0, at) : good);
          if (!cut) bad[at] = (bad[at] as number) ^ flip;
          writeFileSync(path, bad);
          expect(() => readAll(path)).toThrow(
            expect.objectContaining({
              code: expect.stringMatching(/^(integrity|unsupported|invalid-argument)$/),
            }),
          );
        },
      ),
      { numRuns: 300 },
    );
  });

  test('what is whole of a cut one can be read', async () => {
    const many = Array.from({ length: FRAME_RECORDS + 100 }, (_, index) =>
      record(index + 1, index, 'layer', LAYER_A, { type: 'layer.blocks', ranges: [[index % 400, 1]] }),
    );
    const good = readFileSync(await writeLog(many));
    const path = join(await cleanup.tempDir('log'), 'cut');
    writeFileSync(path, good.subarray(0, good.length - 200));
    expect(() => readAll(path)).toThrow(/is cut off; its first 4096 events are whole/);
    const { records, reader } = readAll(path, true);
    expect(records).toHaveLength(FRAME_RECORDS);
    expect(reader.damage).toMatch(/cut off/);
    const loaded = await loadFile(path, { partial: true });
    expect(loaded.log.notes).toEqual([expect.stringMatching(/only what is whole is shown/)]);
    await loaded.close();
  });

  test('a later format, another kind of file, a folder and no file are told apart', async () => {
    const good = readFileSync(await writeLog([]));
    const folder = await cleanup.tempDir('log');
    const path = join(folder, 'x');
    const later = Buffer.from(good);
    later.writeUInt32LE(2, 8);
    writeFileSync(path, later);
    expect(() => LogFileReader.open(path)).toThrow(/has format 2; this cofa reads 1/);
    writeFileSync(path, 'hello, world');
    expect(() => LogFileReader.open(path)).toThrow(expect.objectContaining({ code: 'invalid-argument' }));
    writeFileSync(path, '');
    expect(() => LogFileReader.open(path)).toThrow(/is cut off/);
    mkdirSync(join(folder, 'dir'));
    expect(() => LogFileReader.open(join(folder, 'dir'))).toThrow(/not a regular file/);
    expect(() => LogFileReader.open(join(folder, 'none'))).toThrow(
      expect.objectContaining({ code: 'not-found' }),
    );
  });

  test('parts of a later cofa: small ones are passed over, capital ones refused', async () => {
    const good = readFileSync(await writeLog(sampleRecords()));
    const path = join(await cleanup.tempDir('log'), 'x');
    for (const [type, error] of [
      ['z', /checksum is another/],
      ['Z', /has a part Z that this cofa does not know/],
    ] as const) {
      writeFileSync(path, insertSection(good, type));
      // The checksum is that of the file without it: passing over it leads to the trailer.
      expect(() => readAll(path)).toThrow(error);
    }
  });
});

/** A part in front of the trailer, which is the last. */
function insertSection(file: Buffer, type: string): Buffer {
  let at = 12;
  while (file.toString('latin1', at, at + 1) !== 'T') at += 13 + file.readUInt32LE(at + 5);
  const content = zstdCompressSync(Buffer.from('later'));
  const head = Buffer.alloc(13);
  head.write(type, 0, 'latin1');
  head.writeUInt32LE(5, 1);
  head.writeUInt32LE(content.length, 5);
  head.writeUInt32LE(crc32(content, crc32(head.subarray(0, 9))), 9);
  return Buffer.concat([file.subarray(0, at), head, content, file.subarray(at)]);
}

describe('a part of a log', () => {
  test('from and to leave the states between them as they are', async () => {
    const records = sampleRecords();
    const whole = logOf(records);
    const path = await writeLog(records);
    const counts = new Map<string, number>();
    for (const from of ['start', '14', '+1s', '#9']) {
      for (const to of ['end', '30', '+3s', '#20']) {
        const loaded = await loadFile(path, { from: parseMoment(from), to: parseMoment(to) });
        const { log } = loaded;
        counts.set(`${from} ${to}`, log.count);
        const begin = whole.timeline.positionOfSeq(log.beginning.seq);
        const end = log.count === 0 ? begin : whole.timeline.positionOfSeq(log.seqOf(log.count));
        for (const [position, same] of [
          [0, begin],
          [log.count, end],
        ] as const)
          expect(digestOfNodeState(log.stateAt(position)), `${from} ${to}`).toBe(
            digestOfNodeState(whole.stateAt(same)),
          );
        await loaded.close();
      }
    }
    expect(counts.get('14 30')).toBe(records.filter(({ seq }) => seq >= 14 && seq <= 30).length);
    expect(counts.get('#9 #20')).toBe(12);
  });

  test('of one image or mount: its own events, its layers, and the engine', async () => {
    const other = 'f'.repeat(64);
    const records = [
      ...sampleRecords(),
      record(1001, 9000, 'layer', other, { type: 'layer.handed-over' }),
      record(1002, 9001, 'mount', 'other', { type: 'mount.mounted' }),
      record(1003, 9002, 'image', other, { type: 'image.failed', code: 'x', message: 'y' }),
    ];
    const path = await writeLog(records);
    for (const choice of [
      { image: 'registry.example/team/app:1' },
      { image: 'app:1' },
      { image: 'aaaaaaaa' },
      { mount: MOUNT },
      { mount: '/mnt/app' },
    ]) {
      const loaded = await loadFile(path, choice);
      expect(loaded.log.count, JSON.stringify(choice)).toBe(records.length - 3);
      expect(loaded.log.stateAt(loaded.log.count).layers.has(`sha256:${LAYER_B}`)).toBe(true);
      await loaded.close();
    }
    await expect(loadFile(path, { image: 'nothing' })).rejects.toMatchObject({ code: 'not-found' });
    await expect(loadFile(path, { mount: 'nothing' })).rejects.toMatchObject({ code: 'not-found' });
  });
});

test('a state that differs in one block has another digest; a copy has the same', () => {
  const log = logOf(sampleRecords());
  const state = log.stateAt(log.count - 3);
  const changed = copyState(state);
  expect(digestOfNodeState(changed)).toBe(digestOfNodeState(state));
  expect(digestOfNodeState(decodeNodeState(encodeNodeState(state)))).toBe(digestOfNodeState(state));
  (changed.layers.get(`sha256:${LAYER_A}`) as { present: Uint8Array }).present[399] = 1;
  expect(digestOfNodeState(changed)).not.toBe(digestOfNodeState(state));
});
