/**
 * Every parser of bytes from outside, with what is almost right: it takes them, or refuses them with an error that has a
 * code. It never throws anything else, never hangs, and takes no memory that the bytes do not account for.
 *
 * Tables of contents, flat metadata, tars, layers, references and challenges have tests like these beside their own.
 */
import { connect } from 'node:net';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { zstdCompressSync } from 'node:zlib';
import { create, toBinary } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import { encode } from '../../src/bus/connection.ts';
import { serveLocal } from '../../src/bus/local-socket.ts';
import {
  AuthConfigSchema,
  ImageSpecSchema,
  PullImageRequestSchema,
} from '../../src/containerd/generated/runtime/v1/cri_pb.ts';
import { decodeHints, encodeHints } from '../../src/image/hints/hints.ts';
import { SpanTable } from '../../src/image/span-table.ts';
import { decodePack, encodePack } from '../../src/pack/format.ts';
import { parseFiles, parseRecordings } from '../../src/pack/pack-store.ts';
import { rehearsalLayer } from '../../src/process/rehearsal/layer.ts';
import { nextLink } from '../../src/registry/link.ts';
import { embeddedIn, MEDIA_TYPES, parseConfig, parseManifest } from '../../src/registry/manifest.ts';
import { decodeFrame, encodeFrame } from '../../src/replay/frames.ts';
import { offerOf } from '../../src/snapshotter/image-service.ts';
import { NodeFold } from '../../src/store/node-fold.ts';
import { decodeSnapshot, encodeSnapshot } from '../../src/store/snapshots.ts';
import { almost, almostJson } from '../support/almost.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

const MIB = 1 << 20;
const digest = `sha256:${'ab'.repeat(32)}`;
const descriptor = { mediaType: MEDIA_TYPES.ociConfig, digest, size: 10 };
const json = (value: unknown) => Buffer.from(JSON.stringify(value));
const manifest = {
  schemaVersion: 2,
  mediaType: MEDIA_TYPES.ociManifest,
  config: descriptor,
  layers: [descriptor],
  subject: descriptor,
  annotations: { a: 'b' },
};
const index = {
  schemaVersion: 2,
  mediaType: MEDIA_TYPES.ociIndex,
  manifests: [
    { ...descriptor, platform: { os: 'linux', architecture: 'amd64' }, artifactType: 'x', data: 'eHg=' },
  ],
};
const config = { os: 'linux', architecture: 'amd64', rootfs: { type: 'layers', diff_ids: [digest] } };
const start = { devices: [digest], runs: [[0, 1, 2]] };
const notes = { v: 1, ...start, pieces: [[['usr/bin/a', 100, 0, 512, 612]]] };
const pull = toBinary(
  PullImageRequestSchema,
  create(PullImageRequestSchema, {
    image: create(ImageSpecSchema, { image: 'registry.test/team/app:1' }),
    auth: create(AuthConfigSchema, { username: 'user', password: 'word', auth: 'dXNlcjp3b3Jk' }),
  }),
);
const grpc = (message: Uint8Array) => {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
};
const layer = rehearsalLayer(3);
const packed = async () => {
  const { digest, bytes, table } = layer;
  const header = {
    manifest: digest,
    blockSize: table.blockSize,
    devices: [digest],
    sizes: [bytes.length],
    runs: [[0, 0, 3]] as const,
  };
  const read = (_: number, block: number, length: number) =>
    bytes.subarray(block * table.blockSize, block * table.blockSize + length);
  return Buffer.concat(await Readable.from(encodePack(header, read)).toArray());
};
async function* once(bytes: Buffer) {
  yield bytes;
}

const jsonBytes = (document: object) => fc.oneof(almostJson(document).map(json), almost(json(document)));
const packBytes = (value: object) =>
  fc.oneof(
    almostJson(value).map((changed) => encode(changed)),
    almost(encode(value)),
  );

interface Case {
  bytes: fc.Arbitrary<Buffer>;
  parse: (bytes: Buffer) => unknown;
}

const frame = encodeFrame([{ seq: 3, subject: 'cofa.v1.n.event.layer.a', bytes: encode({ v: 1 }) }]);
const parts = encodeSnapshot(new NodeFold());

const CASES: Record<string, () => Case | Promise<Case>> = {
  'a manifest': () => ({
    bytes: jsonBytes(manifest),
    parse: (bytes) => parseManifest(bytes, undefined, 'x'),
  }),
  'an index, and a list of referrers': () => ({
    bytes: jsonBytes(index),
    parse: (bytes) => {
      const parsed = parseManifest(bytes, MEDIA_TYPES.ociIndex, 'x');
      if (parsed.kind === 'index') for (const entry of parsed.index.manifests) embeddedIn(entry);
    },
  }),
  'the configuration of an image': () => ({
    bytes: jsonBytes(config),
    parse: (bytes) => parseConfig(bytes, 1, 'x'),
  }),
  'a Link header': () => ({
    bytes: almost(Buffer.from('</v2/a/referrers/b?n=2>; rel="next"; title="a,b", <c>; rel=prev')),
    parse: (bytes) => nextLink(bytes.toString('latin1')),
  }),
  hints: () => ({
    bytes: almost(
      encodeHints({ devices: [digest], sections: [{ program: 'sh', isAlways: true, runs: [[0, 5, 6]] }] }),
    ),
    parse: decodeHints,
  }),
  'a span table': () => ({
    bytes: almost(layer.table.encode()),
    parse: (bytes) => {
      const table = SpanTable.decode(bytes);
      for (let span = 0; span < table.spanCount; span++) table.checkpoint(span);
    },
  }),
  'a startup pack': async () => ({
    bytes: almost(await packed()),
    parse: (bytes) =>
      decodePack(
        once(bytes),
        () => {},
        () => {},
      ),
  }),
  'recordings of starts': () => ({ bytes: packBytes({ v: 1, starts: [start] }), parse: parseRecordings }),
  'notes about files': () => ({
    bytes: fc.oneof(
      packBytes(notes).map((bytes) => zstdCompressSync(bytes)),
      almost(zstdCompressSync(encode(notes))),
    ),
    parse: parseFiles,
  }),
  'a pull of the kubelet': () => ({
    bytes: fc.oneof(almost(Buffer.from(pull)).map(grpc), almost(grpc(pull))),
    // Its caller takes any error for no credentials; it must only end.
    parse: (bytes) => {
      try {
        return offerOf(bytes);
      } catch {
        return undefined;
      }
    },
  }),
  'a frame of an exported log': () => ({ bytes: almost(frame), parse: decodeFrame }),
  'a snapshot of the log': () => ({
    bytes: almost(Buffer.from((parts[0] as (typeof parts)[number]).bytes)),
    parse: (bytes) => decodeSnapshot([{ ...(parts[0] as (typeof parts)[number]), bytes }]),
  }),
};

test.each(Object.keys(CASES))('%s, almost right, is taken or refused', async (name) => {
  const { bytes, parse } = await (CASES[name] as (typeof CASES)[string])();
  const before = process.resourceUsage().maxRSS;
  await fc.assert(
    fc.asyncProperty(bytes, async (drawn) => {
      try {
        await parse(drawn);
      } catch (error) {
        if (!(error instanceof CofaError)) throw error;
        expect(error.code).not.toBe('internal');
      }
    }),
    { numRuns: 400 },
  );
  expect((process.resourceUsage().maxRSS - before) * 1024).toBeLessThan(128 * MIB);
});

test('a Link header is read once, however many links it has', () => {
  // The pattern before took the square of it.
  expect(nextLink('<a>;'.repeat(2_000))).toBeUndefined();
  expect(nextLink(`${'<a>; rel=prev, '.repeat(400)}<b>; rel="NEXT"`)).toBe('b');
  expect(nextLink(`<a>; title="x, <c>; rel=next", <b>; rel="prev next"`)).toBe('b');
  expect(nextLink(`<${'a'.repeat(5_000)}>; rel=next`)).toBeUndefined();
  expect(nextLink('<a>; rel=nextish')).toBeUndefined();
});

test('a local socket answers any question, or closes, and goes on', async () => {
  const path = join(await cleanup.tempDir('socket'), 's.sock');
  const server = await serveLocal(path, { kind: (request) => typeof request });
  cleanup.defer(() => void server.close());
  const ask = (bytes: Buffer) =>
    new Promise<string>((resolve) => {
      const socket = connect(path);
      let received = '';
      socket.setEncoding('utf8');
      socket.on('data', (text: string) => (received += text));
      socket.on('error', () => resolve(received));
      socket.on('close', () => resolve(received));
      socket.end(bytes);
    });
  const question = Buffer.from(`kind ${JSON.stringify({ a: 1 })}\n`);
  const drawn = fc.oneof(
    almost(question),
    fc.nat(40_000).map((length) => Buffer.alloc(length, 'a')),
    fc.constantFrom('toString\n', '__proto__ {}\n', '\n', 'kind ').map((text) => Buffer.from(text)),
    fc.nat(16_000).map((depth) => Buffer.from(`kind ${'['.repeat(depth)}${']'.repeat(depth)}\n`)),
  );
  await fc.assert(
    fc.asyncProperty(drawn, async (bytes) => {
      const answer = await ask(bytes);
      if (answer !== '') expect(JSON.parse(answer)).toHaveProperty('ok');
    }),
    { numRuns: 150 },
  );
  expect(JSON.parse(await ask(question))).toEqual({ ok: true, result: 'object' });
});
