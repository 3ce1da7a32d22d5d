/** What reaches the snapshotter from outside: requests of PullImage, and the labels of a layer that is asked for. */
import { create, toBinary } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { pino } from 'pino';
import { PullImageRequestSchema } from '../../src/containerd/generated/runtime/v1/cri_pb.ts';
import { IMAGE_LABELS } from '../../src/containerd/labels.ts';
import { ChainRequest } from '../../schemas/api.ts';
import { CofaError } from '../../schemas/errors.ts';
import { ImageDoor } from '../../src/snapshotter/image-door.ts';
import { offerOf } from '../../src/snapshotter/image-service.ts';

const framed = (message: Uint8Array): Buffer => {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
};

test('the credentials of a pull are offered to the registry of its image, or to none', () => {
  const host = fc.constantFrom('a.example', 'b.example:5000', 'docker.io', 'index.docker.io', '127.0.0.1:1');
  const secret = fc.string({ unit: 'binary', maxLength: 40 });
  const server = fc.oneof(
    host,
    fc.constant(''),
    host.map((name) => `https://${name}/v1/`),
    secret,
  );
  fc.assert(
    fc.property(host, server, secret, secret, secret, (registry, serverAddress, username, password, auth) => {
      const request = {
        image: { image: `${registry}/team/app:1` },
        auth: { username, password, auth, serverAddress },
      };
      const body = framed(toBinary(PullImageRequestSchema, create(PullImageRequestSchema, request)));
      const offer = offerOf(body);
      if (offer === undefined) return;
      const own = registry.endsWith('docker.io') ? 'registry-1.docker.io' : registry;
      expect([offer.registry, offer.repository]).toEqual([own, 'team/app']);
      const named = serverAddress.replace(/^https?:\/\//, '').split('/')[0];
      const isHub = (name: string | undefined) => name === undefined || name.endsWith('docker.io');
      expect(named === '' || named === registry || (isHub(named) && isHub(registry))).toBe(true);
      if (username !== '') expect(offer.credentials).toEqual({ username, password });
    }),
    { numRuns: 300 },
  );
});

test('bytes that are no request of PullImage are passed over or refused, and nothing else happens', () => {
  const bytes = fc.uint8Array({ maxLength: 300 });
  fc.assert(
    fc.property(bytes, fc.boolean(), (message, isFramed) => {
      try {
        const offer = offerOf(isFramed ? framed(message) : Buffer.from(message));
        if (offer !== undefined) expect(offer.registry.length).toBeGreaterThan(0);
      } catch (error) {
        expect(error).toBeInstanceOf(Error);
      }
    }),
    { numRuns: 500 },
  );
});

test('whatever labels a layer has, the engine is asked what its API takes, or nothing', async () => {
  const asked: unknown[] = [];
  const door = new ImageDoor({
    call: async (operation, request) => {
      asked.push([operation, request]);
      throw new CofaError('not-found', 'none');
    },
    prepare: 'containerd',
    folder: '/nowhere',
    log: pino({ level: 'silent' }),
  });
  const digest = fc.stringMatching(/^sha256:[0-9a-f]{64}$/);
  const text = fc.oneof(digest, fc.string({ unit: 'binary', maxLength: 300 }));
  await fc.assert(
    fc.asyncProperty(text, fc.option(text), fc.option(text), async (target, ref, manifest) => {
      asked.length = 0;
      const labels: Record<string, string> = {};
      if (ref !== null) labels[IMAGE_LABELS.ref] = ref;
      if (manifest !== null) labels[IMAGE_LABELS.manifest] = manifest;
      expect(await door.cover({ target, labels, trace: undefined })).toBeUndefined();
      for (const [, request] of asked as Array<[string, { chain: string; manifest?: string }]>) {
        expect(ChainRequest.shape.chain.safeParse(request.chain).success).toBe(true);
        expect(ChainRequest.shape.manifest.safeParse(request.manifest).success).toBe(true);
      }
    }),
    { numRuns: 300 },
  );
});
