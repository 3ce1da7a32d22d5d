/**
 * The imports that run when a Python file is imported: those outside of functions. Read line by line, without a parser:
 * for odd sources it guesses, and fetches too much or too little.
 */

export interface PythonImport {
  /** Dots in front: 0 for an absolute one. */
  level: number;
  /** May be empty with a level. */
  module: string;
  /** `from module import these`; undefined: `import module`. */
  names: string[] | undefined;
}

const MOST_IMPORTS = 2_000;
const MOST_NAMES = 500;
/** Blocks that do not run here: for type checkers, for other systems. */
const ELSEWHERE = /TYPE_CHECKING|win32|darwin|cygwin|\bnt\b|['"]java['"]|__main__/;
const PREFIX = /^(?:if|elif|else|try|except|finally|with|while|for)\b[^:]*:\s*/;

/** `inside`: imports in functions count too, and those of the main program. */
export function importsOf(source: string, inside = false): PythonImport[] {
  const found: PythonImport[] = [];
  /** Indentation of a block that is skipped. */
  let skipped: number | undefined;
  for (const { indent, text } of logicalLines(source)) {
    if (skipped !== undefined && indent > skipped) continue;
    skipped = undefined;
    if (!inside && /^(?:async\s+)?def\b/.test(text)) {
      skipped = indent;
      continue;
    }
    const condition = /^(?:if|elif)\b([^:]*):/.exec(text)?.[1];
    if (condition !== undefined && ELSEWHERE.test(condition) && !isNegated(condition)) {
      if (!inside || !condition.includes('__main__')) {
        skipped = indent;
        continue;
      }
    }
    for (const part of text.split(';')) {
      if (found.length >= MOST_IMPORTS) return found;
      const statement = part.trim().replace(PREFIX, '');
      if (statement.startsWith('import')) found.push(...plainImports(statement));
      else if (statement.startsWith('from')) found.push(...fromImport(statement));
    }
  }
  return found;
}

const isNegated = (condition: string): boolean => /!=|\bnot\b/.test(condition);

function plainImports(statement: string): PythonImport[] {
  const list = /^import\s+(.+)$/.exec(statement)?.[1] ?? '';
  return list.split(',', MOST_NAMES).flatMap((one) => {
    const module = /^\s*([\w.]+)/.exec(one)?.[1];
    return module === undefined ? [] : [{ level: 0, module, names: undefined }];
  });
}

function fromImport(statement: string): PythonImport[] {
  const match = /^from\s*(\.*)\s*([\w.]*)\s+import\b\s*\(?(.*)$/.exec(statement);
  if (match === null) return [];
  const [, dots = '', module = '', list = ''] = match;
  const names = list.split(',', MOST_NAMES).flatMap((one) => /^\s*(\w+)/.exec(one)?.[1] ?? []);
  return [{ level: dots.length, module, names }];
}

/** Lines as Python joins them, without comments and long strings. */
function* logicalLines(source: string): IterableIterator<{ indent: number; text: string }> {
  let at = 0;
  const { length } = source;
  while (at < length) {
    let indent = 0;
    for (; at < length && (source[at] === ' ' || source[at] === '\t'); at++) indent += 1;
    let text = '';
    let depth = 0;
    line: while (at < length) {
      const char = source[at] as string;
      switch (char) {
        case '\n':
          at += 1;
          if (depth === 0) break line;
          text += ' ';
          break;
        case '\\':
          at += source[at + 1] === '\r' ? 3 : 2;
          text += ' ';
          break;
        case '#': {
          const end = source.indexOf('\n', at);
          at = end < 0 ? length : end;
          break;
        }
        case '"':
        case "'": {
          const end = endOfString(source, at);
          if (end - at < 40) text += source.slice(at, end);
          at = end;
          break;
        }
        case '(':
        case '[':
        case '{':
          depth += 1;
          text += char;
          at += 1;
          break;
        case ')':
        case ']':
        case '}':
          depth = Math.max(0, depth - 1);
          text += char === ')' ? '' : char;
          at += 1;
          break;
        default: {
          // The common case in one step: a run of characters without a special meaning.
          let end = at + 1;
          while (end < length && !SPECIAL.has(source.charCodeAt(end))) end += 1;
          text += source.slice(at, end);
          at = end;
        }
      }
    }
    const trimmed = text.trim();
    if (trimmed !== '') yield { indent, text: trimmed };
  }
}

const SPECIAL = new Set([...'\n\\#"\'()[]{}'].map((char) => char.charCodeAt(0)));

function endOfString(source: string, start: number): number {
  const quote = source[start] as string;
  const isLong = source.startsWith(quote.repeat(3), start);
  const closing = isLong ? quote.repeat(3) : quote;
  for (let at = start + closing.length; at < source.length; at++) {
    if (source[at] === '\\') at += 1;
    else if (!isLong && source[at] === '\n') return at;
    else if (source[at] === quote && source.startsWith(closing, at)) return at + closing.length;
  }
  return source.length;
}
