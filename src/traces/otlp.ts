/**
 * A request of OTLP (OpenTelemetry's protocol, https://opentelemetry.io/docs/specs/otlp/, messages of opentelemetry-proto 1.x)
 * with spans, in both of its encodings over HTTP. The shape is that of its JSON: ids in hex digits, 64-bit numbers as
 * texts, enumerations as numbers.
 */
import type { Attribute, Span, SpanTree } from '../../actors/spans.ts';

export type Encoding = 'http/protobuf' | 'http/json';

export const CONTENT_TYPES: Readonly<Record<Encoding, string>> = {
  'http/protobuf': 'application/x-protobuf',
  'http/json': 'application/json',
};

export type OtlpValue =
  | { stringValue: string }
  | { boolValue: boolean }
  | { intValue: string }
  | { doubleValue: number };

export interface OtlpAttribute {
  key: string;
  value: OtlpValue;
}

export interface OtlpSpan {
  traceId: string;
  spanId: string;
  traceState?: string;
  parentSpanId?: string;
  name: string;
  kind: number;
  startTimeUnixNano: string;
  endTimeUnixNano: string;
  attributes: OtlpAttribute[];
  events: Array<{ timeUnixNano: string; name: string }>;
  links: Array<{ traceId: string; spanId: string }>;
  status?: { message: string; code: number };
  flags: number;
}

export interface OtlpRequest {
  resourceSpans: [
    {
      resource: { attributes: OtlpAttribute[] };
      scopeSpans: [{ scope: { name: string; version: string }; spans: OtlpSpan[] }];
    },
  ];
}

/** SpanKind and StatusCode. */
const KINDS: Readonly<Record<Span['kind'], number>> = { internal: 1, server: 2 };
const ERROR = 2;
/** Of `flags`: the span is recorded; whether the parent is another program's is known; it is. */
const SAMPLED = 0x01;
const HAS_IS_REMOTE = 0x100;
const IS_REMOTE = 0x200;

/** What sends: `resource` by attribute. */
export interface Sender {
  resource: Readonly<Record<string, Attribute>>;
  /** Version of cofa. */
  version: string;
}

export const requestOf = (spans: readonly OtlpSpan[], { resource, version }: Sender): OtlpRequest => ({
  resourceSpans: [
    {
      resource: { attributes: attributesOf(resource) },
      scopeSpans: [{ scope: { name: 'cofa', version }, spans: [...spans] }],
    },
  ],
});

/** What the spans are of: an engine, by its node; attributes of the environment win. */
export const resourceOf = (
  said: Readonly<Record<string, string>>,
  node: string,
  version: string,
): Record<string, string> => ({
  'service.name': 'cofa',
  'service.version': version,
  'service.instance.id': node,
  'host.name': node,
  ...said,
});

/** The spans of a tree, as OTLP has them. */
export function otlpSpans({ context, spans }: SpanTree): OtlpSpan[] {
  const own = new Set(spans.map(({ spanId }) => spanId));
  return spans.map((span): OtlpSpan => {
    const { traceId, spanId, parentId, name, kind, from, to, attributes, marks, links, error } = span;
    const isRemote = parentId !== undefined && !own.has(parentId);
    return {
      traceId,
      spanId,
      ...(context?.tracestate === undefined ? {} : { traceState: context.tracestate }),
      ...(parentId === undefined ? {} : { parentSpanId: parentId }),
      name,
      kind: KINDS[kind],
      startTimeUnixNano: nanoOf(from),
      endTimeUnixNano: nanoOf(to),
      attributes: attributesOf(attributes),
      events: marks.map(({ name: mark, at }) => ({ timeUnixNano: nanoOf(at), name: mark })),
      links: links.map((link) => ({ traceId: link.traceId, spanId: link.spanId })),
      ...(error === undefined ? {} : { status: { message: error, code: ERROR } }),
      flags: SAMPLED | HAS_IS_REMOTE | (isRemote ? IS_REMOTE : 0),
    };
  });
}

/** ms since the epoch as ns; the log's times are exact to a microsecond. */
const nanoOf = (ms: number): string => String(BigInt(Math.round(ms * 1000)) * 1000n);

const attributesOf = (all: Readonly<Record<string, Attribute>>): OtlpAttribute[] =>
  Object.entries(all).map(([key, value]) => ({ key, value: valueOf(value) }));

function valueOf(value: Attribute): OtlpValue {
  if (typeof value === 'string') return { stringValue: value.toWellFormed() };
  if (typeof value === 'boolean') return { boolValue: value };
  return Number.isSafeInteger(value) ? { intValue: String(value) } : { doubleValue: value };
}
