/** msgpack of a byte for each value, of which each takes 40 bytes of memory. Work for test/support/cost.ts. */
import { zstdCompressSync } from 'node:zlib';
import { decodeIfSound } from '../../src/bus/connection.ts';
import { decodePack } from '../../src/pack/format.ts';
import { parseFiles, parseRecordings } from '../../src/pack/pack-store.ts';
import { whole } from '../support/attacker/layer.ts';

/** An array of empty arrays. */
function emptiness(bytes: number): Buffer {
  const made = Buffer.alloc(bytes, 0x90);
  made.writeUInt8(0xdd, 0);
  made.writeUInt32BE(bytes - 5, 1);
  return made;
}

/** As large as a message of NATS can be. */
export const message = () => {
  const bytes = emptiness(8 << 20);
  return () => (decodeIfSound(bytes) === undefined ? 'undefined' : 'made');
};

/** The header of a startup pack: some KB of zstd. */
export const header = () => {
  const fields = emptiness(16 << 20);
  const prefix = Buffer.alloc(16);
  prefix.write('COFAPACK');
  prefix.writeUInt32LE(1, 8);
  prefix.writeUInt32LE(fields.length, 12);
  const pack = zstdCompressSync(Buffer.concat([prefix, fields]));
  return () =>
    decodePack(
      whole(pack),
      () => {},
      () => {},
    );
};

export const recordings = () => {
  const bytes = emptiness(16 << 20);
  return () => parseRecordings(bytes).length;
};

export const files = () => {
  const bytes = zstdCompressSync(emptiness((16 << 20) - 5));
  return async () => (await parseFiles(bytes)).runs.length;
};
