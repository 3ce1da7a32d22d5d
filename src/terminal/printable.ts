/**
 * Text from outside (image names, messages of registries, paths) as it may go to a terminal: control characters, which
 * could move the cursor or worse, are shown as escapes. Newlines too: one message is one line.
 */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (mark) => {
    if (mark === '\n') return '\\n';
    if (mark === '\t') return '\\t';
    return `\\u{${(mark.codePointAt(0) ?? 0).toString(16)}}`;
  });
}
