import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { RegistryClient } from '../../src/registry/client.ts';
import { digestOf } from '../../src/digest/digest.ts';
import { MEDIA_TYPES } from '../../src/registry/manifest.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { type FaultRegistry, startFaultRegistry } from '../support/fault-registry.ts';
import { pushImage, sampleImage } from './sample-image.ts';

const IMAGE = sampleImage([100]);
const TAG = IMAGE.digest.replace(':', '-');
const TYPE = 'application/vnd.example.note';

let registry: FaultRegistry;
let client: RegistryClient;

const source = () => ({ registry: registry.host, repository: 'team/app' });
const referrers = (type?: string) => client.referrers(source(), IMAGE.digest, type);

/** An artifact that refers to the image; `note` makes its digest its own. */
function artifact(note: string, artifactType = TYPE): Buffer {
  return Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.ociManifest,
      artifactType,
      config: { mediaType: MEDIA_TYPES.ociEmpty, digest: digestOf(Buffer.from('{}')), size: 2 },
      layers: [],
      subject: { mediaType: IMAGE.manifestType, digest: IMAGE.digest, size: IMAGE.manifest.length },
      annotations: { note },
    }),
  );
}
const push = (bytes: Buffer, replaces?: (entry: { annotations?: Record<string, string> }) => boolean) =>
  client.pushManifest(
    source(),
    bytes,
    MEDIA_TYPES.ociManifest,
    undefined,
    replaces === undefined ? {} : { replaces },
  );
const fallback = () => JSON.parse(registry.manifests.get(`team/app:${TAG}`)!.bytes.toString());

async function start(page?: number): Promise<void> {
  registry = await startFaultRegistry(page === undefined ? {} : { referrersPage: page });
  client = new RegistryClient({
    environment: {},
    dockerConfig: '/nonexistent',
    ambient: { now: () => 0, sleep: async () => {}, random: () => 0 },
  });
}

afterEach(async () => {
  await client.close();
  await registry.stop();
});

describe('a registry with the referrers API', () => {
  beforeEach(() => start(3));

  test('lists them over several pages, of one type where asked', async () => {
    for (let i = 0; i < 8; i++) await push(artifact(String(i), i % 2 === 0 ? TYPE : 'application/other'));
    expect((await referrers()).map(({ annotations }) => annotations?.['note'])).toEqual([
      '0',
      '1',
      '2',
      '3',
      '4',
      '5',
      '6',
      '7',
    ]);
    expect((await referrers(TYPE)).map(({ annotations }) => annotations?.['note'])).toEqual([
      '0',
      '2',
      '4',
      '6',
    ]);
    expect(registry.requests.at(-1)?.url).toContain('from=3');
  });

  test('keeps the list itself: nothing is written under the fallback tag', async () => {
    await push(artifact('a'));
    expect([...registry.manifests.keys()].filter((key) => key.includes(TAG))).toEqual([]);
  });

  test('a registry that does not filter is filtered for', async () => {
    await push(artifact('a'));
    await push(artifact('b', 'application/other'));
    registry.fault = (call) => {
      call.query.delete('artifactType');
      return 'pass';
    };
    expect((await referrers(TYPE)).map(({ annotations }) => annotations?.['note'])).toEqual(['a']);
  });

  test('nothing refers to it: an empty list', async () => {
    expect(await referrers()).toEqual([]);
  });

  test('pages without end are given up', async () => {
    await push(artifact('a'));
    registry.fault = ({ response, path }) => {
      if (!path.includes('/referrers/')) return 'pass';
      response.writeHead(200, {
        'content-type': MEDIA_TYPES.ociIndex,
        link: `<${path}?again>; rel="next"`,
      });
      response.end(JSON.stringify({ schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests: [] }));
      return 'handled';
    };
    await expect(referrers()).rejects.toMatchObject({ code: 'unsupported' });
    expect(registry.requests.length).toBeLessThan(100);
  });

  test('a next page on another host is refused', async () => {
    registry.fault = ({ response }) => {
      response.writeHead(200, {
        'content-type': MEDIA_TYPES.ociIndex,
        link: '<http://127.0.0.2:1/x>; rel=next',
      });
      response.end(JSON.stringify({ schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests: [] }));
      return 'handled';
    };
    await expect(referrers()).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringContaining('127.0.0.2'),
    });
  });
});

describe('a registry without it: the fallback tag', () => {
  beforeEach(() => start());

  test('is an index that names the artifact with its type and annotations', async () => {
    const { digest, size } = await push(artifact('a'));
    expect(fallback()).toEqual({
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.ociIndex,
      manifests: [
        { mediaType: MEDIA_TYPES.ociManifest, digest, size, artifactType: TYPE, annotations: { note: 'a' } },
      ],
    });
    expect((await referrers(TYPE)).map((entry) => entry.digest)).toEqual([digest]);
    expect(await referrers('application/other')).toEqual([]);
  });

  test('no tag: an empty list', async () => {
    expect(await referrers()).toEqual([]);
  });

  test.each([400, 403, 405, 501])('%d from the API means that there is none', async (status) => {
    await push(artifact('a'));
    registry.fault = ({ response, path }) => {
      if (!path.includes('/referrers/')) return 'pass';
      response.writeHead(status).end();
      return 'handled';
    };
    expect(await referrers()).toHaveLength(1);
  });

  test('a web page instead of the API means that there is none', async () => {
    await push(artifact('a'));
    registry.fault = ({ response, path }) => {
      if (!path.includes('/referrers/')) return 'pass';
      response.writeHead(200, { 'content-type': 'text/html' }).end('<html>welcome</html>');
      return 'handled';
    };
    expect(await referrers()).toHaveLength(1);
  });

  test('the same artifact twice is one entry, and the second push writes no list', async () => {
    await push(artifact('a'));
    await push(artifact('a'));
    expect(fallback().manifests).toHaveLength(1);
    expect(registry.requests.filter(({ method, url }) => method === 'PUT' && url.endsWith(TAG))).toHaveLength(
      1,
    );
  });

  test('entries of others stay as they are, with what cofa does not know', async () => {
    const foreign = {
      mediaType: MEDIA_TYPES.ociManifest,
      digest: `sha256:${'1'.repeat(64)}`,
      size: 5,
      artifactType: 'application/signature',
      urls: ['https://example.org'],
      platform: { os: 'linux', architecture: 'amd64', 'os.features': ['x'] },
    };
    const list = {
      schemaVersion: 2,
      mediaType: MEDIA_TYPES.ociIndex,
      manifests: [foreign],
      annotations: { by: 'them' },
    };
    registry.addManifest('team/app', Buffer.from(JSON.stringify(list)), MEDIA_TYPES.ociIndex, TAG);
    await push(artifact('a'));
    await push(artifact('b'), (entry) => entry.annotations?.['note'] === 'a');
    expect(fallback()).toMatchObject({ annotations: { by: 'them' } });
    expect(fallback().manifests).toHaveLength(2);
    expect(fallback().manifests[0]).toEqual(foreign);
    expect(fallback().manifests[1].annotations).toEqual({ note: 'b' });
  });

  test('an entry that another client overwrites at the same moment is written again', async () => {
    let lost = 0;
    registry.fault = ({ method, path, body }) => {
      if (method !== 'PUT' || !path.endsWith(TAG) || lost === 2) return 'pass';
      lost++;
      // The other client had read the list before.
      body.fill(Buffer.from(' '));
      const other = {
        mediaType: MEDIA_TYPES.ociManifest,
        digest: `sha256:${String(lost).repeat(64)}`,
        size: 1,
      };
      body.write(JSON.stringify({ schemaVersion: 2, mediaType: MEDIA_TYPES.ociIndex, manifests: [other] }));
      return 'pass';
    };
    await push(artifact('a'));
    expect(lost).toBe(2);
    expect(fallback().manifests.map((entry: { digest: string }) => entry.digest)).toContain(
      digestOf(artifact('a')),
    );
  });

  test('a list that is always overwritten is an error in the end', async () => {
    registry.fault = ({ method, path, response }) => {
      if (method !== 'PUT' || !path.endsWith(TAG)) return 'pass';
      response.writeHead(201).end();
      return 'handled';
    };
    await expect(push(artifact('a'))).rejects.toMatchObject({ code: 'busy' });
  });

  test('an image under the fallback tag is not touched', async () => {
    registry.addManifest('team/app', IMAGE.manifest, IMAGE.manifestType, TAG);
    await expect(push(artifact('a'))).rejects.toMatchObject({ code: 'conflict' });
    expect(registry.manifests.get(`team/app:${TAG}`)?.bytes.equals(IMAGE.manifest)).toBe(true);
  });
});

describe('referrers that are asked for ahead', () => {
  test('come with the image in one question, for all types, and a push of ours is seen', async () => {
    await start(5);
    await pushImage(client, source(), sampleImage([100]), 'v1');
    const reference = parseReference(`${registry.host}/team/app:v1`);
    const listed = () => registry.requests.filter(({ url }) => url.includes('/referrers/')).length;
    const image = await client.resolve(reference, { referrers: true });
    const of = (type?: string) => client.referrers(source(), image.descriptor.digest, type);
    expect(await of(TYPE)).toEqual([]);
    expect(await of()).toEqual([]);
    expect(listed()).toBe(1);
    const note = JSON.parse(artifact('new').toString());
    const { mediaType, digest, size } = image.descriptor;
    await push(Buffer.from(JSON.stringify({ ...note, subject: { mediaType, digest, size } })));
    expect(await of(TYPE)).toHaveLength(1);
    expect(await of('application/other')).toEqual([]);
  });

  test('that could not be had are asked for again', async () => {
    await start(5);
    await pushImage(client, source(), sampleImage([100]), 'v1');
    let failures = 0;
    registry.fault = ({ path, response }) => {
      if (!path.includes('/referrers/') || failures++ >= 20) return 'pass';
      response.writeHead(500).end();
      return 'handled';
    };
    const image = await client.resolve(parseReference(`${registry.host}/team/app:v1`), { referrers: true });
    await client.referrers(source(), image.descriptor.digest).catch(() => {});
    failures = 20;
    expect(await client.referrers(source(), image.descriptor.digest)).toEqual([]);
  });
});
