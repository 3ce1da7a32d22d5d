/** Paths and names as raw bytes. */

/** A name as one line of ASCII: unprintable bytes become \xNN. */
export function printable(bytes: Buffer): string {
  let text = '';
  for (const byte of bytes)
    text +=
      byte > 0x20 && byte < 0x7f && byte !== 0x5c
        ? String.fromCharCode(byte)
        : `\\x${byte.toString(16).padStart(2, '0')}`;
  return text;
}

/** `base` + `/` + `path`; either may be empty. */
export function joinBytes(base: Buffer, path: Buffer): Buffer {
  if (path.length === 0) return base;
  if (base.length === 0) return path;
  return Buffer.concat([base, Buffer.from('/'), path]);
}
