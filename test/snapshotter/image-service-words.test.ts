/** The image service tells a kubelet why it refuses a pull; gRPC carries reasons with newlines, quotes and letters of any language. */
import { connect as connectHttp2, createServer } from 'node:http2';
import { connect } from 'node:net';
import { join } from 'node:path';
import { create, toBinary } from '@bufbuild/protobuf';
import { pino } from 'pino';
import { afterEach, expect, test } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import { PullImageRequestSchema } from '../../src/containerd/generated/runtime/v1/cri_pb.ts';
import { ImageService } from '../../src/snapshotter/image-service.ts';
import { serveStreams } from '../../src/snapshotter/server.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

function framed(message: Uint8Array): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

test('a reason with characters that no header has reaches the kubelet as it is', async () => {
  const folder = await cleanup.tempDir('words');
  const containerd = join(folder, 'containerd.sock');
  const upstream = createServer();
  upstream.on('stream', (stream) => {
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
    stream.once('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
    stream.resume().once('end', () => stream.end(framed(new Uint8Array())));
  });
  await new Promise<void>((resolve) => upstream.listen(containerd, resolve));
  cleanup.defer(() => void upstream.close());
  const reason = '100 % of the image’s layers\nare “others”';
  const images = new ImageService({
    containerd,
    desk: join(folder, 'no-desk.sock'),
    judge: () => Promise.reject(new CofaError('unauthorized', reason)),
    log: pino({ level: 'silent' }),
  });
  const path = join(folder, 'images.sock');
  const server = await serveStreams(path, images.take);
  cleanup.defer(async () => {
    images.close();
    await server.close(10);
  });
  const client = connectHttp2('http://localhost', { createConnection: () => connect(path) });
  const call = client.request({ ':method': 'POST', ':path': '/runtime.v1.ImageService/PullImage' });
  const answer = new Promise<Record<string, unknown>>((resolve) => call.once('response', resolve));
  const message = create(PullImageRequestSchema, { image: { image: 'registry.example/app:1' } });
  call.end(framed(toBinary(PullImageRequestSchema, message)));
  const { 'grpc-status': status, 'grpc-message': text } = await answer;
  client.close();
  expect([status, decodeURIComponent(String(text))]).toEqual(['7', `cofa: ${reason}`]);
});
