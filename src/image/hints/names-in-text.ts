/**
 * Names of other files in the text of a program: what stands behind the words with which languages import, include or load.
 * Read line by line, without a grammar of any language: a name that is no file of the image leads nowhere (named.ts).
 */

/** A name as it stands in the text, but with `/` between its parts. */
export interface TextName {
  name: string;
  /** In quotes or angle brackets, or of a form that words of prose do not have. */
  isSure: boolean;
}

const MOST_NAMES = 1_000;
const MOST_LINE = 400;
/** Columns that a line may be indented: what stands deeper is most often part of a function, and may never run. */
const DEEPEST = 2;
/** First in a line; `@use` of style sheets, `-include` of Make and `x = require` among them. */
const BEFORE = String.raw`(?:[#@({\\-]\s*|export\s+|pub\s+|static\s+|eval\s*\{\s*|[\w$]{1,40}\s*=\s*)?`;
const WORDS =
  'require_relative|require_once|include_once|requireNamespace|loadNamespace|requires?|includes?|imports?|use|using|load|autoload|eager_autoload|source|from|library|extends|with|behaviou?r|mod';
const LINE = new RegExp(String.raw`^([ \t]*)${BEFORE}(?:${WORDS})\b(.*)`);
const TOKENS = /"([^"\n]{1,200})"|'([^'\n]{1,200})'|<([^>\n]{1,200})>|(:{0,2}[A-Za-z_][\w./\\:-]{0,200})/g;
/** Lists of words: `use parent qw(A B)`, `%w[a b]`. */
const LIST = /^[\w./\\:-]+(?:\s+[\w./\\:-]+)+$/;
/** What follows is no program. */
const END = /^(?:__END__|__DATA__)\s*$/;
/** Documentation in the text of a program, as Perl and Ruby have it: from the first to the second. */
const DOCUMENTATION = [/^=[a-z]/, /^=(?:cut|end)\b/] as const;

/** In their order, each once. */
export function namesIn(text: string): TextName[] {
  const found = new Map<string, boolean>();
  let isProgram = true;
  for (const line of text.split('\n')) {
    if (found.size >= MOST_NAMES || END.test(line)) break;
    if (DOCUMENTATION[0].test(line)) isProgram = DOCUMENTATION[1].test(line);
    const [, indent = '', rest] = isProgram ? (LINE.exec(line.slice(0, MOST_LINE)) ?? []) : [];
    if (rest === undefined || indent.length > DEEPEST) continue;
    for (const { name, isSure } of namesOf(rest)) found.set(name, isSure || found.get(name) === true);
  }
  return [...found].map(([name, isSure]) => ({ name, isSure }));
}

function* namesOf(rest: string): IterableIterator<TextName> {
  for (const [, double, single, angle, bare = ''] of rest.matchAll(TOKENS)) {
    const quoted = double ?? single ?? angle;
    for (const one of quoted !== undefined && LIST.test(quoted) ? quoted.split(/\s+/) : [quoted ?? bare]) {
      const name = one.replace(/^(?:[:\\]+)/, '').replaceAll(/::|\\+/g, '/');
      if (/\w/.test(name)) yield { name, isSure: quoted !== undefined || /[/.]|^[A-Z]/.test(name) };
    }
  }
}

/** As names of constants become names of files: `ActiveRecord` is active_record. */
export const snakeCase = (name: string): string =>
  name
    .replaceAll(/([a-z\d])([A-Z])/g, '$1_$2')
    .replaceAll(/([A-Z]+)([A-Z][a-z])/g, '$1_$2')
    .toLowerCase();
