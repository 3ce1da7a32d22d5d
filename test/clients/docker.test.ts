/**
 * dockerd with the containerd image store on cofa's snapshotter: what people do with docker, on a prepared image (lazy), on
 * an unprepared one (plain), and on one of which only the lowest layers are those of a lazy one (mixed). docker 26 and its
 * containerd 1.7 are those of Debian trixie; docker 29 is tried where it was built (ops/judges), with its own command line and
 * Debian's buildx and compose.
 */
import { lstatSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { containerdPath, NEWER_DOCKER, unpackedDebs } from '../../ops/images/debs.ts';
import { judgeAtHand } from '../../ops/images/judges.ts';
import { type Engine, eventually, runCofa, startEngine } from '../support/engine.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import {
  type Containerd,
  type Dockerd,
  runCommand,
  startContainerd,
  startDockerd,
} from '../support/services.ts';
import { Cleanup, listMounts, mountsBelow } from '../support/temp.ts';
import { untilServed } from '../snapshotter/served.ts';
import { type ClientImage, makeBase, makeClientImage, push, wholeGetsOf } from './images.ts';
import { containerds } from './versions.ts';

let cleanup: Cleanup;
let work: string;
/** Where containerd has blobs as files. */
let content: string;
let registry: RegistryServer;
let other: RegistryServer;
let engine: Engine;
let containerd: Containerd;
let dockerd: Dockerd;
/** Starts one on the same containerd: after `cofa install docker`, or with settings of its own. */
let startOnCofa: () => Promise<Dockerd>;
let startWith: (settings: string) => Promise<Dockerd>;
/** What `cofa install docker` has changed. */
let installed: { toml: string; json: string };
const images: Record<string, ClientImage & { ref: string }> = {};
const KINDS = ['lazy', 'plain', 'mixed'] as const;

const refOf = (name: string) => images[name]?.ref as string;
const docker = (...args: string[]) => dockerd.docker(args, { timeoutMs: 60_000 });
const run = (...args: string[]) => docker('run', '--rm', '--network=host', ...args);
/** Compares in the container: docker loses, now and then, all that one prints which ends at once, but never its exit code. */
const hasSaid = (ref: string, text: string) =>
  run(ref, 'sh', '-c', '[ "$(cat /said)" = "$0" ] || { cat /said >&2; exit 9; }', text);
const ctr = (...args: string[]) => containerd.ctr(['--namespace', 'moby', ...args]);

/** Layers of an image that lie in containerd's folder as files. */
const blobsOf = (name: string): string[] =>
  (images[name] as ClientImage).blobs.filter((digest) => placeOf(digest)?.isFile() === true);
/** What is where containerd has the blob's file. */
const placeOf = (digest: string) => lstatSync(join(content, digest.slice(7)), { throwIfNoEntry: false });
/** Layers of an image that are content to containerd. */
async function knownOf(name: string): Promise<string[]> {
  const there = await ctr('content', 'ls', '--quiet');
  return (images[name] as ClientImage).blobs.filter((digest) => there.includes(digest));
}
/** Requests for whole blobs. */
const wholeGets = (name: string) => wholeGetsOf(registry, images[name] as ClientImage);

const snapshots = async () =>
  (await ctr('snapshots', '--snapshotter=cofa', 'ls')).trim().split('\n').slice(1);

/** Every layer is in the archive, whole. */
async function hasBlobs(archive: string, name: string): Promise<void> {
  for (const digest of (images[name] as ClientImage).blobs) {
    const member = `blobs/sha256/${digest.slice(7)}`;
    const sum = await runCommand('sh', ['-c', 'tar -xOf "$0" "$1" | sha256sum', archive, member]);
    expect(sum).toContain(digest.slice(7));
  }
}

const onProgress = (line: string) => console.log(line);
const built = [judgeAtHand('docker-29', { onProgress }), judgeAtHand('docker-29-cli', { onProgress })];
// docker 29.8 is released with containerd 2.3.
const withBuilt = containerds(['2.3', '2.4']).find((one) => one.startsWith('2'));
const VERSIONS = [
  { version: '26.1', api: '1.45', programs: [], withContainerd: '1.7' },
  { version: '29.8', api: '1.56', programs: built, withContainerd: withBuilt },
] as const;

describe.each(VERSIONS)('docker $version', ({ api, programs, withContainerd }) => {
  const isHere = withContainerd !== undefined && programs.every((one) => one !== undefined);
  describe.skipIf(!isHere)('with images that are lazy, plain and mixed', () => {
    beforeAll(async () => {
      cleanup = new Cleanup();
      work = await cleanup.tempDir('docker');
      registry = await startRegistry();
      cleanup.defer(() => registry.stop());
      other = await startRegistry();
      cleanup.defer(() => other.stop());
      const newer = await unpackedDebs(NEWER_DOCKER, { onProgress });
      // docker 29 wants a runc that knows namespaces of time: a containerd of 2 comes with one.
      const path = [
        ...programs,
        await containerdPath(withContainerd as string, { onProgress }),
        newer.path,
      ].join(delimiter);
      const base = await makeBase(work);
      for (const [name, big] of [
        ['lazy', 1],
        ['plain', 2],
        ['mixed', 1],
        ['kept', 3],
        ['changed', 4],
        ['unpulled', 5],
      ] as const) {
        const image = await makeClientImage(work, base, name, { big, said: `I am ${name}` });
        images[name] = { ...image, ref: await push(image, registry.host, name) };
      }
      for (const name of ['lazy', 'kept', 'unpulled']) {
        const indexed = await runCofa(['index', refOf(name)], { timeoutMs: 180_000 });
        if (indexed.code !== 0) throw new Error(indexed.stderr);
      }
      const directory = await cleanup.tempDir('ctrd');
      const socket = join(directory, 'c.sock');
      content = join(directory, 'root/io.containerd.content.v1.content/blobs/sha256');
      engine = await startEngine({ workers: 1, args: ['--snapshotter', '--containerd', socket] });
      cleanup.defer(() => engine.stop());
      const snapshotter = join(engine.root, 'run/snapshotter.sock');
      (await untilServed(snapshotter)).close();
      // Both are set up as a user does it.
      const install = async (...args: string[]) => {
        // It looks which containerd there is.
        const done = await engine.cli(['install', 'docker', '--no-unit', ...args], { env: { PATH: path } });
        if (done.code !== 0) throw new Error(done.stderr);
      };
      installed = { toml: '', json: '' };
      containerd = await startContainerd({
        path,
        directory,
        configVersion: withContainerd === '1.7' ? 2 : 3,
        configure: async (file) => {
          installed.toml = file;
          await install('--containerd-config', file, '--daemon-json', join(work, 'none.json'));
        },
      });
      cleanup.defer(() => containerd.stop());
      const cliPlugins = join(newer.root, 'usr/libexec/docker/cli-plugins');
      const start = (configure: (file: string) => Promise<void>) =>
        startDockerd({ path, containerd, cliPlugins, configure });
      startOnCofa = () =>
        start(async (file) => {
          installed.json = file;
          await install('--containerd-config', installed.toml, '--daemon-json', file);
        });
      startWith = (settings) => start(async (file) => writeFileSync(file, settings));
      dockerd = await startOnCofa();
      cleanup.defer(() => dockerd.stop());
      expect(await docker('version', '--format', '{{.Server.APIVersion}} {{.Client.APIVersion}}')).toBe(
        `${api} ${api}\n`,
      );
    }, 300_000);
    afterAll(() => cleanup.run());

    describe('pulled one after the other', () => {
      // The lowest layer is the same in all, and unpacked with the first one. The mixed one's lower two are the lazy one's.
      test.each([
        ['plain', 3],
        ['lazy', 0],
        ['mixed', 1],
      ] as const)('a %s image: %i of its layers are fetched', async (kind, fetched) => {
        const before = new Set(blobsOf(kind));
        expect(await docker('pull', '--quiet', refOf(kind))).toContain(refOf(kind));
        const more = blobsOf(kind).filter((digest) => !before.has(digest));
        expect(more).toEqual((images[kind] as ClientImage).blobs.slice(3 - fetched));
        expect(await knownOf(kind)).toHaveLength(3);
        expect(await docker('images', '--quiet', refOf(kind))).toMatch(/^[0-9a-f]{12}\n$/);
      });
    });

    describe.each(KINDS)('an image that is %s', (kind) => {
      test('runs', async () => {
        expect(await run(refOf(kind))).toBe(`I am ${kind}\n`);
        expect(await run(refOf(kind), 'sh', '-c', 'echo mine > /said; cat /said')).toBe('mine\n');
        expect(await run(refOf(kind))).toBe(`I am ${kind}\n`);
        const failed = run(refOf(kind), 'sh', '-c', 'exit 7');
        await expect(failed).rejects.toThrow('failed (7)');
      });

      test('is a container that is stopped, started, looked into and removed', async () => {
        await docker('create', '--name', 'one', '--network=host', refOf(kind), '/bin/wait');
        await docker('start', 'one');
        await docker('exec', 'one', 'sh', '-c', 'echo kept > /kept');
        expect(await docker('ps', '--format', '{{.Names}} {{.State}}')).toBe('one running\n');
        await docker('restart', 'one');
        expect(await docker('exec', 'one', 'cat', '/kept')).toBe('kept\n');
        await docker('stop', 'one');
        expect(await docker('logs', 'one')).toBe(`I am ${kind}\nended\nI am ${kind}\nended\n`);
        const changes = (await docker('diff', 'one')).split('\n');
        expect(changes).toContain('A /kept');
        expect(changes.filter((line) => line.startsWith('D'))).toEqual([]);
        writeFileSync(join(work, 'copied'), 'copied');
        await docker('cp', join(work, 'copied'), 'one:/copied');
        await docker('start', 'one');
        expect(await docker('exec', 'one', 'cat', '/copied')).toBe('copied');
        await docker('rm', '--force', 'one');
      });

      test('is built upon, by BuildKit and by the classic builder', async () => {
        const context = join(work, `build-${kind}`);
        mkdirSync(context);
        writeFileSync(join(context, 'added'), 'added\n');
        writeFileSync(
          join(context, 'Dockerfile'),
          [
            `FROM ${refOf(kind)}`,
            'COPY added /',
            'RUN cat /said >> /added && mv /data /moved',
            'CMD ["cat", "/added"]',
            '',
          ].join('\n'),
        );
        const before = wholeGets(kind);
        const build = ['build', '--quiet', '--network=host'];
        await docker(...build, '--tag', `built-${kind}:1`, context);
        expect(await run(`built-${kind}:1`)).toBe(`added\nI am ${kind}\n`);
        await dockerd.docker([...build, '--tag', `built-${kind}:2`, context], {
          env: { DOCKER_BUILDKIT: '0' },
        });
        expect(await run(`built-${kind}:2`)).toBe(`added\nI am ${kind}\n`);
        expect(await run(`built-${kind}:2`, 'stat', '-c', '%s', '/moved/big')).toBe(`${2 << 20}\n`);
        expect(wholeGets(kind)).toBe(before);
      });

      test('is committed with its changes, and pushed to its own repository', async () => {
        await docker('run', '--name', 'two', '--network=host', refOf(kind), 'sh', '-c', 'echo more >> /said');
        const target = refOf(kind).replace(/:1$/, ':committed');
        await docker('commit', 'two', target);
        await docker('rm', 'two');
        await hasSaid(target, `I am ${kind}\nmore`);
        await docker('push', '--quiet', target);
        await docker('image', 'rm', target);
        await docker('pull', '--quiet', target);
        await hasSaid(target, `I am ${kind}\nmore`);
      });

      test('is a service of docker compose', async () => {
        const folder = join(work, `compose-${kind}`);
        mkdirSync(folder);
        const service = { image: refOf(kind), network_mode: 'host', command: '/bin/wait' };
        writeFileSync(join(folder, 'compose.yaml'), JSON.stringify({ services: { app: service } }));
        const compose = (...args: string[]) => docker('compose', '--project-directory', folder, ...args);
        await compose('up', '--detach');
        expect(await compose('exec', '-T', 'app', 'cat', '/said')).toBe(`I am ${kind}\n`);
        await compose('down');
        expect(await docker('ps', '--all', '--quiet')).toBe('');
      });
    });

    test('BuildKit fetches the layers of a lazy image that was not pulled before', async () => {
      const context = join(work, 'unpulled');
      mkdirSync(context);
      writeFileSync(join(context, 'Dockerfile'), `FROM ${refOf('unpulled')}\nRUN cat /said > /again\n`);
      const before = wholeGets('unpulled');
      await docker('build', '--quiet', '--network=host', '--tag', 'unpulled:1', context);
      expect(await run('unpulled:1', 'cat', '/again')).toBe('I am unpulled\n');
      expect(wholeGets('unpulled')).toBeGreaterThan(before);
    });

    describe('what needs layers as files', () => {
      // No test has fetched them here: no image was built upon this one.
      const ref = () => refOf('kept');

      test('docker lists it, saves it whole, and pushes it to another registry, and nothing of it stays', async () => {
        await docker('pull', '--quiet', ref());
        expect(await run(ref())).toBe('I am kept\n');
        expect(await docker('images', '--quiet', ref())).toMatch(/^[0-9a-f]{12}\n$/);
        const file = join(work, 'saved.tar');
        await docker('save', '--output', file, ref());
        await hasBlobs(file, 'kept');
        const elsewhere = `${other.host}/elsewhere:1`;
        await docker('tag', ref(), elsewhere);
        await docker('push', '--quiet', elsewhere);
        const lazy = (images['kept'] as ClientImage).blobs.slice(1);
        for (const digest of lazy) expect(placeOf(digest)?.isSymbolicLink()).toBe(true);
        await docker('image', 'rm', '--force', ref(), elsewhere);
        await eventually('containerd forgets it', async () => (await knownOf('kept')).length < 2);
        await eventually('its links are gone', async () =>
          lazy.every((digest) => placeOf(digest) === undefined),
        );
        await docker('load', '--quiet', '--input', file);
        expect(await run(ref())).toBe('I am kept\n');
        await docker('pull', '--quiet', elsewhere);
        expect(await run(elsewhere)).toBe('I am kept\n');
        await docker('image', 'rm', '--force', ref(), elsewhere);
        await eventually('containerd forgets it', async () => (await knownOf('kept')).length < 2);
      });

      test('what reads the content store itself gets the same bytes', async () => {
        await docker('pull', '--quiet', ref());
        const [, digest] = (images['kept'] as ClientImage).blobs as [string, string];
        const read = `ctr --address ${containerd.socket} --namespace moby content get ${digest} | sha256sum`;
        expect(await runCommand('sh', ['-c', read])).toContain(digest.slice(7));
        const file = join(work, 'exported.tar');
        await ctr('images', 'export', file, ref());
        await hasBlobs(file, 'kept');
      });

      test('within its registry nothing is fetched for a push', async () => {
        const before = wholeGets('kept');
        const beside = `${registry.host}/beside:1`;
        await docker('tag', ref(), beside);
        await docker('push', '--quiet', beside);
        expect(wholeGets('kept')).toBe(before);
        await docker('image', 'rm', beside);
      });

      test('after the snapshotter was killed its blobs are there again', async () => {
        const { processes } = await engine.status();
        const pid = processes.find(({ role }) => role === 'snapshotter')?.pid as number;
        process.kill(pid, 'SIGKILL');
        await eventually('another one', async () => {
          const { processes } = await engine.status();
          return processes.some((one) => one.role === 'snapshotter' && one.pid !== pid);
        });
        (await untilServed(join(engine.root, 'run/snapshotter.sock'))).close();
        const file = join(work, 'again.tar');
        await docker('save', '--output', file, ref());
        await hasBlobs(file, 'kept');
      });

      test('what containerd has lost of it is there again when the image gets a name', async () => {
        for (const digest of (images['kept'] as ClientImage).blobs.slice(1))
          await ctr('content', 'rm', digest);
        expect(await knownOf('kept')).toHaveLength(1);
        await docker('tag', ref(), 'named:1');
        await eventually('it is whole', async () => (await knownOf('kept')).length === 3);
        await docker('image', 'rm', 'named:1');
      });

      test('a layer that was changed in its registry goes nowhere', async () => {
        const storage = await cleanup.tempDir('storage');
        const evil = await startRegistry({ storage });
        cleanup.defer(() => evil.stop());
        const empty = await startRegistry();
        cleanup.defer(() => empty.stop());
        const gone = await push(images['changed'] as ClientImage, evil.host, 'gone');
        const indexed = await runCofa(['index', gone], { timeoutMs: 180_000 });
        expect(indexed.code).toBe(0);
        await docker('pull', '--quiet', gone);
        const [, digest] = (images['changed'] as ClientImage).blobs as [string, string];
        const hex = digest.slice(7);
        const data = join(storage, 'docker/registry/v2/blobs/sha256', hex.slice(0, 2), hex, 'data');
        const bytes = readFileSync(data);
        bytes[bytes.length - 1] = 1 ^ (bytes.at(-1) as number);
        writeFileSync(data, bytes);
        await docker('tag', gone, `${empty.host}/never:1`);
        await expect(docker('push', '--quiet', `${empty.host}/never:1`)).rejects.toThrow(
          /input\/output error/,
        );
        await expect(ctr('images', 'export', join(work, 'never.tar'), gone)).rejects.toThrow(
          /input\/output error/,
        );
        // docker save itself ends well; but what it leaves is no archive.
        await docker('save', '--output', join(work, 'half.tar'), gone);
        await expect(runCommand('tar', ['-tf', join(work, 'half.tar')])).rejects.toThrow();
        await expect(docker('load', '--input', join(work, 'half.tar'))).rejects.toThrow();
        await docker('image', 'rm', `${empty.host}/never:1`);
        await docker('image', 'rm', '--force', gone);
      });

      test('cofa pull --layers brings them to stay', async () => {
        await docker('pull', '--quiet', ref());
        const args = ['--address', containerd.socket, '--namespace', 'moby', '--layers', ref()];
        const pulled = await engine.cli(['pull', ...args]);
        expect(pulled).toMatchObject({ code: 0, stderr: '' });
        expect(blobsOf('kept')).toHaveLength(3);
        const before = wholeGets('kept');
        const file = join(work, 'kept.tar');
        await docker('save', '--output', file, ref());
        await hasBlobs(file, 'kept');
        expect(wholeGets('kept')).toBe(before);
      });
    });

    describe('afterwards', () => {
      test('prune removes every snapshot, and every flat image is unmounted', async () => {
        expect((await snapshots()).length).toBeGreaterThan(0);
        await docker('system', 'prune', '--all', '--force');
        await docker('buildx', 'prune', '--all', '--force');
        await eventually('no snapshot', async () => (await snapshots()).length === 0);
        // No snapshot uses them; they linger, and the engine unmounts them at its end at the latest.
        expect(mountsBelow(join(engine.root, 'snapshots'))).toEqual([]);
        expect(listMounts().filter(({ point }) => point.includes('/rootfs/'))).toEqual([]);
        const known = await engine.status();
        expect(known.mounts.filter(({ state }) => state !== 'mounted')).toEqual([]);
      });

      test('after cofa uninstall docker fetches an image that was lazy, and runs it on overlayfs', async () => {
        await docker('pull', '--quiet', refOf('kept'));
        expect(await knownOf('kept')).toHaveLength(3);
        const where = ['--containerd-config', installed.toml, '--daemon-json', installed.json];
        const env = { CONTAINERD_ADDRESS: containerd.socket };
        expect(await engine.cli(['uninstall', 'docker', ...where], { env })).toMatchObject({
          code: 0,
          stderr: '',
        });
        expect((await knownOf('kept')).length).toBeLessThan(3);
        await dockerd.stop();
        dockerd = await startWith('{"features":{"containerd-snapshotter":true}}');
        expect(await docker('info', '--format', '{{.Driver}}')).toBe('overlayfs\n');
        // docker 29 lists what it cannot run.
        expect(await docker('images', '--quiet', refOf('kept'))).toMatch(
          api === '1.45' ? /^$/ : /^[0-9a-f]{12}\n$/,
        );
        await expect(run('--pull=never', refOf('kept'))).rejects.toThrow(/no such image|not found/i);
        await docker('pull', '--quiet', refOf('kept'));
        expect(await run(refOf('kept'))).toBe('I am kept\n');
        expect(blobsOf('kept')).toHaveLength(3);
        // An install finds what docker has in containerd by now.
        await docker('pull', '--quiet', refOf('plain'));
        const before = await snapshots();
        await dockerd.stop();
        dockerd = await startOnCofa();
        expect(await docker('images', '--quiet', refOf('plain'))).toMatch(/^[0-9a-f]{12}\n$/);
        expect(await run('--pull=never', refOf('plain'))).toBe('I am plain\n');
        expect((await snapshots()).length).toBeGreaterThan(before.length);
      });
    });
  });
});
