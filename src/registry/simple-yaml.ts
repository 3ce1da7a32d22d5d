/**
 * The YAML in which configuration files of Kubernetes's programs are written by hand: maps and lists by indentation,
 * scalars on one line, lists in brackets, comments; and JSON, which is YAML too. Anchors, tags, text of several lines and
 * several documents are refused, with the line, rather than read otherwise than a whole YAML parser would.
 */
import { CofaError } from '../../schemas/errors.ts';

/** Scalars are strings, but for `true`, `false`, `null` and whole numbers. */
export type YamlValue = string | number | boolean | null | YamlValue[] | { [key: string]: YamlValue };

interface Line {
  number: number;
  indent: number;
  text: string;
}

const DEEPEST = 32;

/** `name` stands in errors. Errors: `invalid-argument`, which quotes nothing of the file. */
export function parseSimpleYaml(text: string, name: string): YamlValue {
  if (/^\s*[{[]/.test(text)) {
    try {
      return JSON.parse(text) as YamlValue;
    } catch {
      throw new CofaError('invalid-argument', `${name} begins like JSON and is none`);
    }
  }
  const refuse = (line: number, why: string) =>
    new CofaError('invalid-argument', `${name}, line ${line}: ${why}`, {
      hint: 'only plain maps, lists and scalars on one line are read; or write it as JSON',
    });
  const lines = linesOf(text, refuse);
  let at = 0;

  const block = (indent: number, depth: number): YamlValue => {
    const first = lines[at] as Line;
    if (depth > DEEPEST) throw refuse(first.number, 'too deep');
    return isItem(first.text) ? list(indent, depth) : map(indent, depth);
  };

  /** What belongs to the line before: a deeper block, or for a list one that is as deep. */
  const below = (indent: number, mayBeLevel: boolean, depth: number): YamlValue => {
    const next = lines[at];
    if (next === undefined) return null;
    if (next.indent > indent) return block(next.indent, depth + 1);
    if (mayBeLevel && next.indent === indent && isItem(next.text)) return list(indent, depth + 1);
    return null;
  };

  const list = (indent: number, depth: number): YamlValue[] => {
    const items: YamlValue[] = [];
    for (
      let line = lines[at];
      line !== undefined && line.indent === indent && isItem(line.text);
      line = lines[at]
    ) {
      const rest = line.text.slice(1).trimStart();
      if (rest === '') {
        at += 1;
        items.push(below(indent, false, depth));
      } else if (isItem(rest) || keyOf(rest) !== undefined) {
        // A block that begins behind the dash.
        const inner = line.indent + line.text.length - rest.length;
        lines[at] = { ...line, indent: inner, text: rest };
        items.push(block(inner, depth + 1));
      } else {
        at += 1;
        items.push(scalar(rest, line.number, refuse));
      }
    }
    expectEnd(indent);
    return items;
  };

  const map = (indent: number, depth: number): YamlValue => {
    const entries = new Map<string, YamlValue>();
    for (
      let line = lines[at];
      line !== undefined && line.indent === indent && !isItem(line.text);
      line = lines[at]
    ) {
      const found = keyOf(line.text);
      if (found === undefined) throw refuse(line.number, 'neither KEY: VALUE nor an item of a list');
      const { key, rest } = found;
      if (entries.has(key)) throw refuse(line.number, 'a key comes twice');
      at += 1;
      entries.set(key, rest === '' ? below(indent, true, depth) : scalar(rest, line.number, refuse));
    }
    expectEnd(indent);
    return Object.fromEntries(entries);
  };

  /** The block is over: what follows belongs to one further out. */
  const expectEnd = (indent: number) => {
    const next = lines[at];
    if (next !== undefined && next.indent > indent) throw refuse(next.number, 'is indented too far');
  };

  if (lines.length === 0) return null;
  const value = block((lines[0] as Line).indent, 0);
  const left = lines[at];
  if (left !== undefined) throw refuse(left.number, 'does not belong to what stands above it');
  return value;
}

type Refuse = (line: number, why: string) => CofaError;

const isItem = (text: string): boolean => text === '-' || text.startsWith('- ');

function linesOf(text: string, refuse: Refuse): Line[] {
  const lines: Line[] = [];
  for (const [index, raw] of text.split(/\r?\n/).entries()) {
    const number = index + 1;
    const line = withoutComment(raw).trimEnd();
    if (line.trim() === '') continue;
    if (line === '---' && lines.length === 0) continue;
    if (line === '---' || line === '...') throw refuse(number, 'several documents');
    const indent = line.length - line.trimStart().length;
    if (line.slice(0, indent).includes('\t')) throw refuse(number, 'a tab');
    lines.push({ number, indent, text: line.slice(indent) });
  }
  return lines;
}

/** A `#` begins a comment at the start or after a blank, outside quotes. */
function withoutComment(line: string): string {
  let quote = '';
  for (let at = 0; at < line.length; at++) {
    const char = line[at] as string;
    if (quote !== '') {
      if (char === '\\' && quote === '"') at += 1;
      else if (char === quote) quote = '';
    } else if ((char === '"' || char === "'") && /(^|[\s[,:-])$/.test(line.slice(0, at))) quote = char;
    else if (char === '#' && (at === 0 || /\s/.test(line[at - 1] as string))) return line.slice(0, at);
  }
  return line;
}

function keyOf(text: string): { key: string; rest: string } | undefined {
  const match =
    /^(?:"((?:[^"\\]|\\.)*)"|'((?:[^']|'')*)'|([^\s"'[\]{}#&*!|>%@`,-][^:#]*?|-[^\s:#][^:#]*?))\s*:(?:\s+(.*))?$/.exec(
      text,
    );
  if (match === null) return undefined;
  const [, double, single, plain, rest = ''] = match;
  return { key: double ?? single ?? (plain as string), rest: rest.trim() };
}

function scalar(text: string, line: number, refuse: Refuse): YamlValue {
  if (text.startsWith('[')) {
    if (!text.endsWith(']')) throw refuse(line, 'a list in brackets that does not end on its line');
    const inside = text.slice(1, -1).trim();
    if (inside === '') return [];
    const items = inside.match(/"(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^,]+/g) ?? [];
    return items
      .map((item) => item.trim())
      .filter((item) => item !== '')
      .map((item) => scalar(item, line, refuse));
  }
  if (text === '{}') return {};
  if (text.startsWith('"')) {
    try {
      return JSON.parse(text) as string;
    } catch {
      throw refuse(line, 'text in quotes that cannot be read');
    }
  }
  if (text.startsWith("'")) {
    if (!/^'(?:[^']|'')*'$/.test(text)) throw refuse(line, 'text in quotes that cannot be read');
    return text.slice(1, -1).replaceAll("''", "'");
  }
  if (/^[&*!|>{%@`]/.test(text)) throw refuse(line, `what begins with ${text[0]} is not understood`);
  if (/^(?:true|false)$/.test(text)) return text === 'true';
  if (text === 'null' || text === '~') return null;
  if (/^-?(?:0|[1-9]\d{0,14})$/.test(text)) return Number(text);
  return text;
}
