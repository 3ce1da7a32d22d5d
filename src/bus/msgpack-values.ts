/**
 * How many values bytes of msgpack hold, without making any: a byte of an empty array becomes some 40 bytes of memory, and a
 * process that reads messages must not be what takes the memory.
 *
 * The format: https://github.com/msgpack/msgpack/blob/master/spec.md
 */

/** Whether there are no more than `most`. What is no msgpack, or ends early, is for its parser to refuse. */
export function holdsAtMost(bytes: Uint8Array, most: number): boolean {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  let values = 0;
  while (at < bytes.length) {
    values += 1;
    if (values > most) return false;
    at += sizeAt(view, at);
  }
  return true;
}

/** Bytes of the value that begins here; of an array or a map those of its head alone, since its parts are values, too. */
function sizeAt(view: DataView, at: number): number {
  const type = view.getUint8(at);
  if (type < 0xa0 || type >= 0xe0) return 1;
  if (type < 0xc0) return 1 + (type & 0x1f);
  const fixed = FIXED[type - 0xc0] ?? 0;
  const lengthBytes = LENGTHS[type - 0xc0] ?? 0;
  if (lengthBytes === 0 || at + lengthBytes >= view.byteLength) return fixed;
  const length =
    lengthBytes === 1
      ? view.getUint8(at + 1)
      : lengthBytes === 2
        ? view.getUint16(at + 1)
        : view.getUint32(at + 1);
  return fixed + length;
}

/** Bytes of the head of a value that begins with 0xc0 to 0xdf: type, length and what every value of the type has. */
const FIXED = [
  1, 1, 1, 1, 2, 3, 5, 3, 4, 6, 5, 9, 2, 3, 5, 9, 2, 3, 5, 9, 3, 4, 6, 10, 18, 2, 3, 5, 3, 5, 3, 5,
];
/** And bytes of the length of what follows: bin, ext and str. */
const LENGTHS: Readonly<Record<number, number>> = {
  4: 1,
  5: 2,
  6: 4,
  7: 1,
  8: 2,
  9: 4,
  25: 1,
  26: 2,
  27: 4,
};
