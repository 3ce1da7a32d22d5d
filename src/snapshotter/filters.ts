/**
 * The filters of containerd's List calls (package filters there), as they must be understood to the letter: containerd
 * itself finds a snapshot by one.
 *
 *     filter    := selector ("," selector)*          all must match
 *     selector  := field ("." field)* [operator value]
 *     field     := quoted | [A-Za-z0-9_]+
 *     operator  := "==" | "!=" | "~="                without one: the field is there
 *     value     := quoted | what comes before "," or a blank
 *     quoted    := "…" with Go's escapes; after "~=" also /…/ and |…|
 *
 * Regular expressions are Go's, which is RE2: re2js takes time that is linear in the text. Filters, and the programs that
 * their expressions compile to, are bounded.
 */
import { createRequire } from 'node:module';
import type { RE2JS } from 're2js';

/** The value of a field, or undefined where the thing has no such field. */
export type Fields = (path: readonly string[]) => string | undefined;
export type Filter = (fields: Fields) => boolean;

/** What is wrong with a filter, for its author. */
export class FilterError extends Error {
  constructor(filter: string, at: number, what: string) {
    super(`filter ${JSON.stringify(filter.slice(0, 200))}, character ${at + 1}: ${what}`);
    this.name = 'FilterError';
  }
}

/** Filters of one call, and characters of one. A label with its name has 4,096 bytes in containerd at most. */
const MOST_FILTERS = 256;
const LONGEST_FILTER = 16_384;
/** Characters of one regular expression. Compiling is linear in them, but each `{1000}` counts a thousandfold. */
const LONGEST_PATTERN = 1_024;
/** RE2 instructions of all expressions of one call: a match takes at most as many steps for each character. */
const MOST_INSTRUCTIONS = 4_000;

/** A filter that matches what any of them matches; none match everything. Throws FilterError. */
export function parseFilters(filters: readonly string[]): Filter {
  if (filters.length === 0) return () => true;
  if (filters.length > MOST_FILTERS)
    throw new FilterError(filters[MOST_FILTERS] ?? '', 0, `one call takes ${MOST_FILTERS} filters`);
  const patterns = new Patterns();
  const parsed = filters.map((text) => parseFilter(text, patterns));
  return (fields) => parsed.some((filter) => filter(fields));
}

function parseFilter(text: string, patterns: Patterns): Filter {
  if (text === '') return () => true;
  if (text.length > LONGEST_FILTER)
    throw new FilterError(text, LONGEST_FILTER, `a filter has ${LONGEST_FILTER} characters at most`);
  const parser = new Parser(text, patterns);
  const selectors = [parser.selector()];
  while (!parser.atEnd()) {
    parser.comma();
    selectors.push(parser.selector());
  }
  return (fields) => selectors.every((selector) => selector(fields));
}

const FIELD = /^[A-Za-z0-9_]+/;
const OPERATOR = /^[=!~]+/;
const BLANK = /^\s+/;
/** Up to a comma or a blank; control characters are none of its characters. */
// eslint-disable-next-line no-control-regex
const VALUE = /^[^,\s\u0000-\u001f\u007f-\u009f]+/;

class Parser {
  readonly #text: string;
  readonly #patterns: Patterns;
  #at = 0;

  constructor(text: string, patterns: Patterns) {
    this.#text = text;
    this.#patterns = patterns;
    const nul = text.indexOf('\0');
    if (nul >= 0) throw new FilterError(text, nul, 'unexpected NUL');
  }

  atEnd(): boolean {
    return this.#at >= this.#text.length;
  }

  comma(): void {
    if (this.#text[this.#at] !== ',') this.#fail('a comma was expected');
    this.#at += 1;
  }

  selector(): Filter {
    const path = [this.#field()];
    while (this.#text[this.#at] === '.') {
      this.#at += 1;
      path.push(this.#field());
    }
    if (this.atEnd() || this.#text[this.#at] === ',') return (fields) => fields(path) !== undefined;
    const operator = this.#take(OPERATOR);
    switch (operator) {
      case '==': {
        const value = this.#value(false);
        return (fields) => fields(path) === value;
      }
      case '!=': {
        const value = this.#value(false);
        return (fields) => (fields(path) ?? '') !== value;
      }
      case '~=': {
        const start = this.#at;
        const pattern = this.#patterns.compile(this.#value(true));
        if (pattern === 'too large') {
          this.#at = start;
          this.#fail('the regular expressions are too large');
        }
        return (fields) => pattern?.test(fields(path) ?? '') ?? false;
      }
      default:
        return this.#fail('one of == != ~= was expected');
    }
  }

  #field(): string {
    this.#take(BLANK);
    if (isQuote(this.#text[this.#at])) return this.#quoted(false);
    return this.#take(FIELD) ?? this.#fail('a field was expected');
  }

  #value(anyQuotes: boolean): string {
    this.#take(BLANK);
    const first = this.#text[this.#at];
    if (isQuote(first)) return this.#quoted(anyQuotes);
    if (first === '.' || (first !== undefined && OPERATOR.test(first))) this.#fail('a value was expected');
    return this.#take(VALUE) ?? this.#fail('a value was expected');
  }

  #take(pattern: RegExp): string | undefined {
    const found = pattern.exec(this.#text.slice(this.#at))?.[0];
    this.#at += found?.length ?? 0;
    return found;
  }

  #quoted(anyQuotes: boolean): string {
    const quote = this.#text[this.#at] as string;
    if (!anyQuotes && quote !== '"') this.#fail('this quote is for regular expressions');
    this.#at += 1;
    // Escapes of bytes may make up a character together, so bytes are gathered.
    const parts: Buffer[] = [];
    for (;;) {
      const character = this.#text[this.#at];
      if (character === undefined || character === '\n') this.#fail('the quoted text does not end');
      if (character === quote) break;
      if (character === '\\') {
        parts.push(this.#escape(quote));
        continue;
      }
      const point = String.fromCodePoint(this.#text.codePointAt(this.#at) as number);
      parts.push(Buffer.from(point));
      this.#at += point.length;
    }
    this.#at += 1;
    return Buffer.concat(parts).toString('utf8');
  }

  #escape(quote: string): Buffer {
    const rest = this.#text.slice(this.#at);
    const simple = SIMPLE[rest[1] ?? ''] ?? (rest[1] === quote ? quote : undefined);
    if (simple !== undefined) {
      this.#at += 2;
      return Buffer.from(simple);
    }
    const coded = /^\\(?:x([0-9a-fA-F]{2})|([0-7]{3})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))/.exec(rest);
    if (coded === null) return this.#fail('unknown escape');
    const [whole, hex, octal, short, long] = coded;
    const byte = hex !== undefined ? Number.parseInt(hex, 16) : Number.parseInt(octal ?? '', 8);
    const point = Number.parseInt(short ?? long ?? '', 16);
    if (byte > 255 || point > 0x10ffff || (point >= 0xd800 && point < 0xe000))
      this.#fail('no such character');
    this.#at += whole.length;
    return Number.isNaN(byte) ? Buffer.from(String.fromCodePoint(point)) : Buffer.from([byte]);
  }

  #fail(what: string): never {
    throw new FilterError(this.#text, this.#at, what);
  }
}

const SIMPLE: Record<string, string> = {
  a: '\x07',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
  '\\': '\\',
};

const isQuote = (character: string | undefined): boolean =>
  character === '"' || character === '/' || character === '|';

/** Loaded with the first expression: hardly a client sends one, and the tables of Unicode take time at a start. */
let re2: typeof RE2JS | undefined;

/** The regular expressions of one call. */
class Patterns {
  #left = MOST_INSTRUCTIONS;

  /** One that RE2 does not know matches nothing, as in containerd: then it is undefined. */
  compile(pattern: string): RE2JS | undefined | 'too large' {
    if (pattern.length > LONGEST_PATTERN) return 'too large';
    re2 ??= (createRequire(import.meta.url)('re2js') as { RE2JS: typeof RE2JS }).RE2JS;
    let compiled: RE2JS;
    try {
      compiled = re2.compile(pattern);
    } catch {
      return undefined;
    }
    this.#left -= compiled.programSize();
    return this.#left < 0 ? 'too large' : compiled;
  }
}
