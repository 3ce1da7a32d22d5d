/**
 * Private images whose credentials come with the pull of a kubelet, or from its credential providers: cofa has none of its own.
 * A real containerd; the registry has a token service, tokens that expire soon, and passwords that change while containers read.
 */
import { chmodSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Code } from '@connectrpc/connect';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { untilServed } from '../snapshotter/served.ts';
import { refused } from '../snapshotter/test-bed.ts';
import { type Engine, eventually, startEngine } from '../support/engine.ts';
import { type FaultRegistry, startFaultRegistry } from '../support/fault-registry.ts';
import { type Containerd, runCommand, startContainerd } from '../support/services.ts';
import { startServiceManager } from '../support/service-manager.ts';
import { claimEverything, forgeImage } from '../support/private-registry.ts';
import { Cleanup } from '../support/temp.ts';
import { connectCri, type Cri } from './cri.ts';
import { type ClientImage, diffIdsOf, index, makeBase, makeClientImage, push } from './images.ts';

const cleanup = new Cleanup();
/** A token is good for so long, ms; its service does not say so. */
const TOKEN_MS = 700;
let work: string;
let registry: FaultRegistry;
let tokens: FaultRegistry;
let images: Array<ClientImage & { ref: string }>;
let pause: string;
/** What the token service takes at the moment. */
let passwords: Set<string>;
/** Tokens, with the password that each was had for, and until when it is good. */
const issued = new Map<string, { password: string; until: number }>();
/** Of blobs that are given for certain passwords only. */
const reserved = new Map<string, string>();

const auth = (password: string) => ({ username: 'robot', password });
const basic = (password: string) => `Basic ${Buffer.from(`robot:${password}`).toString('base64')}`;

beforeAll(async () => {
  work = await cleanup.tempDir('imgsvc');
  registry = await startFaultRegistry();
  tokens = await startFaultRegistry();
  const open = await startFaultRegistry();
  for (const one of [registry, tokens, open]) cleanup.defer(() => one.stop());
  const base = await makeBase(work);
  images = [];
  for (const [name, big] of [
    ['first', 1],
    ['second', 2],
    ['third', 4],
  ] as const) {
    const made = await makeClientImage(work, base, name, { big, said: `I am ${name}` });
    const image = { ...made, ref: await push(made, registry.host, `team/${name}`) };
    await index(image.ref);
    images.push(image);
  }
  const waiting = { Env: ['PATH=/bin'], Cmd: ['/bin/wait'] };
  pause = await push(
    await makeClientImage(work, base, 'pause', { big: 3, said: 'pause', config: waiting }),
    open.host,
    'pause',
  );
  tokens.fault = ({ request, response }) => {
    const password = [...passwords].find((one) => request.headers.authorization === basic(one));
    if (password === undefined) {
      response.writeHead(401).end('{"details":"incorrect username or password"}');
      return 'handled';
    }
    const token = `token-${issued.size}`;
    issued.set(token, { password, until: performance.now() + TOKEN_MS });
    response.end(JSON.stringify({ token }));
    return 'handled';
  };
  registry.fault = ({ request, response, path }) => {
    const token = issued.get(/^Bearer (.+)$/.exec(request.headers.authorization ?? '')?.[1] ?? '');
    const wanted = reserved.get(path.split('/').at(-1) ?? '');
    const isGood = token !== undefined && token.until > performance.now() && passwords.has(token.password);
    if (isGood && (wanted === undefined || wanted === token.password)) return 'pass';
    const repository = /^\/v2\/(.+)\/(?:blobs|manifests|referrers)\//.exec(path)?.[1];
    const scope = repository === undefined ? '' : `,scope="repository:${repository}:pull"`;
    response.writeHead(401, {
      'www-authenticate': `Bearer realm="${tokens.origin}/token",service="test"${scope}`,
    });
    response.end('{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}');
    return 'handled';
  };
}, 120_000);
afterAll(() => cleanup.run());

const own = new Cleanup();
beforeEach(() => {
  passwords = new Set();
  reserved.clear();
});
afterEach(() => own.run());

interface Node {
  engine: Engine;
  containerd: Containerd;
  /** Through cofa, as a kubelet has it. */
  cri: Cri;
  /** Ends the engine as a crash does, and starts another one. */
  crash(): Promise<void>;
}

/** `through`: of a service manager. */
async function startNode(more: string[] = [], through: string[] = []): Promise<Node> {
  const directory = await own.tempDir('ctrd');
  const args = ['--snapshotter', '--image-service', '--containerd', join(directory, 'c.sock'), ...more];
  const root = await own.tempDir('engine');
  const options = { root, workers: 1, args, through, env: { DOCKER_CONFIG: join(work, 'none') } };
  const engine = await startEngine(options);
  const node = { engine } as Node;
  own.defer(() => node.engine.stop());
  (await untilServed(join(root, 'run/snapshotter.sock'))).close();
  node.containerd = await startContainerd({
    directory,
    sandboxImage: pause,
    configure: async (file) => {
      const installed = await engine.cli(['install', 'k8s', '--no-unit', '--containerd-config', file]);
      expect(installed).toMatchObject({ code: 0, stderr: '' });
    },
  });
  own.defer(() => node.containerd.stop());
  node.cri = connectCri(join(root, 'run/image-service.sock'));
  own.defer(() => node.cri.close());
  await eventually('CRI', async () => (await node.cri.runtime.version({})).runtimeVersion !== '');
  node.crash = async () => {
    const before = node.engine;
    for (const pid of Object.values(await before.pids())) process.kill(pid, 'SIGKILL');
    await before.ended;
    node.engine = await startEngine(options);
    await eventually('CRI', async () => (await node.cri.runtime.version({})).runtimeVersion !== '');
  };
  return node;
}

async function blobs({ containerd }: Node, image: ClientImage): Promise<string[]> {
  const there = await containerd.ctr(['--namespace', 'k8s.io', 'content', 'ls', '--quiet']);
  return image.blobs.filter((digest) => there.includes(digest));
}

async function startContainer({ cri }: Node, name: string, ref: string): Promise<string> {
  const logs = await own.tempDir('logs');
  const pod = await cri.runPod(name, logs);
  own.defer(() => pod.stop());
  return await pod.start('app', ref, { command: ['/bin/wait'] });
}

/** Files of the engine and of containerd, and what the engine says, that have one of these texts. */
async function traces({ engine, containerd }: Node, texts: readonly string[]): Promise<string[]> {
  const found: string[] = [];
  const look = (name: string, bytes: Buffer | string) => {
    const all = Buffer.from(bytes);
    if (
      texts.some(
        (text) => all.includes(text) || all.includes(Buffer.from(`robot:${text}`).toString('base64')),
      )
    )
      found.push(name);
  };
  const walk = (folder: string) => {
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      const path = join(folder, entry.name);
      // What is mounted below is the image's.
      if (entry.isDirectory() && !['devices', 'flats'].includes(entry.name)) walk(path);
      else if (entry.isFile()) look(path, readFileSync(path));
    }
  };
  walk(engine.root);
  for (const args of [
    ['events', '--json', '--since-start', '--no-follow'],
    ['status', '--json'],
  ])
    look(args[0] as string, (await engine.cli(args)).stdout);
  const file = join(work, 'events.export');
  expect((await engine.cli(['events', 'export', '--force', file])).code).toBe(0);
  look('events export', readFileSync(file));
  const list = ['--namespace', 'k8s.io', 'snapshots', '--snapshotter=cofa', 'ls'];
  // After a crash containerd waits a moment before it tries the snapshotter's socket again.
  look('snapshots', await eventually('snapshots', () => containerd.ctr(list)));
  look("containerd's log", containerd.log());
  return found;
}

test('the credentials of a pull are used for its image while they are good, and written nowhere', async () => {
  const [first, second] = images as [ClientImage & { ref: string }, ClientImage & { ref: string }];
  passwords = new Set(['old-5b1d09']);
  const node = await startNode();
  for (const name of ['image-service', 'snapshotter', 'credentials', 'supervisor']) {
    expect(statSync(join(node.engine.root, `run/${name}.sock`)).mode & 0o777).toBe(0o600);
  }
  // The second layer is for who has the password to come.
  reserved.set(first.blobs[1] as string, 'new-77aa31');

  await refused(node.cri.images.pullImage({ image: { image: first.ref } }), Code.Unknown);
  await refused(
    node.cri.images.pullImage({ image: { image: first.ref }, auth: auth('wrong') }),
    Code.Unknown,
  );
  const id = await node.cri.pull(first.ref, auth('old-5b1d09'));
  expect(await blobs(node, first)).toEqual([]);
  const { images: listed } = await node.cri.images.listImages({});
  expect(listed.find((one) => one.id === id)?.repoTags).toEqual([first.ref]);

  const container = await startContainer(node, 'private', first.ref);
  expect((await node.cri.exec(container, 'cat', '/said')).stdout).toBe('I am first\n');

  // Another repository is not read with them: its pull brings nothing, or what is wrong.
  await refused(node.cri.images.pullImage({ image: { image: second.ref } }), Code.Unknown);
  expect((await node.engine.cli(['inspect', second.ref])).code).toBe(4);
  const mounted = await node.engine.cli(['mount', second.ref, join(work, 'second')]);
  expect(mounted.code).toBe(4);
  const forSecond = tokens.requests.filter(({ url }) => decodeURIComponent(url).includes('team/second'));
  expect(forSecond.length).toBeGreaterThan(0);
  expect(forSecond.filter(({ headers }) => headers.authorization === basic('old-5b1d09'))).toEqual([]);

  // A container reads while the password is changed; the next pull, of whatever pod, brings the new one.
  passwords = new Set(['new-77aa31']);
  const reading = node.cri.exec(container, 'sh', '-c', 'cat /data/big > /copy && cmp /data/big /copy');
  await node.cri.pull(first.ref, auth('new-77aa31'));
  expect((await reading).code).toBe(0);
  expect(await blobs(node, first)).toEqual([]);
  expect(await traces(node, ['old-5b1d09', 'new-77aa31', ...issued.keys()])).toEqual([]);
}, 120_000);

test('a pod gets no private image by one of a stranger that only names its layers, or its manifest', async () => {
  const [first] = images as [ClientImage & { ref: string }];
  passwords = new Set(['of-first-90ab']);
  const node = await startNode();
  await node.cri.pull(first.ref, auth('of-first-90ab'));
  const stranger = await startFaultRegistry();
  own.defer(() => stranger.stop());
  const { digest, size } = first.layout.manifest;
  claimEverything(stranger, { [digest]: size });
  const diffIds = await diffIdsOf(first.layout);
  forgeImage(
    stranger,
    'own',
    diffIds.map((diffId) => ({ diffId })),
  );
  for (const image of [`${stranger.host}/own:1`, `${stranger.host}/own@${digest}`]) {
    await refused(node.cri.images.pullImage({ image: { image } }), Code.PermissionDenied);
    await eventually('it is not in containerd', async () => {
      const { image: known } = await node.cri.images.imageStatus({ image: { image } });
      return known === undefined;
    });
  }
  // The image itself is as it was, and pulled again for the price of a question.
  const container = await startContainer(node, 'kept', first.ref);
  expect((await node.cri.exec(container, 'cat', '/said')).stdout).toBe('I am first\n');
  await node.cri.pull(first.ref, auth('of-first-90ab'));
  expect(await blobs(node, first)).toEqual([]);
}, 120_000);

test('whatever else a client of containerd calls passes through, streams and errors too', async () => {
  const node = await startNode();
  // ctr(8) is written in Go, as the kubelet is.
  const ctr = (...args: string[]) => {
    const socket = join(node.engine.root, 'run/image-service.sock');
    return runCommand('ctr', ['--address', socket, '--namespace', 'through', ...args], { timeoutMs: 60_000 });
  };
  await ctr('images', 'pull', '--plain-http', '--snapshotter', 'native', pause);
  expect(await ctr('images', 'ls', '--quiet')).toBe(`${pause}\n`);
  const direct = await node.containerd.ctr(['--namespace', 'through', 'content', 'ls', '--quiet']);
  expect(await ctr('content', 'ls', '--quiet')).toBe(direct);
  expect(await ctr('content', 'ls')).toContain('containerd.io/uncompressed');
  const [blob = ''] = /sha256:\w+/.exec(direct) ?? [];
  const { length } = await ctr('content', 'get', blob);
  expect(length).toBeGreaterThan(0);
  await expect(ctr('content', 'get', `sha256:${'0'.repeat(64)}`)).rejects.toThrow('not found');
  // Many at once, on one connection each and on one together.
  const many = await Promise.all(Array.from({ length: 200 }, () => node.cri.runtime.version({})));
  expect(new Set(many.map(({ runtimeVersion }) => runtimeVersion)).size).toBe(1);
  await node.containerd.stop();
  await refused(node.cri.runtime.version({}), Code.Unavailable);
}, 120_000);

test('where the engine is a service they outlive every process of it', async () => {
  const [, second] = images as [unknown, ClientImage & { ref: string }];
  passwords = new Set(['lasting-3f2e']);
  const { start } = await startServiceManager(own);
  const node = await startNode([], start);
  reserved.set(second.blobs[1] as string, 'not yet');
  await node.cri.pull(second.ref, auth('lasting-3f2e'));
  const container = await startContainer(node, 'crash', second.ref);
  // A container whose programs are not here reads errors while there is no engine.
  await eventually('all but the layer that no account may read', async () => {
    const image = (await node.engine.status()).images.find(({ ref }) => ref.includes('second'));
    return image?.layers.filter(({ state }) => state === 'handed-over').length === 2;
  });
  await node.crash();
  reserved.clear();
  expect((await node.cri.exec(container, 'sh', '-c', 'cmp /data/big /data/big; cat /said')).stdout).toBe(
    'I am second\n',
  );
  expect(await traces(node, ['lasting-3f2e', ...issued.keys()])).toEqual([]);
}, 120_000);

test('a credential provider is asked again when the registry refuses what it gave', async () => {
  const [, , third] = images as [unknown, unknown, ClientImage & { ref: string }];
  const programs = join(work, 'providers');
  await mkdir(programs);
  const password = join(work, 'password');
  const asked = join(work, 'asked');
  const answer = `{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","cacheDuration":"12h","auth":{"127.0.0.1:${registry.port}/team":{"username":"robot","password":"'$(cat ${password})'"}}}`;
  writeFileSync(join(programs, 'cloud'), `#!/bin/sh\ncat >> ${asked}\necho '${answer}'\n`);
  chmodSync(join(programs, 'cloud'), 0o755);
  const config = join(work, 'providers.yaml');
  writeFileSync(
    config,
    `apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  - name: cloud
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    matchImages:
    - "127.0.0.1:${registry.port}"   # all of it
    defaultCacheDuration: 10m
`,
  );
  passwords = new Set(['cloud-1-c0ffee']);
  writeFileSync(password, 'cloud-1-c0ffee');
  reserved.set(third.blobs[1] as string, 'cloud-2-decaf');
  const node = await startNode(
    [
      ['--image-credential-provider-config', config],
      ['--image-credential-provider-bin-dir', programs],
    ].flat(),
  );
  // The kubelet has its own way to the provider; an image that is there is not pulled again by it.
  await node.cri.pull(third.ref, auth('cloud-1-c0ffee'));
  expect(await blobs(node, third)).toEqual([]);
  const container = await startContainer(node, 'cloud', third.ref);
  // Where a pull's are lost, as with a reboot, the provider's are left; and these have changed.
  passwords = new Set(['cloud-2-decaf']);
  writeFileSync(password, 'cloud-2-decaf');
  const big = await node.cri.exec(container, 'sh', '-c', 'cat /data/big > /copy && cmp /data/big /copy');
  expect(big.code).toBe(0);
  expect(readFileSync(asked, 'utf8')).toContain(`"image":"127.0.0.1:${registry.port}/team/third"`);
  expect(await traces(node, ['cloud-1-c0ffee', 'cloud-2-decaf'])).toEqual([]);
}, 120_000);
