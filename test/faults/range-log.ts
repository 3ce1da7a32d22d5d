/** Which byte ranges of which blobs were asked for, taken from the requests that pass a relay. */
import type { SpanTable } from '../../src/image/span-table.ts';

export interface AskedRange {
  digest: string;
  /** Bytes [start, end) of the blob; end is Infinity for a request without a range. */
  start: number;
  end: number;
}

export class RangeLog {
  readonly #pending = new Map<number, string>();
  #ranges: AskedRange[] = [];

  /** For a relay's `onRequestBytes`. */
  readonly seen = (connection: number, bytes: Buffer): void => {
    let text = (this.#pending.get(connection) ?? '') + bytes.toString('latin1');
    for (let end = text.indexOf('\r\n\r\n'); end >= 0; end = text.indexOf('\r\n\r\n')) {
      this.#request(text.slice(0, end));
      text = text.slice(end + 4);
    }
    // Bodies of pushes pass by too; a head is never this long.
    this.#pending.set(connection, text.slice(-16_384));
  };

  all(): readonly AskedRange[] {
    return this.#ranges;
  }

  clear(): void {
    this.#ranges = [];
  }

  /** How often each span of a blob was asked for. */
  timesAsked(digest: string, table: SpanTable): number[] {
    const asked = this.#ranges.filter((range) => range.digest === digest);
    return Array.from({ length: table.spanCount }, (_, index) => {
      const { inStart, inEnd } = table.span(index);
      // Neighbours share the byte in which one ends and the other begins; the middle belongs to one alone.
      const middle = (inStart + inEnd) >> 1;
      return asked.filter(({ start, end }) => start <= middle && middle < end).length;
    });
  }

  #request(head: string): void {
    const digest = /^GET \S*\/blobs\/(sha256:[0-9a-f]{64}) HTTP/m.exec(head)?.[1];
    if (digest === undefined) return;
    const asked = /^range: *bytes=([\d,-]+)/im.exec(head)?.[1] ?? '0-';
    for (const range of asked.split(',')) {
      const [first, last] = range.split('-');
      const end = last === undefined || last === '' ? Number.POSITIVE_INFINITY : Number(last) + 1;
      this.#ranges.push({ digest, start: Number(first), end });
    }
  }
}
