/**
 * An image's metadata read by 32-bit words. A check reads each field of each inode once, mostly before V8 has compiled
 * any code: an element of a typed array is then several times cheaper than Buffer's readUInt32LE.
 */
import { HOST_LITTLE } from './native.ts';

export class Words {
  readonly image: Buffer;
  readonly #words: Uint32Array;

  /** The image must not change meanwhile. Bytes behind its last whole word are not read. */
  constructor(image: Buffer) {
    this.image = image;
    const isReady = HOST_LITTLE && image.byteOffset % 4 === 0;
    const { buffer, byteOffset } = isReady ? image : inHostOrder(image);
    this.#words = new Uint32Array(buffer, byteOffset, image.length >> 2);
  }

  /** `at`: a multiple of 4, within the image. */
  u32(at: number): number {
    return this.#words[at >> 2] as number;
  }

  /** `at`: even, within the image. */
  u16(at: number): number {
    const word = this.#words[at >> 2] as number;
    return (at & 2) === 0 ? word & 0xffff : word >>> 16;
  }

  /** Whether the bytes [from, to) are zero. */
  isZero(from: number, to: number): boolean {
    const { image } = this;
    const words = this.#words;
    let at = from;
    for (; at < to && at % 4 !== 0; at++) if (image[at] !== 0) return false;
    for (; at + 4 <= to; at += 4) if (words[at >> 2] !== 0) return false;
    for (; at < to; at++) if (image[at] !== 0) return false;
    return true;
  }
}

function inHostOrder(image: Buffer): Buffer {
  const copy = Buffer.from(new Uint8Array(image).buffer);
  return HOST_LITTLE ? copy : copy.subarray(0, copy.length & ~3).swap32();
}
