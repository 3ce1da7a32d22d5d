/**
 * What a registry answers to a request for parts of a blob: whether these are the parts that were asked for, where their
 * bytes lie, and what becomes of what follows them.
 */
import type { Readable } from 'node:stream';
import { CofaError } from '../../schemas/errors.ts';
import type { BlobName } from './blob-reader.ts';
import {
  boundaryOf,
  type ContentRange,
  parseContentRange,
  partsOf,
  type PlacedBytes,
} from './byte-ranges.ts';
import { RequestFailure } from './failure.ts';
import { printable } from './printable.ts';
import { header, type Reply } from './transport.ts';

/** A rest of a body that is shorter than this, and has come after so long (ms), keeps the connection; others are aborted. */
export const DRAIN_BYTES = 64 * 1024;
const DRAIN_MS = 1_000;

export const WRONG_BLOB = 'the registry does not hold what was pushed: push the image again';

/** A body's bytes; who stops reading says what becomes of the rest. */
export const bytesOf = ({ body }: Reply): AsyncIterable<Buffer> =>
  body.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>;

/** The end of this body is near, or it is aborted: reading to the end keeps the connection. No reader waits for that. */
export function letEnd(body: Readable): void {
  if (body.readableEnded || body.destroyed) return;
  let left = DRAIN_BYTES;
  const timer = setTimeout(() => body.destroy(), DRAIN_MS);
  timer.unref();
  body.on('error', () => {});
  body.once('close', () => clearTimeout(timer));
  body.on('data', ({ length }: Buffer) => {
    left -= length;
    if (left < 0) body.destroy();
  });
  body.resume();
}

/** The bytes of a 206 to a request for `asked` ranges, with their places. */
export async function* placed(
  reply: Reply,
  blob: BlobName,
  asked: number,
): AsyncGenerator<PlacedBytes, void, undefined> {
  const body = bytesOf(reply);
  const boundary = boundaryOf(header(reply, 'content-type') ?? '');
  if (boundary !== undefined) {
    yield* partsOf(body, boundary, asked, (range) => checkSize(range, reply, blob));
    return;
  }
  const text = header(reply, 'content-range') ?? '';
  const range = parseContentRange(text);
  if (range === undefined) throw muddled(reply, text, `several ranges of blob ${blob.digest}`);
  checkSize(range, reply, blob);
  let at = range.first;
  for await (const bytes of body) {
    yield { at, bytes };
    at += bytes.length;
  }
}

/** The wanted parts of these bytes, in order; `left` keeps what is still wanted. */
export function* takeFrom(left: Array<[number, number]>, at: number, bytes: Buffer): Generator<Buffer, void> {
  for (let [next] = left; next !== undefined; [next] = left) {
    const [start, end] = next;
    // The part may still come later in the answer, but no one can say how long to wait for it.
    if (at > start)
      throw new RequestFailure(
        'integrity',
        `bytes from ${start} on are missing in an answer of several parts`,
        {
          retryable: true,
        },
      );
    const part = bytes.subarray(start - at, end - at);
    if (part.length === 0) return;
    next[0] += part.length;
    if (next[0] === end) left.shift();
    yield part;
  }
}

/**
 * Checks that a 206 brings the requested range: it begins at `position`, ends within the request and agrees on the
 * blob's size. Returns the end of what it brings, exclusive.
 */
export function checkContentRange(reply: Reply, blob: BlobName, position: number, end: number): number {
  const text = header(reply, 'content-range') ?? '';
  const range = parseContentRange(text);
  if (range !== undefined) checkSize(range, reply, blob);
  if (range !== undefined && range.first === position && range.end <= end) return range.end;
  throw muddled(reply, text, `bytes ${position}-${end - 1} of blob ${blob.digest}`);
}

function checkSize({ size, end }: ContentRange, reply: Reply, blob: BlobName): void {
  if (end <= blob.size && (size === undefined || size === blob.size)) return;
  throw new CofaError(
    'integrity',
    `${reply.url.host} has ${size ?? end} bytes of blob ${blob.digest}, its manifest says ${blob.size}`,
    { hint: WRONG_BLOB },
  );
}

/** A proxy that mixes up answers may do better the next time; the bytes must not be used either way. */
function muddled(reply: Reply, text: string, asked: string): RequestFailure {
  return new RequestFailure(
    'integrity',
    `${reply.url.host} answers with the range "${printable(text)}" to ${asked}`,
    { retryable: true },
  );
}
