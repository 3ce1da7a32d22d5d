import type { SpanTable } from './span-table.ts';

export function decodeSpans(
  _table: SpanTable,
  _first: number,
  _count: number,
  _body: AsyncIterable<Uint8Array>,
  _onBlock: (block: number, bytes: Buffer) => void | Promise<void>,
  _signal?: AbortSignal,
): Promise<void> {
  throw new Error('not written yet');
}
