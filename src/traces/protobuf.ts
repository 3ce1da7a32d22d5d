/**
 * OTLP's requests and answers in protobuf. The writer of the wire format is protobuf-es's, which containerd's API needs, too; generated code for
 * these few messages, and its runtime, would take three times the memory. Numbers of fields are those of opentelemetry-proto 1.x.
 */
import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import type { OtlpAttribute, OtlpRequest, OtlpSpan, OtlpValue } from './otlp.ts';

/** The request's bytes. */
export function encodeRequest({ resourceSpans }: OtlpRequest): Uint8Array {
  const out = new BinaryWriter();
  for (const { resource, scopeSpans } of resourceSpans)
    message(out, 1, () => {
      message(out, 1, () => attributes(out, 1, resource.attributes));
      for (const { scope, spans } of scopeSpans)
        message(out, 2, () => {
          message(out, 1, () => text(text(out, 1, scope.name), 2, scope.version));
          for (const span of spans) message(out, 2, () => encodeSpan(out, span));
        });
    });
  return out.finish();
}

/** What an answer says of spans that were not taken. */
export interface PartialSuccess {
  rejected: number;
  message: string;
}

/** Never throws: what is no answer rejects nothing. */
export function decodeAnswer(bytes: Uint8Array): PartialSuccess {
  const found: PartialSuccess = { rejected: 0, message: '' };
  try {
    const reader = new BinaryReader(bytes);
    while (reader.pos < reader.len) {
      const [field, type] = reader.tag();
      if (field === 1 && type === WireType.LengthDelimited) decodePartial(reader.bytes(), found);
      else reader.skip(type, field);
    }
  } catch {
    // What was read of it counts.
  }
  return found;
}

function decodePartial(bytes: Uint8Array, found: PartialSuccess): void {
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    if (field === 1 && type === WireType.Varint) found.rejected = Number(reader.int64());
    else if (field === 2 && type === WireType.LengthDelimited) found.message = reader.string();
    else reader.skip(type, field);
  }
}

function encodeSpan(out: BinaryWriter, span: OtlpSpan): void {
  bytes(bytes(out, 1, span.traceId), 2, span.spanId);
  if (span.traceState !== undefined) text(out, 3, span.traceState);
  if (span.parentSpanId !== undefined) bytes(out, 4, span.parentSpanId);
  text(out, 5, span.name).tag(6, WireType.Varint).int32(span.kind);
  fixed64(fixed64(out, 7, span.startTimeUnixNano), 8, span.endTimeUnixNano);
  attributes(out, 9, span.attributes);
  for (const { timeUnixNano, name } of span.events)
    message(out, 11, () => text(fixed64(out, 1, timeUnixNano), 2, name));
  for (const { traceId, spanId } of span.links)
    message(out, 13, () => bytes(bytes(out, 1, traceId), 2, spanId));
  const { status } = span;
  if (status !== undefined)
    message(out, 15, () => text(out, 2, status.message).tag(3, WireType.Varint).int32(status.code));
  out.tag(16, WireType.Bit32).fixed32(span.flags);
}

function attributes(out: BinaryWriter, field: number, all: readonly OtlpAttribute[]): void {
  for (const { key, value } of all)
    message(out, field, () => message(text(out, 1, key), 2, () => encodeValue(out, value)));
}

function encodeValue(out: BinaryWriter, value: OtlpValue): void {
  if ('stringValue' in value) text(out, 1, value.stringValue);
  else if ('boolValue' in value) out.tag(2, WireType.Varint).bool(value.boolValue);
  else if ('intValue' in value) out.tag(3, WireType.Varint).int64(value.intValue);
  else out.tag(4, WireType.Bit64).double(value.doubleValue);
}

function message(out: BinaryWriter, field: number, write: () => unknown): void {
  out.tag(field, WireType.LengthDelimited).fork();
  write();
  out.join();
}

const text = (out: BinaryWriter, field: number, value: string) =>
  out.tag(field, WireType.LengthDelimited).string(value);
const bytes = (out: BinaryWriter, field: number, hex: string) =>
  out.tag(field, WireType.LengthDelimited).bytes(Buffer.from(hex, 'hex'));
const fixed64 = (out: BinaryWriter, field: number, value: string) =>
  out.tag(field, WireType.Bit64).fixed64(value);
