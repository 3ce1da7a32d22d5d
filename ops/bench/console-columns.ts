/**
 * Whether the console should compress the columns of a log: a client that fetches those of a million events over loopback, as they are
 * and compressed in each way that a browser takes.
 *
 *     node ops/bench/console-columns.ts [--events 1000000] [--rounds 5]
 *
 * The parts are those that the page asks for, four at a time. Times are medians; `server` and `client` are what compressing and
 * decompressing take of one processor. The last column is how slow a link has to be before compressing pays.
 */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import {
  brotliCompressSync,
  brotliDecompressSync,
  constants,
  gunzipSync,
  gzipSync,
  zstdCompressSync,
  zstdDecompressSync,
} from 'node:zlib';
import { encodeEvents, encodeWaits } from '../../src/console/columns-codec.ts';
import { ReplayLog } from '../../src/replay/replay-log.ts';
import { syntheticRecords } from '../../test/replay/synthetic-log.ts';
import { programOptions } from '../program-options.ts';
import { median, textTable } from './measure.ts';

const { values } = programOptions(import.meta.filename, {
  options: {
    events: { type: 'string', default: '1000000' },
    rounds: { type: 'string', default: '5' },
  },
});
/** Events of a part, and parts that are on their way at once: as src/console/web asks. */
const PART = 131_072;
const AT_ONCE = 4;

interface Way {
  name: string;
  encode: (bytes: Uint8Array) => Uint8Array<ArrayBuffer>;
  decode: (bytes: Uint8Array) => Uint8Array;
}

const own = (bytes: Uint8Array): Uint8Array<ArrayBuffer> => new Uint8Array(bytes);
const brotli = (level: number) => (bytes: Uint8Array) =>
  own(brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: level } }));
const zstd = (level: number) => (bytes: Uint8Array) =>
  own(zstdCompressSync(bytes, { params: { [constants.ZSTD_c_compressionLevel]: level } }));
const WAYS: readonly Way[] = [
  { name: 'identity', encode: own, decode: own },
  { name: 'gzip 1', encode: (bytes) => own(gzipSync(bytes, { level: 1 })), decode: gunzipSync },
  { name: 'zstd 1', encode: zstd(1), decode: zstdDecompressSync },
  { name: 'br 1', encode: brotli(1), decode: brotliDecompressSync },
  { name: 'br 4', encode: brotli(4), decode: brotliDecompressSync },
];

const log = new ReplayLog({ node: 'node-1' });
for (const record of syntheticRecords(Number(values.events), 7)) log.append(record);
const partsOf = function* (): IterableIterator<() => Uint8Array<ArrayBuffer>> {
  for (let from = 0; from < log.count; from += PART) yield () => encodeEvents(log, from, from + PART);
  for (let from = 0; from < log.traces.count; from += PART) yield () => encodeWaits(log, from, from + PART);
};
const parts = [...partsOf()];
const server = createServer((request, response) => {
  const [, way = '0', part = '0'] = (request.url ?? '').split('/');
  const { name, encode } = WAYS[Number(way)] as Way;
  const bytes = encode((parts[Number(part)] as () => Uint8Array<ArrayBuffer>)());
  response.setHeader('content-encoding', name.split(' ')[0] as string);
  response.end(bytes);
});
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
const { port } = server.address() as AddressInfo;

/** Seconds until all parts are here. */
async function fetched(way: number): Promise<number> {
  const began = performance.now();
  const left = parts.map((_, part) => part);
  const take = async () => {
    for (let part = left.shift(); part !== undefined; part = left.shift())
      await (await fetch(`http://127.0.0.1:${port}/${way}/${part}`)).arrayBuffer();
  };
  await Promise.all(Array.from({ length: AT_ONCE }, take));
  return performance.now() - began;
}

const timeOf = (work: () => void): number => {
  const began = performance.now();
  work();
  return performance.now() - began;
};

const whole = WAYS.map(() => ({
  bytes: 0,
  encodeMs: [] as number[],
  decodeMs: [] as number[],
  ms: [] as number[],
}));
for (let round = 0; round < Number(values.rounds); round++)
  for (const [place, { encode, decode }] of WAYS.entries()) {
    const one = whole[place] as (typeof whole)[number];
    const plain = parts.map((part) => part());
    let coded: Uint8Array[] = [];
    one.encodeMs.push(timeOf(() => (coded = plain.map(encode))));
    one.decodeMs.push(timeOf(() => coded.forEach(decode)));
    one.bytes = coded.reduce((sum, { length }) => sum + length, 0);
    one.ms.push(await fetched(place));
  }
server.close();
const raw = whole[0]?.bytes ?? 0;
console.log(
  textTable([
    [`${log.count} events`, 'MB', 'over loopback, ms', 'server, ms', 'client, ms', 'pays below, Mbit/s'],
    ...whole.map(({ bytes, encodeMs, decodeMs, ms }, place) => {
      const work = median(encodeMs) + median(decodeMs);
      const pays = place === 0 ? '' : (((raw - bytes) * 8) / work / 1000).toFixed(0);
      const times = [ms, encodeMs, decodeMs].map((list) => median(list).toFixed(0));
      return [(WAYS[place] as Way).name, (bytes / 1e6).toFixed(2), ...times, pays];
    }),
  ]),
);
