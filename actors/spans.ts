/** Spans as OpenTelemetry has them, and the ids of those that cofa makes: the same each time that a log is read. */
import { parentOf, type TraceContext } from '../schemas/trace-context.ts';

export type Attribute = string | number | boolean;

export interface SpanIds {
  /** 32 hex digits. */
  traceId: string;
  /** 16 hex digits. */
  spanId: string;
}

export interface Span extends SpanIds {
  /** The span that it is a part of; undefined: none. */
  parentId: string | undefined;
  name: string;
  /** `server`: it answers a call of another program. */
  kind: 'server' | 'internal';
  /** ms since the epoch. */
  from: number;
  to: number;
  attributes: Readonly<Record<string, Attribute>>;
  /** Moments within it, ms since the epoch. */
  marks: ReadonlyArray<{ name: string; at: number }>;
  /** Spans that it waited for. */
  links: readonly SpanIds[];
  /** Undefined: it went well. */
  error: string | undefined;
}

/** Spans that belong together: all of them are sent, or none. */
export interface SpanTree {
  /** Whose trace they join; undefined: it is a trace of their own. */
  context: TraceContext | undefined;
  traceId: string;
  spans: Span[];
}

/** Letters of a text from outside. */
export const LONGEST = 512;

/** A hash as hex digits, 32 at least: ids come from what the log says, not by chance. */
export type HashOf = (text: string) => string;

/** The trace of what `name` tells of: the caller's, or one of its own. */
export const traceIdOf = (name: string, context: TraceContext | undefined, hash: HashOf): string =>
  (context && parentOf(context))?.traceId ?? hash(`trace ${name}`).slice(0, 32);

/** Makes the spans of one tree. */
export class TreeMaker {
  readonly tree: SpanTree;
  readonly #hash: HashOf;
  readonly #name: string;
  readonly #callerId: string | undefined;

  /** `name`: what the tree tells of, of which there is one in the log. */
  constructor(name: string, context: TraceContext | undefined, hash: HashOf) {
    const caller = context && parentOf(context);
    this.#hash = hash;
    this.#name = name;
    this.#callerId = caller?.spanId;
    this.tree = { context, traceId: traceIdOf(name, context, hash), spans: [] };
  }

  /** Adds a span. `key`: which one of the tree; `parent`: absent: what asked for the tree, if anything did. */
  add(
    key: string,
    { parent, ...span }: Pick<Span, 'name' | 'from' | 'to'> & Partial<Span> & { parent?: SpanIds },
  ): Span {
    const made: Span = {
      kind: 'internal',
      attributes: {},
      marks: [],
      links: [],
      error: undefined,
      ...span,
      traceId: this.tree.traceId,
      spanId: this.#hash(`span ${this.#name} ${key}`).slice(0, 16),
      parentId: parent?.spanId ?? span.parentId ?? this.#callerId,
      to: Math.max(span.from, span.to),
    };
    this.tree.spans.push(made);
    return made;
  }
}
