/** Keys out of the bytes that a terminal sends in raw mode (xterm's sequences, which all others know). */

export type Key = { name: 'text'; text: string } | { name: KeyName };

export type KeyName =
  | 'up'
  | 'down'
  | 'left'
  | 'right'
  | 'page-up'
  | 'page-down'
  | 'home'
  | 'end'
  | 'enter'
  | 'escape'
  | 'tab'
  | 'backspace'
  | 'interrupt'
  | 'suspend'
  | 'redraw'
  | 'clear-line'
  | 'unknown';

/** ECMA-48: CSI with parameters and intermediates up to a final byte; SS3 with one. */
const ESC = '\x1b';
const SEQUENCE = new RegExp(`^${ESC}(?:\\[[0-?]*[ -/]*([@-~])|O([A-Za-z]))`);
const BEGINNING = new RegExp(`^${ESC}(?:\\[[0-?]*[ -/]*|O)?$`);

const FINAL: Record<string, KeyName> = {
  A: 'up',
  B: 'down',
  C: 'right',
  D: 'left',
  H: 'home',
  F: 'end',
};
const TILDE: Record<string, KeyName> = {
  '1': 'home',
  '4': 'end',
  '5': 'page-up',
  '6': 'page-down',
  '7': 'home',
  '8': 'end',
};
const CONTROL: Record<string, KeyName> = {
  '\r': 'enter',
  '\n': 'enter',
  '\t': 'tab',
  '\x7f': 'backspace',
  '\b': 'backspace',
  '\x03': 'interrupt',
  '\x1a': 'suspend',
  '\x0c': 'redraw',
  '\x15': 'clear-line',
};

export class KeyReader {
  #rest = '';

  /** Whether an escape waits for the rest of its sequence; alone it is the escape key, see `flush`. */
  get isWaiting(): boolean {
    return this.#rest !== '';
  }

  /** The keys of some input (UTF-8 as text); an unfinished sequence waits for the next call. */
  feed(input: string): Key[] {
    const keys: Key[] = [];
    let rest = this.#rest + input;
    while (rest !== '') {
      if (rest.startsWith(ESC)) {
        const match = SEQUENCE.exec(rest);
        if (match !== null) {
          keys.push({ name: sequenceName(match[0], match[1] ?? match[2] ?? '') });
          rest = rest.slice(match[0].length);
          continue;
        }
        // What may still become a sequence; sequences are short.
        if (BEGINNING.test(rest) && rest.length < 32) break;
        keys.push({ name: 'escape' });
        rest = rest.slice(1);
        continue;
      }
      const mark = String.fromCodePoint(rest.codePointAt(0) ?? 0);
      rest = rest.slice(mark.length);
      const control = CONTROL[mark];
      if (control !== undefined) keys.push({ name: control });
      else if (mark >= ' ') keys.push({ name: 'text', text: mark });
      else keys.push({ name: 'unknown' });
    }
    this.#rest = rest;
    return keys;
  }

  /** Nothing came for a while: what waits is the escape key. */
  flush(): Key[] {
    if (this.#rest === '') return [];
    const rest = this.#rest.slice(1);
    this.#rest = '';
    return [{ name: 'escape' }, ...this.feed(rest)];
  }
}

function sequenceName(sequence: string, final: string): KeyName {
  if (final === '~') return TILDE[sequence.charAt(2)] ?? 'unknown';
  return FINAL[final] ?? 'unknown';
}
