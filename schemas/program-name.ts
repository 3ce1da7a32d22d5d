/**
 * Names of programs, as the log has them. They come out of containers: a program may call itself as it likes, with newlines,
 * escapes of terminals, or as another one (prctl(2), PR_SET_NAME). So nothing relies on them. Without zod, which `cofa run` has
 * no time to load.
 */

/** UTF-16 units. The kernel keeps 15 bytes of a name. */
export const LONGEST_NAME = 64;
/** What a name in the log consists of. */
export const NAME = /^[^\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]*$/u;

/** Marks that could move a cursor, turn text around, or are no text. */
const MARKS = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** A name that may stand in the log: marks as escapes (`\n`, `\t`, `\u{1b}`), at most 64 units, and `?` for none. */
export function programName(text: string): string {
  const escaped = text.replace(MARKS, (mark) => {
    if (mark === '\n') return '\\n';
    if (mark === '\t') return '\\t';
    return `\\u{${(mark.codePointAt(0) ?? 0).toString(16)}}`;
  });
  if (escaped.length <= LONGEST_NAME) return escaped === '' ? '?' : escaped;
  let kept = '';
  for (const letter of escaped) {
    if (kept.length + letter.length >= LONGEST_NAME) break;
    kept += letter;
  }
  return `${kept}…`;
}

/** The name of a command by its first word: the last part of a path, and never an argument, which may hold a secret. */
export function commandName(word: string): string {
  const last = word.slice(word.lastIndexOf('/') + 1);
  return programName(last === '' ? word : last);
}
