/** Draws what is almost right, for parsers of bytes from outside. */
import fc from 'fast-check';

const DIGEST = `sha256:${'ab'.repeat(32)}`;

/** Bytes with some of them changed, taken out, doubled, or replaced by numbers that promise much. */
export function almost(bytes: Buffer): fc.Arbitrary<Buffer> {
  const place = fc.nat(Math.max(0, bytes.length));
  const promise = fc.constantFrom(
    [0xff, 0xff, 0xff, 0xff],
    [0xdd, 0x7f, 0xff, 0xff, 0xff],
    [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f],
    [0xcf, 0, 0x10, 0, 0, 0, 0, 0, 0],
    [0],
  );
  const change = fc.oneof(
    fc.tuple(place, fc.nat(255)).map(
      ([at, value]) =>
        (from: Buffer) =>
          Buffer.concat([from.subarray(0, at), Buffer.of(value), from.subarray(at + 1)]),
    ),
    fc.tuple(place, fc.nat(9)).map(
      ([at, count]) =>
        (from: Buffer) =>
          Buffer.concat([from.subarray(0, at), from.subarray(at + count)]),
    ),
    fc.tuple(place, promise).map(
      ([at, value]) =>
        (from: Buffer) =>
          Buffer.concat([from.subarray(0, at), Buffer.from(value), from.subarray(at + value.length)]),
    ),
    place.map((at) => (from: Buffer) => from.subarray(0, at)),
    fc.tuple(place, fc.nat(300)).map(
      ([at, times]) =>
        (from: Buffer) =>
          Buffer.concat([from, ...Array<Buffer>(times).fill(from.subarray(at, at + 50))]),
    ),
  );
  return fc.oneof(
    fc
      .array(change, { minLength: 1, maxLength: 4 })
      .map((changes) => changes.reduce((made, one) => one(made), bytes)),
    fc.uint8Array({ maxLength: 300 }).map((noise) => Buffer.from(noise)),
  );
}

/** A document with something else in the place of one of its fields, at any depth. */
export function almostJson(document: object): fc.Arbitrary<unknown> {
  const odd = fc.oneof(
    fc.jsonValue({ maxDepth: 2 }),
    fc.constantFrom<unknown>(2 ** 60, -1, 0.5, null, '', DIGEST, `sha512:${'0'.repeat(128)}`, [[[]]], {
      __proto__: null,
    }),
  );
  const fields = Object.entries(document);
  if (fields.length === 0) return odd;
  return fc.oneof(
    { weight: 1, arbitrary: odd },
    ...fields.map(([name, value]: [string, unknown]) => ({
      weight: 1,
      arbitrary: (typeof value === 'object' && value !== null ? almostJson(value) : odd).map((changed) =>
        Array.isArray(document)
          ? document.map((one: unknown, at) => (String(at) === name ? changed : one))
          : { ...document, [name]: changed },
      ),
    })),
  );
}
