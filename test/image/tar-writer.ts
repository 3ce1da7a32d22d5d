/**
 * A small tar writer for tests: writes what it is told, also what no sane writer would. Knows ustar, pax, GNU
 * and v7 headers and all four ways to store a sparse file.
 */
import type { Fragment } from '../../src/image/sparse.ts';

export interface HeaderFields {
  name: string | Buffer;
  type?: string;
  dialect?: 'v7' | 'ustar' | 'gnu';
  mode?: number;
  uid?: number;
  gid?: number;
  size?: number;
  mtime?: number;
  link?: string | Buffer;
  major?: number;
  minor?: number;
  prefix?: string;
  /** Sum up the bytes as signed numbers, as Sun's tar did. */
  signedSum?: boolean;
}

export const SECTOR = 512;
/** Two blocks of zeros. */
export const END = Buffer.alloc(1024);

/** A header block. */
export function header(fields: HeaderFields, patch?: (block: Buffer) => void): Buffer {
  const block = Buffer.alloc(SECTOR);
  const dialect = fields.dialect ?? 'ustar';
  Buffer.from(fields.name).copy(block, 0, 0, 100);
  number(block, 100, 8, fields.mode ?? 0o644);
  number(block, 108, 8, fields.uid ?? 0);
  number(block, 116, 8, fields.gid ?? 0);
  number(block, 124, 12, fields.size ?? 0);
  number(block, 136, 12, fields.mtime ?? 0);
  block.write(fields.type ?? '0', 156, 'latin1');
  Buffer.from(fields.link ?? '').copy(block, 157, 0, 100);
  if (dialect !== 'v7') {
    block.write(dialect === 'gnu' ? 'ustar  \0' : 'ustar\x0000', 257, 'latin1');
    number(block, 329, 8, fields.major ?? 0);
    number(block, 337, 8, fields.minor ?? 0);
    block.write(fields.prefix ?? '', 345, 'latin1');
  }
  patch?.(block);
  return sealed(block, fields.signedSum);
}

/** The block with its checksum written. */
export function sealed(block: Buffer, signed = false): Buffer {
  block.fill(0x20, 148, 156);
  let sum = 0;
  for (let i = 0; i < SECTOR; i++) sum += signed ? block.readInt8(i) : block.readUInt8(i);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}

/** A header field: octal where it fits, else base-256. */
export function number(block: Buffer, at: number, length: number, value: number): void {
  if (value >= 0 && value < 8 ** (length - 1)) {
    block.write(`${value.toString(8).padStart(length - 1, '0')}\0`, at, 'latin1');
    return;
  }
  let rest = BigInt(value);
  for (let i = length - 1; i >= 0; i--) {
    block[at + i] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  block[at] = (block[at] ?? 0) | 0x80;
}

/** Bytes padded to whole blocks. */
export function padded(data: string | Buffer): Buffer {
  const bytes = Buffer.from(data);
  return Buffer.concat([bytes, Buffer.alloc((SECTOR - (bytes.length % SECTOR)) % SECTOR)]);
}

/** A header and its data. */
export function member(fields: HeaderFields, data: string | Buffer = ''): Buffer {
  return Buffer.concat([header({ size: Buffer.from(data).length, ...fields }), padded(data)]);
}

export type PaxFields = ReadonlyArray<readonly [key: string, value: string | Buffer]>;

/** Pax records, lengths and all. */
export function paxRecords(fields: PaxFields): Buffer {
  return Buffer.concat(
    fields.map(([key, value]) => {
      const rest = Buffer.concat([Buffer.from(` ${key}=`, 'latin1'), Buffer.from(value), Buffer.from('\n')]);
      let length = rest.length + 1;
      while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
      return Buffer.concat([Buffer.from(String(length)), rest]);
    }),
  );
}

export function pax(fields: PaxFields, type: 'x' | 'g' = 'x'): Buffer {
  return member({ name: 'PaxHeaders/0', type }, paxRecords(fields));
}

/** GNU's long name ('L') or long link ('K'). */
export function gnuLong(type: 'L' | 'K', name: string | Buffer): Buffer {
  return member(
    { name: '././@LongLink', type, dialect: 'gnu' },
    Buffer.concat([Buffer.from(name), Buffer.of(0)]),
  );
}

export type SparseKind = 'old' | '0.0' | '0.1' | '1.0';

/** A sparse file: `content` is all of it, only the fragments are stored. */
export function sparse(
  kind: SparseKind,
  name: string,
  content: Buffer,
  fragments: readonly Fragment[],
): Buffer {
  const data = Buffer.concat(
    fragments.map(({ offset, length }) => content.subarray(offset, offset + length)),
  );
  const size = String(content.length);
  const map = fragments.flatMap(({ offset, length }) => [String(offset), String(length)]);
  switch (kind) {
    case 'old':
      return oldSparse(name, content.length, data, fragments);
    case '0.0':
      return Buffer.concat([
        pax([
          ['GNU.sparse.size', size],
          ['GNU.sparse.numblocks', String(fragments.length)],
          ...map.map((text, i) => [i % 2 === 0 ? 'GNU.sparse.offset' : 'GNU.sparse.numbytes', text] as const),
        ]),
        member({ name }, data),
      ]);
    case '0.1':
      return Buffer.concat([
        pax([
          ['GNU.sparse.size', size],
          ['GNU.sparse.numblocks', String(fragments.length)],
          ['GNU.sparse.name', name],
          ['GNU.sparse.map', map.join(',')],
        ]),
        member({ name: 'GNUSparseFile.0/x' }, data),
      ]);
    case '1.0':
      return Buffer.concat([
        pax([
          ['GNU.sparse.major', '1'],
          ['GNU.sparse.minor', '0'],
          ['GNU.sparse.name', name],
          ['GNU.sparse.realsize', size],
        ]),
        member(
          { name: 'GNUSparseFile.0/x' },
          Buffer.concat([padded([String(fragments.length), ...map, ''].join('\n')), data]),
        ),
      ]);
  }
}

function oldSparse(name: string, size: number, data: Buffer, fragments: readonly Fragment[]): Buffer {
  const blocks: Buffer[] = [];
  const first = header({ name, type: 'S', dialect: 'gnu', size: data.length }, (block) => {
    put(block, 386, fragments.slice(0, 4));
    block[482] = fragments.length > 4 ? 1 : 0;
    number(block, 483, 12, size);
  });
  for (let done = 4; done < fragments.length; done += 21) {
    const block = Buffer.alloc(SECTOR);
    put(block, 0, fragments.slice(done, done + 21));
    block[504] = fragments.length > done + 21 ? 1 : 0;
    blocks.push(block);
  }
  return Buffer.concat([first, ...blocks, padded(data)]);
}

function put(block: Buffer, at: number, list: readonly Fragment[]): void {
  for (const [i, { offset, length }] of list.entries()) {
    number(block, at + 24 * i, 12, offset);
    number(block, at + 24 * i + 12, 12, length);
  }
}
