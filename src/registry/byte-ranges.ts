/**
 * The body of a 206 answer: one range, or several as `multipart/byteranges` (RFC 9110, 14.6 and 15.3.7), wherever its
 * bytes lie in the blob. Each part says by its `Content-Range` where it begins and how long it is, so the parser never
 * searches its bytes for the boundary.
 */
import { RequestFailure } from './failure.ts';
import { printable } from './printable.ts';

/** Bytes of the blob from `at` on. */
export interface PlacedBytes {
  at: number;
  bytes: Buffer;
}

/** `[first, end)` of a `Content-Range`, and the blob's size where the header tells it. */
export interface ContentRange {
  first: number;
  end: number;
  size: number | undefined;
}

/** Of a part: its delimiter and headers, bytes. Servers send some 150. */
const MAX_HEAD = 4_096;
const HEAD_END = Buffer.from('\r\n\r\n');

/** Undefined unless the text is `bytes FIRST-LAST/SIZE`, where SIZE may be `*` (RFC 9110, 14.4). */
export function parseContentRange(text: string): ContentRange | undefined {
  const match = /^bytes (\d{1,16})-(\d{1,16})\/(\d{1,16}|\*)$/i.exec(text.trim());
  if (match === null) return undefined;
  const [first, last] = [Number(match[1]), Number(match[2])];
  if (last < first) return undefined;
  return { first, end: last + 1, size: match[3] === '*' ? undefined : Number(match[3]) };
}

/** The boundary of a `multipart/byteranges`; undefined for any other type (RFC 2046, 5.1.1). */
export function boundaryOf(contentType: string): string | undefined {
  const match = /^multipart\/byteranges\s*;(?:.*;)?\s*boundary=(?:"([^"]{1,70})"|([^\s";]{1,70}))/i.exec(
    contentType.trim(),
  );
  return match?.[1] ?? match?.[2];
}

/**
 * The parts' bytes as they arrive, uncopied. `onPart` sees each part before its bytes, and may throw. Ends at the
 * body's last delimiter, without a look at what follows. A server may merge ranges but has no more parts than it was
 * asked for; these ascend, so that they hold no more than the blob does. Errors: RequestFailure (`integrity`, worth
 * another try) where the body is no such multipart; what `body` throws.
 */
export async function* partsOf(
  body: AsyncIterable<Buffer>,
  boundary: string,
  mostParts: number,
  onPart: (range: ContentRange) => void,
): AsyncGenerator<PlacedBytes, void, undefined> {
  let head: Buffer = Buffer.alloc(0);
  let at = 0;
  let left = 0;
  let parts = 0;
  for await (let chunk of body) {
    while (chunk.length > 0) {
      if (left > 0) {
        const bytes = chunk.subarray(0, left);
        chunk = chunk.subarray(bytes.length);
        yield { at, bytes };
        at += bytes.length;
        left -= bytes.length;
        continue;
      }
      head = head.length === 0 ? chunk : Buffer.concat([head, chunk]);
      const end = head.indexOf(HEAD_END);
      const text = head.toString('latin1', 0, end < 0 ? Math.min(head.length, MAX_HEAD) : end);
      if (end < 0) {
        if (text.trimStart().startsWith(`--${boundary}--`)) return;
        if (head.length > MAX_HEAD) throw muddled(text);
        break;
      }
      const part = text.trimStart().startsWith(`--${boundary}\r\n`) ? rangeIn(text) : undefined;
      if (part === undefined || part.first < at || parts === mostParts) throw muddled(text);
      onPart(part);
      parts += 1;
      at = part.first;
      left = part.end - part.first;
      chunk = head.subarray(end + HEAD_END.length);
      head = Buffer.alloc(0);
    }
  }
}

function rangeIn(head: string): ContentRange | undefined {
  const line = /^content-range:(.*)$/im.exec(head);
  return line === null ? undefined : parseContentRange(line[1] as string);
}

function muddled(text: string): RequestFailure {
  return new RequestFailure(
    'integrity',
    `an answer of several parts has "${printable(text.slice(0, 80))}" where a part should begin`,
    { retryable: true },
  );
}
