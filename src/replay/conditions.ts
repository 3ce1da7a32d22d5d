/**
 * Conditions on events: what breakpoints, `--break` and the search keys take.
 *
 *   block 4711 present and layer 3f2a         a block becomes present
 *   block 4711 absent | read | fetched        it is lost; a read waits for it; a fetch covers it
 *   block 4711                                any of these
 *   read > 100ms, read failed                 a read that waited so long, or ended in an error
 *   job > 1s, job failed                      the same of a fetch
 *   event mount.*                             by type; `*` is any text
 *   layer 3f2a, image app:1, mount /mnt/x     the object of the event
 *   text "no such"                            anywhere in the event
 *
 * Terms are joined with `and`, the results with `or` (which binds less). Terms of one conjunction are about one thing:
 * `read > 100ms and block 4711` is a slow read of that block, not a slow read beside one of the block.
 */
import { CofaError } from '../../schemas/errors.ts';
import { parseDuration } from './moments.ts';
import type { ReplayEvent } from './record.ts';
import { traceOf } from './trace.ts';

export type Comparison = '>' | '>=' | '<' | '<=';

export type Term =
  | { term: 'block'; block: number; what: 'present' | 'absent' | 'read' | 'fetched' | 'any' }
  | { term: 'read' | 'job'; compare: Comparison; us: number }
  | { term: 'read' | 'job'; failed: true }
  | { term: 'event' | 'layer' | 'image' | 'mount' | 'text'; text: string };

/** A disjunction of conjunctions; none of them empty. */
export type Condition = readonly (readonly Term[])[];

export const CONDITION_HINT =
  'such as: block 4711 present and layer 3f2a; read > 100ms; job failed; event mount.*; image app:1; text "no such"';

/** Error: `invalid-argument`, which says where the text cannot be understood. */
export function parseCondition(text: string): Condition {
  return new ConditionParser(text).condition();
}

/** Reads a condition word by word. */
class ConditionParser {
  readonly #text: string;
  readonly #words: readonly Token[];
  #at = 0;

  constructor(text: string) {
    this.#text = text;
    this.#words = tokenize(text);
  }

  condition(): Condition {
    const result: Term[][] = [[this.#term()]];
    while (this.#at < this.#words.length) {
      const joint = this.#word('and');
      if (joint === 'and') result.at(-1)?.push(this.#term());
      else if (joint === 'or') result.push([this.#term()]);
      else this.#fail(`and or or is expected before ${JSON.stringify(joint)}`);
    }
    return result;
  }

  #term(): Term {
    const name = this.#word('a term');
    switch (name) {
      case 'block':
        return this.#blockTerm();
      case 'read':
      case 'job':
        return this.#durationTerm(name);
      case 'event':
      case 'layer':
      case 'image':
      case 'mount':
      case 'text':
        return this.#textTerm(name);
      default:
        return this.#fail(`${JSON.stringify(name)} is no term`);
    }
  }

  #blockTerm(): Term {
    const number = this.#word('the number of a block');
    if (!/^\d{1,12}$/.test(number)) this.#fail(`${JSON.stringify(number)} is not the number of a block`);
    const next = this.#words[this.#at];
    const what = next?.quoted === true ? undefined : BLOCK_WORDS.find((one) => one === next?.text);
    if (what !== undefined) this.#at++;
    return { term: 'block', block: Number(number), what: what ?? 'any' };
  }

  #durationTerm(term: 'read' | 'job'): Term {
    const next = this.#word('> or failed');
    if (next === 'failed') return { term, failed: true };
    const how = COMPARISONS.find((one) => one === next);
    if (how === undefined)
      return this.#fail(`${term} ${JSON.stringify(next)}: > 100ms or failed is understood`);
    return { term, compare: how, us: this.#duration() };
  }

  #textTerm(term: 'event' | 'layer' | 'image' | 'mount' | 'text'): Term {
    const text = this.#word(`what ${term} is compared with`);
    if (term === 'layer' && !/^(sha256:)?[0-9a-f]{1,64}$/.test(text))
      this.#fail(`${JSON.stringify(text)} is not the beginning of a diffID`);
    return { term, text };
  }

  /** Microseconds. */
  #duration(): number {
    const given = this.#word('a duration such as 100ms');
    const ms = parseDuration(given);
    if (ms === undefined) return this.#fail(`${JSON.stringify(given)} is no duration such as 100ms`);
    return Math.round(ms * 1e6) / 1e3;
  }

  /** `what`: named in the error when the text ends here. */
  #word(what: string): string {
    return this.#words[this.#at++]?.text ?? this.#fail(`${what} is missing at its end`);
  }

  #fail(what: string): never {
    throw new CofaError('invalid-argument', `condition ${JSON.stringify(this.#text)}: ${what}`, {
      hint: CONDITION_HINT,
    });
  }
}

/** What `parseCondition` takes for the same condition. */
export function formatCondition(condition: Condition): string {
  return condition.map((terms) => terms.map(formatTerm).join(' and ')).join(' or ');
}

/** Context that events do not carry themselves. */
export interface MatchContext {
  /** References and manifests of the images that have the layer (`sha256:…`). */
  imagesOfLayer(layer: string): readonly string[];
  /** The diffID of a layer (`sha256:…`), which may bear another name in the log. */
  diffIdOf(layer: string): string;
  /** The same of a mount's id, with its directory. */
  namesOfMount(id: string): readonly string[];
  /** The reference of a manifest (`sha256:…`). */
  nameOfImage(manifest: string): string | undefined;
}

export function matches(condition: Condition, event: ReplayEvent, context: MatchContext): boolean {
  return condition.some((terms) => {
    // Most events match no term of most conditions, and their parts need not be read.
    if (!terms.every((term) => mayMatch(term, event.type))) return false;
    for (const facet of facetsOf(event)) {
      if (terms.every((term) => holds(term, facet, event, context))) return true;
    }
    return false;
  });
}

/** Whether an event of this type can fulfil the condition: what a search asks before it decodes an event. */
export function canMatch(condition: Condition, type: string): boolean {
  return condition.some((terms) => terms.every((term) => mayMatch(term, type)));
}

function mayMatch(term: Term, type: string): boolean {
  switch (term.term) {
    case 'event':
      return globOf(term.text).test(type);
    case 'read':
    case 'job':
      return type === 'layer.trace';
    case 'block':
    case 'layer':
      return type.startsWith('layer.');
    default:
      return true;
  }
}

/** One thing that an event tells of. */
type Facet =
  | { is: 'event' }
  | { is: 'present' | 'absent'; first: number; end: number }
  | { is: 'all-absent' }
  | { is: 'read'; first: number; end: number; us: number; failed: boolean }
  | { is: 'job'; firstSpan: number; us: number; failed: boolean };

function* facetsOf(event: ReplayEvent): IterableIterator<Facet> {
  yield { is: 'event' };
  switch (event.type) {
    case 'layer.blocks':
    case 'layer.evicted': {
      const is = event.type === 'layer.blocks' ? 'present' : 'absent';
      for (const range of Array.isArray(event.data.ranges) ? event.data.ranges : []) {
        const [first, count] = Array.isArray(range) ? range : [];
        if (typeof first === 'number' && typeof count === 'number') yield { is, first, end: first + count };
      }
      return;
    }
    case 'layer.dropped':
    case 'layer.removed':
      yield { is: 'all-absent' };
      return;
    case 'layer.trace': {
      const { reads, jobs } = traceOf(event);
      for (const { block, blocks, us, errno } of reads)
        yield { is: 'read', first: block, end: block + blocks, us, failed: errno !== 0 };
      for (const { span, totalUs, error } of jobs)
        yield { is: 'job', firstSpan: span, us: totalUs, failed: error !== undefined };
    }
  }
}

function holds(term: Term, facet: Facet, event: ReplayEvent, context: MatchContext): boolean {
  switch (term.term) {
    case 'block':
      return holdsOfBlock(term, facet);
    case 'read':
    case 'job':
      if (facet.is !== term.term) return false;
      return 'failed' in term ? facet.failed : compare(facet.us, term.compare, term.us);
    case 'event':
      return globOf(term.text).test(event.type);
    case 'layer':
      return event.kind === 'layer' && isLayer(event.id, term.text.replace(/^sha256:/, ''), context);
    case 'image':
      return namesOfImages(event, context).some((name) => isNamed(name, term.text));
    case 'mount':
      return (
        event.kind === 'mount' &&
        [event.id, ...context.namesOfMount(event.id), String(event.data.dir ?? '')].includes(term.text)
      );
    case 'text':
      return textOf(event).includes(term.text.toLowerCase());
  }
}

/** By the first digits of its name in the log, or of its diffID. */
const isLayer = (id: string, digits: string, context: MatchContext): boolean =>
  id.startsWith(digits) || context.diffIdOf(`sha256:${id}`).startsWith(`sha256:${digits}`);

function holdsOfBlock(term: Term & { term: 'block' }, facet: Facet): boolean {
  const { block, what } = term;
  switch (facet.is) {
    case 'present':
      return (what === 'present' || what === 'fetched' || what === 'any') && covers(facet, block);
    case 'absent':
      return (what === 'absent' || what === 'any') && covers(facet, block);
    case 'all-absent':
      return what === 'absent' || what === 'any';
    case 'read':
      return (what === 'read' || what === 'any') && covers(facet, block);
    default:
      return false;
  }
}

const covers = ({ first, end }: { first: number; end: number }, block: number): boolean =>
  block >= first && block < end;

function namesOfImages(event: ReplayEvent, context: MatchContext): readonly string[] {
  switch (event.kind) {
    case 'image': {
      const manifest = `sha256:${event.id}`;
      return [manifest, String(event.data.ref ?? context.nameOfImage(manifest) ?? '')];
    }
    case 'layer':
      return context.imagesOfLayer(`sha256:${event.id}`);
    case 'mount':
      return [String(event.data.ref ?? ''), ...context.namesOfMount(event.id)];
    default:
      return [];
  }
}

function isNamed(name: string, wanted: string): boolean {
  if (name === wanted || name.endsWith(`/${wanted}`)) return true;
  return /^[0-9a-f]{6,}$/.test(wanted) && name.startsWith(`sha256:${wanted}`);
}

/** Everything about an event in small letters, for searches. */
export function textOf(event: ReplayEvent): string {
  return `${event.seq} ${event.type} ${event.id} ${JSON.stringify(event.data)}`.toLowerCase();
}

function compare(value: number, how: Comparison, limit: number): boolean {
  if (how === '>') return value > limit;
  if (how === '>=') return value >= limit;
  if (how === '<') return value < limit;
  return value <= limit;
}

const globs = new Map<string, RegExp>();

function globOf(text: string): RegExp {
  let glob = globs.get(text);
  if (glob === undefined) {
    if (globs.size > 100) globs.clear();
    glob = new RegExp(
      `^${text
        .split('*')
        .map((part) => part.replace(/[\\^$.+?()[\]{}|]/g, '\\$&'))
        .join('.*')}$`,
    );
    globs.set(text, glob);
  }
  return glob;
}

const BLOCK_WORDS = ['present', 'absent', 'read', 'fetched'] as const;
const COMPARISONS: readonly Comparison[] = ['>', '>=', '<', '<='];

interface Token {
  text: string;
  quoted: boolean;
}

function tokenize(text: string): Token[] {
  const tokens: Token[] = [];
  let rest = text.trim();
  while (rest !== '') {
    const quoted = /^"((?:[^"\\]|\\.)*)"/.exec(rest);
    const bare = quoted ?? /^(?:[<>]=?|[^\s<>"]+)/.exec(rest);
    if (bare === null)
      throw new CofaError('invalid-argument', `condition ${JSON.stringify(text)}: a quotation does not end`, {
        hint: CONDITION_HINT,
      });
    tokens.push(
      quoted === null
        ? { text: bare[0], quoted: false }
        : { text: (quoted[1] ?? '').replace(/\\(.)/g, '$1'), quoted: true },
    );
    rest = rest.slice(bare[0].length).trimStart();
  }
  return tokens;
}

function formatTerm(term: Term): string {
  switch (term.term) {
    case 'block':
      return `block ${term.block}${term.what === 'any' ? '' : ` ${term.what}`}`;
    case 'read':
    case 'job':
      return 'failed' in term ? `${term.term} failed` : `${term.term} ${term.compare} ${formatUs(term.us)}`;
    default:
      return `${term.term} ${/^[^\s<>"]+$/.test(term.text) ? term.text : `"${term.text.replace(/["\\]/g, '\\$&')}"`}`;
  }
}

function formatUs(us: number): string {
  if (us % 1_000_000 === 0) return `${us / 1_000_000}s`;
  return us % 1_000 === 0 ? `${us / 1_000}ms` : `${us}us`;
}
