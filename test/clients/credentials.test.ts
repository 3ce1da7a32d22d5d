/**
 * Private images by way of Kubernetes: the kubelet gives credentials with its pull, cofa finds its own. Neither gets at the
 * other's, and none is written down.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connectContainerd } from '../../src/containerd/client.ts';
import { IMAGE_LABELS } from '../../src/containerd/labels.ts';
import { untilServed } from '../snapshotter/served.ts';
import { type Engine, runCofa, startEngine } from '../support/engine.ts';
import { startFaultRegistry } from '../support/fault-registry.ts';
import { claimEverything, forgeImage } from '../support/private-registry.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { type Containerd, runCommand, startContainerd } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';
import { connectCri, type Cri } from './cri.ts';
import { type ClientImage, diffIdsOf, makeBase, makeClientImage, push } from './images.ts';

const cleanup = new Cleanup();
const account = { user: 'private', password: 'pass-1f0c2a77' };
const auth = { username: account.user, password: account.password };
let work: string;
let registry: RegistryServer;
let image: ClientImage & { ref: string };
let pause: string;
let dockerConfig: string;

beforeAll(async () => {
  work = await cleanup.tempDir('creds');
  registry = await startRegistry({ auth: account });
  cleanup.defer(() => registry.stop());
  const open = await startRegistry();
  cleanup.defer(() => open.stop());
  dockerConfig = join(work, 'docker');
  await mkdir(dockerConfig);
  const secret = Buffer.from(`${account.user}:${account.password}`).toString('base64');
  const config = JSON.stringify({ auths: { [registry.host]: { auth: secret } } });
  await writeFile(join(dockerConfig, 'config.json'), config);
  const base = await makeBase(work);
  const made = await makeClientImage(work, base, 'private', { big: 1, said: 'I am private' });
  const ref = `${registry.host}/private:1`;
  await runCommand(
    'skopeo',
    [
      ['copy', '--quiet', '--dest-tls-verify=false', '--dest-creds', `${account.user}:${account.password}`],
      [`oci:${made.layout.directory}:image`, `docker://${ref}`],
    ].flat(),
  );
  image = { ...made, ref };
  const indexed = await runCofa(['index', '--docker-config', dockerConfig, ref]);
  if (indexed.code !== 0) throw new Error(indexed.stderr);
  const waiting = { Env: ['PATH=/bin'], Cmd: ['/bin/wait'] };
  pause = await push(
    await makeClientImage(work, base, 'pause', { big: 2, said: 'pause', config: waiting }),
    open.host,
    'pause',
  );
}, 120_000);
afterAll(() => cleanup.run());

interface Node {
  engine: Engine;
  containerd: Containerd;
  cri: Cri;
}

async function onNode(args: string[], act: (node: Node) => Promise<void>): Promise<void> {
  const own = new Cleanup();
  try {
    const engine = await startEngine({ workers: 1, args: ['--snapshotter', ...args] });
    own.defer(() => engine.stop());
    (await untilServed(join(engine.root, 'run/snapshotter.sock'))).close();
    const containerd = await startContainerd({
      sandboxImage: pause,
      configure: async (file) => {
        const installed = await engine.cli(['install', 'k8s', '--no-unit', '--containerd-config', file]);
        expect(installed).toMatchObject({ code: 0, stderr: '' });
      },
    });
    own.defer(() => containerd.stop());
    const cri = connectCri(containerd.socket);
    own.defer(() => cri.close());
    await act({ engine, containerd, cri });
    expect(await secretsOf(engine, containerd)).toEqual([]);
  } finally {
    await own.run();
  }
}

/** Where the password is to be found: logs, events, snapshots' labels. */
async function secretsOf(engine: Engine, containerd: Containerd): Promise<string[]> {
  const secret = Buffer.from(`${account.user}:${account.password}`).toString('base64');
  const texts: Array<[string, string]> = readdirSync(join(engine.root, 'log')).map((name) => [
    name,
    readFileSync(join(engine.root, 'log', name), 'utf8'),
  ]);
  texts.push(['events', (await engine.cli(['events', '--json', '--since-start', '--no-follow'])).stdout]);
  texts.push(['status', (await engine.cli(['status', '--json'])).stdout]);
  const list = ['--namespace', 'k8s.io', 'snapshots', '--snapshotter=cofa', 'ls'];
  texts.push(['snapshots', await containerd.ctr(list)]);
  expect(texts.find(([name]) => name === 'events')?.[1]).toContain('snapshot.');
  return texts
    .filter(([, text]) => text.includes(account.password) || text.includes(secret))
    .map(([name]) => name);
}

async function blobs({ containerd }: Node): Promise<number> {
  const there = await containerd.ctr(['--namespace', 'k8s.io', 'content', 'ls', '--quiet']);
  return image.blobs.filter((digest) => there.includes(digest)).length;
}

async function runs({ cri }: Node, name: string): Promise<void> {
  const logs = join(work, name);
  await mkdir(logs);
  const pod = await cri.runPod(name, logs);
  const container = await pod.start('app', image.ref, { command: ['/bin/wait'] });
  expect((await cri.exec(container, 'cat', '/said')).stdout).toBe('I am private\n');
  await pod.stop();
}

test('cofa without credentials: the image is unpacked with the kubelet’s', async () => {
  await onNode([], async (node) => {
    await expect(node.cri.pull(image.ref)).rejects.toThrow();
    await node.cri.pull(image.ref, auth);
    expect(await blobs(node)).toBe(3);
    await runs(node, 'unpacked');
  });
});

test('cofa with credentials: it is lazy, for those alone who may pull it', async () => {
  await onNode(['--docker-config', dockerConfig], async (node) => {
    await node.cri.pull(image.ref, auth);
    expect(await blobs(node)).toBe(0);
    await runs(node, 'lazy');
    // The node has it, and a pod without the right to it still does not get it.
    await node.cri.images.removeImage({ image: { image: image.ref } });
    await expect(node.cri.pull(image.ref)).rejects.toThrow();
    const wrong = { ...auth, password: 'wrong' };
    await expect(node.cri.pull(image.ref, wrong)).rejects.toThrow();
    expect((await node.cri.images.listImages({})).images.map(({ repoTags }) => repoTags)).not.toContainEqual([
      image.ref,
    ]);
  });
});

test('another namespace of containerd gets none of its layers, by their chain or by an image that only names them', async () => {
  const evil = await startFaultRegistry();
  cleanup.defer(() => evil.stop());
  claimEverything(evil);
  const diffIds = await diffIdsOf(image.layout);
  const manifest = forgeImage(
    evil,
    'own',
    diffIds.map((diffId) => ({ diffId })),
  );
  await onNode(['--docker-config', dockerConfig], async (node) => {
    await node.cri.pull(image.ref, auth);
    expect(await blobs(node)).toBe(0);
    const tenant = connectContainerd(node.containerd.socket, 'tenant');
    try {
      for (const [at, named] of [
        {},
        { [IMAGE_LABELS.ref]: `${evil.host}/own:1`, [IMAGE_LABELS.manifest]: manifest },
        { [IMAGE_LABELS.ref]: `${evil.host}/own:1`, [IMAGE_LABELS.manifest]: image.layout.manifest.digest },
      ].entries()) {
        const labels = { 'containerd.io/snapshot.ref': diffIds[0] as string, ...named };
        // containerd takes what the snapshotter has for its own, in any namespace.
        const { mounts } = await tenant.snapshots.prepare({ snapshotter: 'cofa', key: `${at}`, labels });
        expect(mounts.map(({ type }) => type)).toEqual(['bind']);
      }
    } finally {
      tenant.close();
    }
  });
});
