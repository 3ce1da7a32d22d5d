/** Link headers (RFC 8288, 3), as far as registries use them: the next page of a list. */

/** Characters of a header that is read; a longer one is none that a registry sends. */
const MAX_HEADER = 8_192;
const MAX_TARGET = 4_096;

/**
 * The target of the first link with the relation `next`; undefined where there is none. It reads each character once: a
 * pattern that looks for the relation behind each `<` would take the square of that.
 */
export function nextLink(header: string | undefined): string | undefined {
  if (header === undefined || header.length > MAX_HEADER) return undefined;
  for (let at = 0; ; ) {
    const begin = header.indexOf('<', at);
    const end = begin < 0 ? -1 : header.indexOf('>', begin);
    if (end < 0) return undefined;
    const { isNext, behind } = parametersFrom(header, end + 1);
    const target = header.slice(begin + 1, end);
    if (isNext && target !== '' && target.length <= MAX_TARGET && !target.includes('<')) return target;
    at = behind;
  }
}

/** The parameters of one link, up to the comma behind it; those in quotes may hold commas. */
function parametersFrom(header: string, start: number): { isNext: boolean; behind: number } {
  let isNext = false;
  let from = start;
  let isQuoted = false;
  for (let at = start; at <= header.length; at++) {
    const char = header.charAt(at);
    if (char === '\\' && isQuoted) at++;
    else if (char === '"') isQuoted = !isQuoted;
    const isEnd = at === header.length || (!isQuoted && (char === ';' || char === ','));
    if (!isEnd) continue;
    isNext ||= isRelationNext(header.slice(from, at));
    from = at + 1;
    if (char === ',') return { isNext, behind: at };
  }
  return { isNext, behind: header.length };
}

/** `rel="prev next"`: the value has several relations, with blanks between them, in any case. */
function isRelationNext(parameter: string): boolean {
  const equals = parameter.indexOf('=');
  if (equals < 0 || parameter.slice(0, equals).trim().toLowerCase() !== 'rel') return false;
  const value = parameter
    .slice(equals + 1)
    .trim()
    .replaceAll('"', '');
  return value.toLowerCase().split(/[ \t]/).includes('next');
}
