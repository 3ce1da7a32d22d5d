/** How deep and how large a JSON document is, seen before it is parsed: four MB of brackets become 200 MB of arrays. */

/** Nested objects and lists; manifests and configurations have some six. */
const MAX_DEPTH = 64;
/** Values: an index of 10,000 entries has some 150,000. */
const MAX_VALUES = 400_000;

/**
 * Why a document is not parsed; undefined where it may be. Counts brackets and commas outside of strings, and does not
 * care whether it is JSON.
 */
export function shapeProblem(bytes: Uint8Array): string | undefined {
  let depth = 0;
  let values = 0;
  let isText = false;
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at];
    if (byte === QUOTE) isText = !isText;
    else if (isText) at += byte === BACKSLASH ? 1 : 0;
    else if (byte === COMMA) values += 1;
    else if (byte === OPEN_LIST || byte === OPEN_OBJECT) {
      depth += 1;
      values += 1;
      if (depth > MAX_DEPTH) return `it nests deeper than ${MAX_DEPTH} levels`;
    } else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) depth -= 1;
  }
  return values > MAX_VALUES ? `it has more than ${MAX_VALUES} values` : undefined;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const OPEN_LIST = 0x5b;
const CLOSE_LIST = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;
