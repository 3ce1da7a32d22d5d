/**
 * nerdctl 2 with BuildKit on cofa's snapshotter: what people do with it, on a prepared image (lazy), on an unprepared one
 * (plain), and on one of which only the lowest layers are those of a lazy one (mixed). Where they were built (ops/judges).
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { containerdPath } from '../../ops/images/debs.ts';
import { judgeAtHand } from '../../ops/images/judges.ts';
import { untilServed } from '../snapshotter/served.ts';
import { type Engine, eventually, runCofa, startEngine } from '../support/engine.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { type Containerd, runCommand, startContainerd, startService } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';
import { type ClientImage, index, makeBase, makeClientImage, push, wholeGetsOf } from './images.ts';
import { newestContainerd } from './versions.ts';

const onProgress = (line: string) => console.log(line);
const programs = [judgeAtHand('nerdctl', { onProgress }), judgeAtHand('buildkit', { onProgress })];
const [nerdctlFolder, buildkitFolder] = programs;
const version = newestContainerd();
const KINDS = ['lazy', 'plain', 'mixed'] as const;

describe.skipIf(programs.includes(undefined))('nerdctl', () => {
  const cleanup = new Cleanup();
  const images: Record<string, ClientImage & { ref: string }> = {};
  const refOf = (name: string) => images[name]?.ref as string;
  let work: string;
  let registry: RegistryServer;
  let engine: Engine;
  let containerd: Containerd;
  let nerdctl: (...args: string[]) => Promise<string>;
  let environment: Record<string, string>;

  const run = (...args: string[]) => nerdctl('run', '--rm', '--net=host', ...args);
  const ctr = (...args: string[]) => containerd.ctr(['--namespace', 'default', ...args]);
  const blobsOf = async (name: string) => {
    const there = await ctr('content', 'ls', '--quiet');
    return (images[name] as ClientImage).blobs.filter((digest) => there.includes(digest));
  };
  /** Requests for whole blobs of an image. */
  const wholeGets = (name: string) => wholeGetsOf(registry, images[name] as ClientImage);

  beforeAll(async () => {
    work = await cleanup.tempDir('nerd');
    registry = await startRegistry();
    cleanup.defer(() => registry.stop());
    const base = await makeBase(work);
    for (const [name, big] of [
      ['lazy', 1],
      ['plain', 2],
      ['mixed', 1],
    ] as const) {
      const image = await makeClientImage(work, base, name, { big, said: `I am ${name}` });
      images[name] = { ...image, ref: await push(image, registry.host, name) };
    }
    await index(refOf('lazy'));
    const path = [nerdctlFolder, buildkitFolder, await containerdPath(version)].join(delimiter);
    const directory = await cleanup.tempDir('ctrd');
    engine = await startEngine({
      workers: 1,
      args: ['--snapshotter', '--containerd', join(directory, 'c.sock'), '--lazy-blobs', 'default'],
    });
    cleanup.defer(() => engine.stop());
    (await untilServed(join(engine.root, 'run/snapshotter.sock'))).close();
    containerd = await startContainerd({
      path,
      directory,
      configVersion: 3,
      configure: async (file) => {
        const args = ['install', 'containerd', '--no-unit', '--containerd-config', file];
        expect(await runCofa(['--root', engine.root, ...args], { env: { PATH: path } })).toMatchObject({
          code: 0,
        });
      },
    });
    cleanup.defer(() => containerd.stop());
    const buildkit = await cleanup.tempDir('buildkit');
    const socket = join(buildkit, 'b.sock');
    writeFileSync(join(buildkit, 'buildkitd.toml'), buildkitConfig(containerd.socket, registry.host));
    const builder = await startService({
      name: 'buildkitd',
      command: 'buildkitd',
      args: [
        `--config=${join(buildkit, 'buildkitd.toml')}`,
        `--root=${join(buildkit, 'root')}`,
        `--addr=unix://${socket}`,
      ],
      directory: buildkit,
      env: { PATH: path },
      ready: async () => existsSync(socket),
    });
    cleanup.defer(() => builder.stop());
    environment = {
      PATH: path,
      NERDCTL_TOML: '/dev/null',
      BUILDKIT_HOST: `unix://${socket}`,
      // Where it would look for a docker's settings.
      DOCKER_CONFIG: work,
    };
    const own = [
      `--address=${containerd.socket}`,
      `--data-root=${join(work, 'nerdctl')}`,
      `--cni-netconfpath=${join(work, 'cni')}`,
      `--hosts-dir=${work}`,
      '--cni-path=/usr/lib/cni',
      '--snapshotter=cofa',
      '--cgroup-manager=cgroupfs',
    ];
    nerdctl = (...args) => runCommand('nerdctl', [...own, ...args], { timeoutMs: 60_000, env: environment });
  }, 300_000);
  afterAll(() => cleanup.run());

  // The lowest layer is the same in all, and unpacked with the first one. The mixed one's lower two are the lazy one's.
  test.each([
    ['plain', 3],
    ['lazy', 0],
    ['mixed', 1],
  ] as const)('pulls a %s image: %i of its layers are fetched', async (kind, fetched) => {
    const before = wholeGets(kind);
    await nerdctl('pull', '--quiet', refOf(kind));
    expect(wholeGets(kind) - before).toBe(fetched);
    expect(await nerdctl('images', '--quiet', refOf(kind))).toMatch(/^[0-9a-f]{12}\n$/);
  });

  test.each(KINDS)('runs a %s image, and looks into the container', async (kind) => {
    expect(await run(refOf(kind))).toBe(`I am ${kind}\n`);
    await nerdctl('run', '--detach', '--name', 'one', '--net=host', refOf(kind), '/bin/wait');
    expect(await nerdctl('exec', 'one', 'sh', '-c', 'echo mine > /said; cat /said')).toBe('mine\n');
    await nerdctl('stop', 'one');
    await nerdctl('start', 'one');
    expect(await nerdctl('exec', 'one', 'cat', '/said')).toBe('mine\n');
    await nerdctl('rm', '--force', 'one');
    await expect(run(refOf(kind), 'sh', '-c', 'exit 7')).rejects.toThrow('failed (7)');
  });

  test.each(KINDS)('builds upon a %s image with BuildKit', async (kind) => {
    const context = join(work, `build-${kind}`);
    mkdirSync(context);
    writeFileSync(join(context, 'added'), 'added\n');
    const steps = ['COPY added /', 'RUN cat /said >> /added && mv /data /moved', 'CMD ["cat", "/added"]'];
    writeFileSync(join(context, 'Dockerfile'), [`FROM ${refOf(kind)}`, ...steps, ''].join('\n'));
    await nerdctl('build', '--quiet', '--tag', `built-${kind}`, context);
    expect(await run(`built-${kind}`)).toBe(`added\nI am ${kind}\n`);
  });

  test.each(KINDS)('saves a %s image whole, and loads it', async (kind) => {
    const file = join(work, `${kind}.tar`);
    await nerdctl('save', '--output', file, refOf(kind));
    for (const digest of (images[kind] as ClientImage).blobs) {
      const member = `blobs/sha256/${digest.slice(7)}`;
      const sum = await runCommand('sh', ['-c', 'tar -xOf "$0" "$1" | sha256sum', file, member]);
      expect(sum).toContain(digest.slice(7));
    }
    await nerdctl('rmi', '--force', refOf(kind));
    await nerdctl('load', '--quiet', '--input', file);
    expect(await run(refOf(kind))).toBe(`I am ${kind}\n`);
  });

  test('what is removed leaves nothing', async () => {
    await nerdctl('builder', 'prune', '--all', '--force');
    await nerdctl('system', 'prune', '--all', '--force');
    await eventually('no snapshot', async () => {
      const listed = (await ctr('snapshots', '--snapshotter=cofa', 'ls')).trim().split('\n');
      return listed.length === 1;
    });
    for (const kind of KINDS) expect(await blobsOf(kind)).toEqual([]);
  });
});

const buildkitConfig = (containerd: string, registry: string): string => `
[worker.oci]
  enabled = false
[worker.containerd]
  enabled = true
  address = ${JSON.stringify(containerd)}
  namespace = "default"
  snapshotter = "cofa"
  networkMode = "host"
[registry.${JSON.stringify(registry)}]
  http = true
`;
