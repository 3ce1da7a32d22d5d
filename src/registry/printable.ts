/** Longest piece of foreign text in a message, in characters. */
const MAX_LENGTH = 300;

/**
 * Makes foreign text safe to show: control characters, which could steer a terminal or forge a line of a log, become
 * spaces, and the text is cut to a length that fits a message.
 */
export function printable(text: string): string {
  const clean = text
    .slice(0, MAX_LENGTH * 4)
    .replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\s]+/gu, ' ')
    .trim();
  return clean.length > MAX_LENGTH ? `${clean.slice(0, MAX_LENGTH)}…` : clean;
}
