/** Tables of contents of a few hundred compressed bytes that promise millions of things. Work for test/support/cost.ts. */
import { ByteWriter } from '../../src/image/bytes.ts';
import { decodeToc } from '../../src/image/toc-codec.ts';

const SECTIONS = [
  'kinds',
  'prefix',
  'suffix',
  'names',
  'owner',
  'owners',
  'time',
  'times',
  'size',
  'gap',
  'target',
  'targets',
  'device',
  'xattr',
  'xattrs',
  'sparse',
] as const;

const MANY = 1 << 20;
const MIB = 1 << 20;

function tableOf(count: number, sections: Partial<Record<(typeof SECTIONS)[number], Buffer>>): Buffer {
  const writer = new ByteWriter();
  writer.bytes(Buffer.from('cofa-toc'));
  for (const number of [1, count]) writer.number(number);
  for (const section of SECTIONS) {
    const bytes = sections[section] ?? Buffer.alloc(0);
    writer.number(bytes.length);
    writer.bytes(bytes);
  }
  return Buffer.from(writer.written());
}

function numbers(...values: number[]): Buffer {
  const writer = new ByteWriter();
  for (const value of values) writer.number(value);
  return Buffer.from(writer.written());
}

/** Of one file named `a` of a gigabyte, with these columns. */
const oneFile = (sections: Parameters<typeof tableOf>[1]): Buffer =>
  tableOf(1, {
    kinds: numbers(9),
    prefix: numbers(0),
    suffix: numbers(1),
    names: Buffer.from('a'),
    owner: numbers(0),
    owners: numbers(0o644, 0, 0),
    time: numbers(0),
    times: numbers(0, 0),
    size: numbers(2 ** 30),
    xattr: numbers(0),
    xattrs: numbers(0),
    ...sections,
  });

/** A million times the same whiteout: 174 bytes with zstd. The layer has 10 MiB. */
export const entries = () => {
  const table = tableOf(MANY, {
    kinds: Buffer.alloc(MANY, 7),
    prefix: Buffer.concat([numbers(0), Buffer.alloc(MANY - 1, 1)]),
    suffix: Buffer.concat([numbers(1), Buffer.alloc(MANY - 1)]),
    names: Buffer.from('a'),
  });
  return () => decodeToc(table, 10 * MIB).entries.length;
};

/** Extents of no bytes: 585 bytes with zstd. */
export const extents = () => {
  const table = oneFile({
    sparse: Buffer.concat([numbers(8 * MANY), Buffer.alloc(16 * MANY), numbers(0)]),
  });
  return () => decodeToc(table).entries.length;
};

/** Patches of no bytes. */
export const patches = () => {
  const table = oneFile({ sparse: Buffer.concat([numbers(0, 8 * MANY), Buffer.alloc(16 * MANY)]) });
  return () => decodeToc(table).entries.length;
};

/** Extended attributes without names: 323 bytes with zstd. */
export const xattrs = () => {
  const table = oneFile({ xattrs: Buffer.concat([numbers(4 * MANY), Buffer.alloc(8 * MANY)]) });
  return () => decodeToc(table).entries.length;
};
