/** Frames of an exported log that count more than any has. Work for test/support/cost.ts. */
import { ByteWriter } from '../../src/image/bytes.ts';
import { decodeFrame } from '../../src/replay/frames.ts';

const MANY = 4 << 20;

function frameOf(...numbers: number[]): ByteWriter {
  const writer = new ByteWriter();
  for (const number of numbers) writer.number(number);
  return writer;
}

/** Four million records of no bytes: 12 MiB, less than one KB with zstd. */
export const records = () => {
  const writer = frameOf(MANY, 1, 0);
  writer.bytes(Buffer.alloc(3 * MANY));
  const frame = Buffer.from(writer.written());
  return () => decodeFrame(frame).length;
};

/** As many subjects of no letters. */
export const subjects = () => {
  const writer = frameOf(0, MANY);
  writer.bytes(Buffer.alloc(MANY));
  const frame = Buffer.from(writer.written());
  return () => decodeFrame(frame).length;
};
