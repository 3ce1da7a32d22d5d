/** Byte strings of variable-length numbers (LEB128, unsigned, at most 2^53 - 1), written and read strictly. */

/** Grows as it is written. */
export class ByteWriter {
  #bytes = Buffer.allocUnsafe(1024);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** A safe integer ≥ 0. */
  number(value: number): void {
    this.#reserve(8);
    let rest = value;
    while (rest >= 0x80) {
      this.#bytes[this.#length++] = (rest % 0x80) | 0x80;
      rest = Math.floor(rest / 0x80);
    }
    this.#bytes[this.#length++] = rest;
  }

  /** An integer between -2^52 and 2^52: 0, -1, 1, -2, … as 0, 1, 2, 3, … */
  signed(value: number): void {
    this.number(value < 0 ? -2 * value - 1 : 2 * value);
  }

  bytes(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  /** A view of what was written. */
  written(): Buffer {
    return this.#bytes.subarray(0, this.#length);
  }

  #reserve(more: number): void {
    const needed = this.#length + more;
    if (needed <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafe(Math.max(needed, 2 * this.#bytes.length));
    this.#bytes.copy(larger, 0, 0, this.#length);
    this.#bytes = larger;
  }
}

/** Reads what ByteWriter wrote and nothing else: throws `fault(…)` at its end and on numbers written longer than need be. */
export class ByteReader {
  readonly #bytes: Buffer;
  readonly #fault: (reason: string) => Error;
  #at = 0;

  constructor(bytes: Buffer, fault: (reason: string) => Error) {
    this.#bytes = bytes;
    this.#fault = fault;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  byte(): number {
    const byte = this.#bytes[this.#at];
    if (byte === undefined) throw this.#fault('it ends early');
    this.#at++;
    return byte;
  }

  number(): number {
    let byte = this.byte();
    if (byte < 0x80) return byte;
    let value = byte & 0x7f;
    let scale = 0x80;
    do {
      byte = this.byte();
      value += (byte & 0x7f) * scale;
      scale *= 0x80;
      if (value > Number.MAX_SAFE_INTEGER || scale > 2 ** 56) throw this.#fault('a number is too large');
    } while (byte >= 0x80);
    if (byte === 0) throw this.#fault('a number is longer than need be');
    return value;
  }

  signed(): number {
    const value = this.number();
    return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
  }

  /** A view. */
  bytes(length: number): Buffer {
    if (length > this.left) throw this.#fault('it ends early');
    const bytes = this.#bytes.subarray(this.#at, this.#at + length);
    this.#at += length;
    return bytes;
  }

  end(): void {
    if (this.left > 0) throw this.#fault('something follows its end');
  }
}
