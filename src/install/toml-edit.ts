/**
 * Edits of a TOML file that belongs to another program: sets keys in place and keeps everything else byte for byte,
 * comments included. The file itself marks each change, so that an undo needs no other record:
 *
 *     snapshotter = "cofa" # cofa install; was: "overlayfs"
 *
 *     # cofa install: begin
 *     [proxy_plugins.cofa]
 *       …
 *     # cofa install: end
 *
 * It knows tables and keys with one key a line, as containerd's configurations are written; a value is the rest of its
 * line.
 */

/** A table by its path, and the values for its keys, as TOML literals. */
export interface TableEdit {
  table: readonly string[];
  keys: Readonly<Record<string, string>>;
}

const MARK = '# cofa install';
const BEGIN = `${MARK}: begin`;
const END = `${MARK}: end`;
const WAS = /^\s*([A-Za-z0-9_-]+)\s*=.*# cofa install(?:; was: (.*))?$/;

/** The text with the edits; the same text when it has them already. */
export function applyEdits(text: string, edits: readonly TableEdit[]): string {
  const lines = revertEdits(text).split('\n');
  const added: string[] = [];
  for (const { table, keys } of edits) {
    const at = lines.findIndex((line) => samePath(headerOf(line), table));
    if (at < 0) {
      added.push(`[${table.map(quoteKey).join('.')}]`);
      for (const [key, value] of Object.entries(keys)) added.push(`  ${key} = ${value}`);
      continue;
    }
    const indent = /^\s*/.exec(lines[at] as string)?.[0] ?? '';
    for (const [key, value] of Object.entries(keys).toReversed()) {
      const known = keyLine(lines, at, key);
      if (known === undefined) {
        lines.splice(at + 1, 0, `${indent}  ${key} = ${value} ${MARK}`);
        continue;
      }
      const { line, literal, lead } = known;
      if (literal !== value) lines[line] = `${lead}${key} = ${value} ${MARK}; was: ${literal}`;
    }
  }
  if (added.length === 0) return lines.join('\n');
  if (lines.at(-1) === '') lines.pop();
  return [...lines, BEGIN, ...added, END, ''].join('\n');
}

/** The text as it was before `applyEdits`; what others have written around its changes since stays. */
export function revertEdits(text: string): string {
  const kept: string[] = [];
  let inside = false;
  for (const line of text.split('\n')) {
    if (line.trim() === BEGIN) inside = true;
    else if (line.trim() === END) inside = false;
    else if (!inside) {
      const marked = WAS.exec(line);
      if (marked === null) kept.push(line);
      else if (marked[2] !== undefined) kept.push(line.replace(/=.*$/, `= ${marked[2]}`));
    }
  }
  return kept.join('\n');
}

/** Whether the text has changes of ours. */
export function isEdited(text: string): boolean {
  return revertEdits(text) !== text;
}

/** The literal of a key of the file's top, such as `version`. */
export function topLevelValue(text: string, key: string): string | undefined {
  const lines = text.split('\n');
  return keyLine(lines, -1, key)?.literal;
}

/** Whether there is a `[table]` below this one. */
export function hasTablesBelow(text: string, table: readonly string[]): boolean {
  return text
    .split('\n')
    .map(headerOf)
    .some(
      (path) =>
        path !== undefined && path.length > table.length && samePath(path.slice(0, table.length), table),
    );
}

/** The literal of a key of a `[table]`; undefined where the table, or the key in it, is not there. */
export function tableValue(text: string, table: readonly string[], key: string): string | undefined {
  const lines = text.split('\n');
  const at = lines.findIndex((line) => samePath(headerOf(line), table));
  return at < 0 ? undefined : keyLine(lines, at, key)?.literal;
}

function keyLine(
  lines: readonly string[],
  header: number,
  key: string,
): { line: number; literal: string; lead: string } | undefined {
  for (let line = header + 1; line < lines.length; line++) {
    const text = lines[line] as string;
    if (headerOf(text) !== undefined) return undefined;
    const [, lead = '', name = '', rest = ''] = /^(\s*)("?[A-Za-z0-9_-]+"?)\s*=\s*(.*)$/.exec(text) ?? [];
    if (name.replaceAll('"', '') === key) return { line, literal: withoutComment(rest), lead };
  }
  return undefined;
}

/** The path of a `[table]` line; undefined for other lines, and for arrays of tables. */
function headerOf(line: string): string[] | undefined {
  const inner = /^\s*\[([^[].*)\]\s*(?:#.*)?$/.exec(line)?.[1];
  if (inner === undefined) return undefined;
  const path: string[] = [];
  let rest = inner.trim();
  while (rest !== '') {
    const [whole, double, single, bare] =
      /^(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*(?:\.\s*|$)/.exec(rest) ?? [];
    if (whole === undefined) return undefined;
    path.push(double ?? single ?? (bare as string));
    rest = rest.slice(whole.length);
  }
  return path;
}

function samePath(path: readonly string[] | undefined, other: readonly string[]): boolean {
  return path?.length === other.length && other.every((part, at) => path[at] === part);
}

function withoutComment(text: string): string {
  const literal = /^(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^#])*/.exec(text)?.[0] ?? text;
  return literal.trim();
}

const quoteKey = (key: string): string => (/^[A-Za-z0-9_-]+$/.test(key) ? key : JSON.stringify(key));
