/** Several ranges of a blob in one request, from registries that know how to answer that and from those that do not. */
import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { ByteRange } from '../../src/registry/client.ts';
import { RegistryClient } from '../../src/registry/client.ts';
import { partsOf, type PlacedBytes } from '../../src/registry/byte-ranges.ts';
import { type FaultCall, type FaultRegistry, startFaultRegistry } from '../support/fault-registry.ts';

const SIZE = 1_000_000;
const BYTES = randomBytes(SIZE);
const THREE: ByteRange[] = [
  [10, 20],
  [1_000, 90_000],
  [500_000, SIZE],
];

let registry: FaultRegistry;
let client: RegistryClient;
let blob: { digest: string; size: number };

beforeEach(async () => {
  registry = await startFaultRegistry();
  const ambient = { now: () => Date.now(), sleep: async () => {}, random: () => 0.5 };
  client = new RegistryClient({ ambient });
  blob = registry.addBlob(BYTES);
});
afterEach(async () => {
  await client.close();
  await registry.stop();
});

const asked = () => registry.requests.map(({ headers }) => headers.range);

/** Compares each chunk with the range that it belongs to; returns how many came. */
async function expectRanges(ranges: readonly ByteRange[], signal?: AbortSignal): Promise<number> {
  const source = { registry: registry.host, repository: 'team/app' };
  const left = ranges.filter(([start, end]) => start < end).map(([start, end]) => [start, end]);
  let chunks = 0;
  for await (const chunk of client.blobRanges(source, blob, ranges, signal)) {
    const [[start, end] = [0, 0]] = left as Array<[number, number]>;
    expect(chunk.equals(BYTES.subarray(start, Math.min(start + chunk.length, end)))).toBe(true);
    if (left[0] !== undefined) left[0][0] = start + chunk.length;
    if (start + chunk.length === end) left.shift();
    chunks += 1;
  }
  expect(left).toEqual([]);
  return chunks;
}

/** What a request asks for, [start, end). */
function rangesOf({ request }: FaultCall): ByteRange[] {
  return (request.headers.range ?? '')
    .replace('bytes=', '')
    .split(',')
    .map((range): ByteRange => {
      const [first, last] = range.split('-').map(Number);
      return [first as number, (last as number) + 1];
    });
}

const part = ([start, end]: ByteRange, size: number | '*' = SIZE) =>
  Buffer.concat([
    Buffer.from(`\r\n--a b\r\nContent-Type: x/y\r\ncontent-range: bytes ${start}-${end - 1}/${size}\r\n\r\n`),
    BYTES.subarray(start, end),
  ]);
const wholeAnswer = (ranges: ByteRange[]) => Buffer.concat([...ranges.map((range) => part(range)), END]);
const END = Buffer.from('\r\n--a b--\r\n');
const MULTIPART = { 'content-type': 'multipart/byteranges; charset=x; boundary="a b"' };

/** Requests for several ranges are answered so; those for one range as they should be. */
function answering(answer: (call: FaultCall, ranges: ByteRange[]) => void): void {
  registry.fault = (call) => {
    const ranges = rangesOf(call);
    if (ranges.length < 2) return 'pass';
    answer(call, ranges);
    return 'handled';
  };
}
const several = (parts: (ranges: ByteRange[]) => Buffer[]) =>
  answering(({ response }, ranges) => response.writeHead(206, MULTIPART).end(Buffer.concat(parts(ranges))));

describe('several ranges of a blob', () => {
  test('come in one answer, each exactly, whatever they are', async () => {
    several((ranges) => [...ranges.map((range) => part(range)), END]);
    const places = fc.uniqueArray(fc.nat(SIZE), { minLength: 2, maxLength: 20 });
    await fc.assert(
      fc.asyncProperty(places, async (given) => {
        const sorted = given.toSorted((a, b) => a - b);
        const ranges = sorted
          .slice(1)
          .flatMap((end, at): ByteRange[] => (at % 3 === 1 ? [] : [[sorted[at] as number, end]]));
        const before = registry.requests.length;
        await expectRanges(ranges);
        expect(registry.requests.length - before).toBe(1);
      }),
      { numRuns: 50 },
    );
  });

  test('empty ones ask for nothing; those that overlap, or lie outside, are refused', async () => {
    expect(
      await expectRanges([
        [5, 5],
        [9, 9],
      ]),
    ).toBe(0);
    expect(await expectRanges([])).toBe(0);
    for (const wrong of [
      [
        [0, 5],
        [4, 9],
      ],
      [
        [10, 20],
        [0, 5],
      ],
      [
        [0, 5],
        [9, SIZE + 1],
      ],
    ] as ByteRange[][])
      await expect(expectRanges(wrong)).rejects.toMatchObject({ code: 'invalid-argument' });
    expect(registry.requests).toHaveLength(0);
  });

  test('may come as fewer parts, or as one range that has them all', async () => {
    several(([, second, third]) => [part([0, (second as ByteRange)[1] + 7]), part(third as ByteRange), END]);
    await expectRanges(THREE);
    answering(({ response }) => {
      response.writeHead(206, { 'content-range': `bytes 3-${SIZE - 1}/${SIZE}` }).end(BYTES.subarray(3));
    });
    await expectRanges(THREE);
    expect(registry.requests).toHaveLength(2);
  });

  test.each([
    ['sends the whole blob', 200],
    ['says that it does not know how', 501],
    ['calls it a bad request', 400],
    ['says that there is no such range', 416],
  ])('of a registry that %s are asked for one by one, from then on at once', async (_, status) => {
    answering(({ response }) => response.writeHead(status).end(status === 200 ? BYTES : 'no'));
    await expectRanges(THREE);
    expect(asked()).toHaveLength(4);
    await expectRanges(THREE);
    expect(asked().slice(4).toSorted()).toEqual([
      'bytes=10-19',
      'bytes=1000-89999',
      `bytes=500000-${SIZE - 1}`,
    ]);
  });

  test.each<[string, (ranges: ByteRange[]) => Buffer[]]>([
    ['leaves one out', ([, second, third]) => [part(second as ByteRange), part(third as ByteRange), END]],
    ['turns their order around', (ranges) => [...ranges.toReversed().map((range) => part(range)), END]],
    [
      'has no boundary where one should be',
      ([first]) => [part(first as ByteRange), Buffer.from('\r\n--other\r\n\r\n'), BYTES],
    ],
    ['has a part without its place', () => [Buffer.from('--a b\r\nContent-Type: x/y\r\n\r\n'), BYTES]],
    ['never ends a header', () => [Buffer.from('--a b\r\n'), Buffer.alloc(100_000, 'x')]],
  ])('of an answer that %s are asked for one by one', async (_, parts) => {
    several(parts);
    await expectRanges(THREE);
    expect(asked()).toContain(`bytes=500000-${SIZE - 1}`);
    const before = asked().length;
    await expectRanges(THREE);
    expect(asked()).toHaveLength(before + 3);
  });

  test('that are cut short go on with what is missing, and the registry is asked for several again', async () => {
    let isCut = false;
    answering(({ response }, ranges) => {
      const body = Buffer.concat([...ranges.map((range) => part(range)), END]);
      response.writeHead(206, { ...MULTIPART, 'content-length': body.length });
      if (isCut) return response.end(body);
      isCut = true;
      response.write(body.subarray(0, 50_000), () => response.socket?.destroy());
    });
    await expectRanges(THREE);
    expect(asked()[1]).toMatch(/^bytes=\d{5}-89999$/);
    const before = asked().length;
    await expectRanges(THREE);
    expect(asked()).toHaveLength(before + 1);
  });

  test('that end early, or are of a blob of another size, are noticed', async () => {
    several(([first]) => [part(first as ByteRange), END]);
    await expectRanges(THREE);
    several((ranges) => [...ranges.map((range) => part(range, '*')), END]);
    await expectRanges(THREE);
    several(() => [Buffer.from(`--a b\r\ncontent-range: bytes 0-${Number.MAX_SAFE_INTEGER - 1}/*\r\n\r\n`)]);
    await expect(expectRanges(THREE)).rejects.toMatchObject({ code: 'integrity' });
    several((ranges) => [...ranges.map((range) => part(range, SIZE + 1)), END]);
    await expect(expectRanges(THREE)).rejects.toMatchObject({ code: 'integrity' });
  });

  test.each<[string, (range: ByteRange[]) => Buffer, (round: number) => Buffer | undefined]>([
    ['goes on after the last part', (ranges) => wholeAnswer(ranges), () => Buffer.alloc(65_536)],
    ['goes on with single bytes', (ranges) => wholeAnswer(ranges), () => Buffer.alloc(1)],
    ['does not end after the last part', (ranges) => wholeAnswer(ranges), () => undefined],
    ['sends one part again and again', () => part([0, 1]), () => part([0, 1])],
    ['sends ever more parts', () => part([0, 1]), (round) => part([round % SIZE, (round % SIZE) + 1])],
  ])(
    'of a server that %s are read, and the connection is given up',
    async (_, begin, more) => {
      const gone = Promise.withResolvers<void>();
      answering(({ response }, ranges) => {
        response.writeHead(206, MULTIPART);
        response.on('close', () => gone.resolve());
        response.on('error', () => {});
        response.write(begin(ranges));
        let round = 1;
        const goOn = () => {
          const next = more(round++);
          if (next === undefined || response.destroyed) return;
          if (response.write(next)) setTimeout(goOn, 1);
          else response.once('drain', goOn);
        };
        goOn();
      });
      await expectRanges(THREE);
      await gone.promise;
    },
    10_000,
  );

  test('end with the signal, and leave no connection to a reader that has gone', async () => {
    answering(
      ({ response }, ranges) => void response.writeHead(206, MULTIPART).write(part(ranges[0] as ByteRange)),
    );
    const control = new AbortController();
    const reading = expectRanges(THREE, control.signal);
    setTimeout(() => control.abort(new Error('enough')), 100);
    await expect(reading).rejects.toThrow('enough');
    for await (const _ of client.blobRanges({ registry: registry.host, repository: 'team/app' }, blob, THREE))
      break;
  });
});

test('parts come out the same however the answer is cut into chunks', async () => {
  const ranges: ByteRange[] = [
    [0, 1],
    [2, 3],
    [10, 3_000],
    [4_000, 4_001],
  ];
  const body = Buffer.concat([...ranges.map((range) => part(range)), END, Buffer.from('what follows')]);
  await fc.assert(
    fc.asyncProperty(fc.array(fc.integer({ min: 1, max: 400 }), { maxLength: 60 }), async (sizes) => {
      async function* chunks() {
        let at = 0;
        for (const size of sizes) yield body.subarray(at, (at += size));
        yield body.subarray(at);
      }
      const came: PlacedBytes[] = [];
      for await (const placed of partsOf(chunks(), 'a b', ranges.length, () => {})) came.push(placed);
      const found = Buffer.concat(came.map(({ bytes }) => bytes));
      expect(found.equals(Buffer.concat(ranges.map(([start, end]) => BYTES.subarray(start, end))))).toBe(
        true,
      );
      for (const { at, bytes } of came)
        expect(bytes.equals(BYTES.subarray(at, at + bytes.length))).toBe(true);
    }),
  );
});
