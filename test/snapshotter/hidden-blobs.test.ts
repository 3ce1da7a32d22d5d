/** Layers that stay in the registry, in containerd's content store, before and after `cofa uninstall`. containerd is a stand-in. */
import { lstatSync, mkdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Code, ConnectError, createClient, createRouterTransport } from '@connectrpc/connect';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { hexOf } from '../../schemas/digest.ts';
import type { ContainerdClient } from '../../src/containerd/client.ts';
import {
  Content,
  WriteAction,
} from '../../src/containerd/generated/containerd/services/content/v1/content_pb.ts';
import { Events } from '../../src/containerd/generated/containerd/services/events/v1/events_pb.ts';
import { Images } from '../../src/containerd/generated/containerd/services/images/v1/images_pb.ts';
import { Introspection } from '../../src/containerd/generated/containerd/services/introspection/v1/introspection_pb.ts';
import { Leases } from '../../src/containerd/generated/containerd/services/leases/v1/leases_pb.ts';
import { Snapshots } from '../../src/containerd/generated/containerd/services/snapshots/v1/snapshots_pb.ts';
import { IMAGE_LABELS } from '../../src/containerd/labels.ts';
import { forgetLazy, LAZY_LABEL } from '../../src/containerd/lazy-content.ts';
import { LazyBlobs } from '../../src/snapshotter/lazy-blobs.ts';
import { hiddenIn, hideBlobs, showBlobs } from '../../src/store/hidden-blobs.ts';
import { sampleImage } from '../registry/sample-image.ts';
import { Cleanup } from '../support/temp.ts';

const REF = 'registry.example:5000/team/app:1';
const IMAGE = sampleImage([100, 200]);
const LAYERS = IMAGE.layers.map(({ descriptor }) => descriptor.digest);

const cleanup = new Cleanup();
let folder: string;
let containerd: Containerd;
let hidden: Set<string>;
beforeEach(async () => {
  folder = await cleanup.tempDir('hidden');
  mkdirSync(join(folder, 'blobs/sha256'), { recursive: true });
  containerd = new Containerd(folder);
  hidden = new Set();
});
afterEach(() => cleanup.run());

interface Entry {
  size: bigint;
  labels: Record<string, string>;
  bytes?: Buffer;
}

/** One that has pulled IMAGE without its layers. */
class Containerd {
  readonly entries = new Map<string, Entry>();
  readonly client: ContainerdClient;
  /** How often its content was listed. */
  lists = 0;
  #named = Promise.withResolvers<void>();

  constructor(root: string) {
    for (const bytes of [IMAGE.manifest, IMAGE.config]) {
      const digest = bytes === IMAGE.manifest ? IMAGE.digest : configDigest();
      this.entries.set(digest, { size: BigInt(bytes.length), labels: {}, bytes });
    }
    const { entries } = this;
    const infoOf = (digest: string) => {
      const entry = entries.get(digest);
      if (entry === undefined) throw new ConnectError('none', Code.NotFound);
      return { digest, size: entry.size, labels: entry.labels };
    };
    const transport = createRouterTransport(({ service }) => {
      service(Content, {
        list: async function* (this: void) {
          listed();
          yield { info: [...entries.keys()].map(infoOf) };
        },
        info: ({ digest }) => ({ info: infoOf(digest) }),
        read: async function* ({ digest }) {
          yield { offset: 0n, data: entries.get(digest)?.bytes ?? Buffer.alloc(0) };
        },
        write: async function* (requests) {
          for await (const { expected, total, labels } of requests) {
            entries.set(expected, { size: total, labels });
            yield { action: WriteAction.COMMIT, digest: expected, total };
          }
        },
        delete: ({ digest }) => {
          entries.delete(digest);
          return {};
        },
      });
      service(Images, { list: () => ({ images: [{ name: REF, target: { digest: IMAGE.digest } }] }) });
      service(Introspection, { plugins: () => ({ plugins: [{ id: 'content', exports: { root } }] }) });
      service(Events, { subscribe: () => names() });
    });
    const listed = () => void (this.lists += 1);
    const names = async function* (this: Containerd) {
      for (;;) {
        await this.#named.promise;
        this.#named = Promise.withResolvers();
        yield { namespace: 'moby', topic: '/images/create' };
      }
    }.bind(this);
    this.client = {
      content: createClient(Content, transport),
      events: createClient(Events, transport),
      images: createClient(Images, transport),
      introspection: createClient(Introspection, transport),
      leases: createClient(Leases, transport),
      snapshots: createClient(Snapshots, transport),
      useLease: () => {},
      close: () => {},
    };
  }

  /** An image gets a name: a snapshotter looks which entries are missing. */
  name(): void {
    this.#named.resolve();
  }

  get lazy(): string[] {
    return [...this.entries].filter(([, { labels }]) => LAZY_LABEL in labels).map(([digest]) => digest);
  }
}

const configDigest = (): string =>
  (JSON.parse(IMAGE.manifest.toString()) as { config: { digest: string } }).config.digest;

function startSnapshotter(): LazyBlobs {
  const blobs = new LazyBlobs({
    containerd: 'stand-in',
    namespaces: ['moby'],
    hidden: () => hidden,
    files: {
      add: async () => true,
      remove: async () => {},
      digests: () => [],
      pathOf: (digest) => join(folder, 'files', hexOf(digest)),
      settled: async () => {},
    },
    isFlat: () => true,
    connect: () => containerd.client,
    log: pino({ level: 'silent' }),
  });
  cleanup.defer(() => blobs.close());
  return blobs;
}

/** As containerd asks when it pulls, for the uppermost layer. */
const pull = (blobs: LazyBlobs): Promise<void> =>
  blobs.show({
    key: 'moby/1/layer',
    labels: {
      [IMAGE_LABELS.ref]: REF,
      [IMAGE_LABELS.manifest]: IMAGE.digest,
      [IMAGE_LABELS.layer]: LAYERS.at(-1) as string,
      [IMAGE_LABELS.layers]: LAYERS.at(-1) as string,
    },
  });

describe('entries of layers that stay in the registry', () => {
  test('are not made again by a snapshotter that runs on after cofa uninstall, nor by pulls', async () => {
    const blobs = startSnapshotter();
    await expect.poll(() => containerd.lazy).toEqual(LAYERS);
    hidden.add('moby');
    expect(await forgetLazy(containerd.client)).toBe(2);
    const before = containerd.lists;
    containerd.name();
    await expect.poll(() => containerd.lists).toBeGreaterThan(before);
    await pull(blobs);
    await blobs.close();
    expect(containerd.lazy).toEqual([]);
  });

  test('that cofa uninstall could not take out are taken out by the snapshotter', async () => {
    const first = startSnapshotter();
    await expect.poll(() => containerd.lazy).toEqual(LAYERS);
    await first.close();
    hidden.add('moby');
    startSnapshotter();
    await expect.poll(() => containerd.lazy).toEqual([]);
    // The links after the entries.
    const link = (digest: string) =>
      lstatSync(join(folder, 'blobs/sha256', hexOf(digest)), { throwIfNoEntry: false });
    for (const digest of LAYERS) await expect.poll(() => link(digest)).toBeUndefined();
    expect([...containerd.entries.keys()]).toEqual([IMAGE.digest, configDigest()]);
  });

  test('of another namespace stay, and come again after cofa install', async () => {
    hidden.add('default');
    const blobs = startSnapshotter();
    await pull(blobs);
    expect(containerd.lazy).toEqual(LAYERS);
    hidden.add('moby');
    await forgetLazy(containerd.client);
    hidden.delete('moby');
    containerd.name();
    await expect.poll(() => containerd.lazy).toEqual(LAYERS);
  });
});

test('the namespaces are kept in a file, which is deleted with the last of them', async () => {
  const file = join(folder, 'hidden-blobs');
  expect(hiddenIn(file)).toEqual(new Set());
  await showBlobs(file, ['moby']);
  await hideBlobs(file, ['moby']);
  await hideBlobs(file, ['moby', 'default', 'k8s.io']);
  expect(await readFile(file, 'utf8')).toBe('moby\ndefault\nk8s.io\n');
  await showBlobs(file, ['default', 'k8s.io']);
  expect(hiddenIn(file)).toEqual(new Set(['moby']));
  await showBlobs(file, ['moby']);
  await expect(readFile(file)).rejects.toThrow('ENOENT');
});
