/**
 * SHA-256 by node:crypto. Two places compute it themselves: src/image/sha256.ts keeps the state of a hash in the middle of a
 * layer, and src/container/digest.ts spares `cofa run` the 5 ms that node:crypto takes to load.
 */
import { createHash } from 'node:crypto';

/** A digest of bytes that come in pieces. */
export class Digest {
  readonly #hash = createHash('sha256');

  update(bytes: Uint8Array): void {
    this.#hash.update(bytes);
  }

  /** `sha256:<hex>`. Called once, at the end. */
  end(): string {
    return `sha256:${this.#hash.digest('hex')}`;
  }
}

/** `sha256:<hex>` of bytes, or of a text in UTF-8. */
export function digestOf(bytes: Uint8Array | string): string {
  return `sha256:${sha256Hex(bytes)}`;
}

/** The 64 hex digits alone: for names. */
export function sha256Hex(bytes: Uint8Array | string): string {
  return createHash('sha256').update(bytes).digest('hex');
}
