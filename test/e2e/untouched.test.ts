/** Whatever cofa does with an image, other people's tools see the same image before and after. */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { realImage } from '../../ops/images/debian.ts';
import { type ImageLayout, layoutLayers, pushLayout } from '../../ops/images/layout.ts';
import {
  type Containerd,
  type Dockerd,
  runCommand,
  startContainerd,
  startDockerd,
} from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';
import { type Engine, startEngine, startWatchedRegistry, type WatchedRegistry } from './engine.ts';

const cleanup = new Cleanup();
let directory: string;
let registry: WatchedRegistry;
let containerd: Containerd;
let dockerd: Dockerd;
let engine: Engine;
let layout: ImageLayout;
let reference: string;

const HELLO = /^numpy \S+ says 506\n$/;

beforeAll(async () => {
  directory = await cleanup.tempDir('same');
  registry = await startWatchedRegistry(cleanup);
  containerd = await startContainerd();
  cleanup.defer(() => containerd.stop());
  dockerd = await startDockerd();
  cleanup.defer(() => dockerd.stop());
  engine = await startEngine(cleanup, [], { rehearses: true });
  layout = await realImage('demo', { onProgress: (line) => console.log(line) });
  reference = `${registry.host}/demo:1`;
  await pushLayout(layout, registry.host, 'demo', '1');
}, 300_000);
afterAll(() => cleanup.run());

test('skopeo, containerd and dockerd pull and run the same tag before and after', async () => {
  const before = await everybody('before');
  await engine.cofa(['index', reference]);
  expect(await engine.cofa(['run', reference])).toMatch(HELLO);
  const after = await everybody('after');
  expect(after).toEqual(before);
}, 300_000);

/** What each of the tools makes of the tag, with nothing of it left from an earlier pull. They are independent, so all work at once. */
async function everybody(name: string): Promise<Record<string, string>> {
  const manifest = await fetch(`http://${registry.host}/v2/demo/manifests/1`, {
    headers: { accept: layout.manifest.mediaType },
  }).then((response) => response.arrayBuffer());
  const [copied, byContainerd, docker] = await Promise.all([
    copiedBySkopeo(name),
    runByContainerd(name),
    runByDocker(),
  ]);

  const blobs = (await layoutLayers(layout)).map(({ digest }) => digest);
  for (const digest of blobs) expect(copied).toContain(digest.slice('sha256:'.length));
  for (const output of [byContainerd, docker.said]) expect(output).toMatch(HELLO);
  const manifestDigest = `sha256:${createHash('sha256').update(Buffer.from(manifest)).digest('hex')}`;
  expect(manifestDigest).toBe(layout.manifest.digest);
  expect(docker.digests).toContain(manifestDigest);
  return { manifestDigest, copied, byContainerd, byDocker: docker.said, digests: docker.digests };
}

/** The digests of its files, a line each. */
async function copiedBySkopeo(name: string): Promise<string> {
  const copy = join(directory, `copy-${name}`);
  await runCommand('skopeo', [
    'copy',
    '--quiet',
    '--src-tls-verify=false',
    `docker://${reference}`,
    `dir:${copy}`,
  ]);
  return await runCommand('sh', ['-c', 'cd "$1" && sha256sum * | sort', 'sh', copy]);
}

async function runByContainerd(name: string): Promise<string> {
  await containerd.ctr(['images', 'pull', '--plain-http', reference]);
  const said = await containerd.ctr(['run', '--rm', '--net-host', reference, `hello-${name}`]);
  await containerd.ctr(['images', 'rm', '--sync', reference]);
  return said;
}

async function runByDocker(): Promise<{ said: string; digests: string }> {
  await dockerd.docker(['pull', '--quiet', reference]);
  const said = await dockerd.docker(['run', '--rm', '--network=host', reference]);
  const digests = await dockerd.docker([
    'image',
    'inspect',
    '--format',
    '{{json .RepoDigests}} {{json .RootFS}}',
    reference,
  ]);
  await dockerd.docker(['image', 'rm', '--force', reference]);
  return { said, digests };
}
