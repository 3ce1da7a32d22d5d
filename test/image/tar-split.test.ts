/** What podman needs of a layer beside its files: with these a reader writes the very tar again. Needs no root. */
import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { Crc64, splitTar } from '../../src/image/tar-split.ts';
import { nastyLayers } from '../images/nasty.ts';

interface Entry {
  type: number;
  name?: string;
  name_raw?: string;
  size?: number;
  payload: string;
  position: number;
}

async function entriesOf(
  tar: Buffer,
  chunk = 10_007,
): Promise<{ digest: string | undefined; entries: Entry[] }> {
  const lines: string[] = [];
  // One buffer for all chunks, as the device's reader has it.
  const shared = Buffer.alloc(chunk);
  async function* read() {
    for (let at = 0; at < tar.length; at += chunk) {
      const size = tar.copy(shared, 0, at, at + chunk);
      yield shared.subarray(0, size);
    }
  }
  const digest = await splitTar(read, async (text) => void lines.push(text));
  return { digest, entries: lines.map((line) => JSON.parse(line) as Entry) };
}

/** As asm.WriteOutputTarStream of tar-split does: files come from their last data in the tar, by their names. */
function assemble(entries: readonly Entry[], files: ReadonlyMap<string, Buffer>): Buffer {
  const seen = new Set<string>();
  return Buffer.concat(
    entries.map(({ type, name, name_raw: raw, size, payload }) => {
      const bytes = Buffer.from(payload, 'base64');
      if (type === 2) return bytes;
      const key =
        raw === undefined
          ? Buffer.from(name as string).toString('latin1')
          : Buffer.from(raw, 'base64').toString('latin1');
      expect(seen.has(key), `${key} comes twice`).toBe(false);
      seen.add(key);
      const data = files.get(key);
      expect(data?.length, key).toBe(size);
      const crc = new Crc64();
      crc.update(data as Buffer);
      expect(crc.end().equals(bytes), `checksum of ${key}`).toBe(true);
      return data as Buffer;
    }),
  );
}

/** A member in ustar, as simple as can be. */
function member(name: Buffer | string, data: Buffer | string, typeflag = '0'): Buffer {
  const header = Buffer.alloc(512);
  Buffer.from(name).copy(header, 0);
  const body = Buffer.from(data);
  header.write('0000644\0', 100);
  header.write('0000000\0', 108);
  header.write('0000000\0', 116);
  header.write(`${body.length.toString(8).padStart(11, '0')}\0`, 124);
  header.write('00000000000\0', 136);
  header.fill(' ', 148, 156);
  header.write(typeflag, 156);
  header.write('ustar\x0000', 257);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return Buffer.concat([header, body, Buffer.alloc((512 - (body.length % 512)) % 512)]);
}

const END = Buffer.alloc(10_240);

test('the checksum is that of Go’s crc64.ISO', () => {
  const crc = new Crc64();
  crc.update(Buffer.from('1234'));
  crc.update(Buffer.from('56789'));
  expect(crc.end().toString('hex')).toBe('b90956c775a41001');
});

test('names that come twice, whiteouts with data and names that are no UTF-8: the tar comes out again', async () => {
  const raw = Buffer.from([0x64, 0xff, 0x2f, 0x66]);
  const tar = Buffer.concat([
    member('./a', 'first'),
    member('dir/b', 'b'.repeat(3_000)),
    member('a', 'second one'),
    member('dir/.wh.c', 'data of a whiteout'),
    member('later-a-folder', 'x'),
    member('later-a-folder/', '', '5'),
    member(raw, 'no text'),
    member('empty', ''),
    END,
  ]);
  const { digest, entries } = await entriesOf(tar, 700);
  expect(digest).toBe(`sha256:${createHash('sha256').update(tar).digest('hex')}`);
  const files = new Map([
    ['dir/b', Buffer.from('b'.repeat(3_000))],
    ['a', Buffer.from('second one')],
    [raw.toString('latin1'), Buffer.from('no text')],
  ]);
  expect(entries.filter(({ type }) => type === 1)).toHaveLength(files.size);
  expect(entries.map(({ position }) => position)).toEqual(entries.map((_, at) => at));
  expect(assemble(entries, files).equals(tar)).toBe(true);
});

test('a tar that is another one the second time has no digest', async () => {
  let reads = 0;
  async function* read() {
    yield member('a', reads++ === 0 ? 'data' : 'DATA');
    yield END;
  }
  expect(await splitTar(read, async () => {})).toBeUndefined();
});

test('layers with everything that a tar can hold are split, and all bytes but those of files are there', async () => {
  for (const tar of nastyLayers()) {
    const { digest, entries } = await entriesOf(tar, 65_536);
    expect(digest).toBe(`sha256:${createHash('sha256').update(tar).digest('hex')}`);
    const bytes = entries.reduce(
      (sum, { type, size = 0, payload }) => sum + (type === 1 ? size : Buffer.byteLength(payload, 'base64')),
      0,
    );
    expect(bytes).toBe(tar.length);
  }
});
