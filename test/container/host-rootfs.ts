/**
 * A small root file system made of this machine's own programs and the libraries they load, so that tests of
 * containers need no image and no package. Also an engine that "mounts" such a folder by a bind mount.
 */
import { execFile } from 'node:child_process';
import { copyFile, mkdir, realpath, symlink, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import type { Mount, Progress } from '../../schemas/api.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { EngineClient } from '../../src/client/client.ts';
import { mountRoot, unmountOverlay } from '../../src/container/overlay.ts';
import { ContainerFolder } from '../../src/container/record.ts';
import { MS, mount, unmount } from '../../src/kernel/mount.ts';

const PROGRAMS = [
  'sh',
  'cat',
  'id',
  'sleep',
  'env',
  'stty',
  'ls',
  'chown',
  'mv',
  'tty',
  'stat',
  'unshare',
  'perl',
];

/** Fills `directory`; `/bin` is the only folder of programs. */
export async function makeRootfs(directory: string): Promise<void> {
  for (const folder of ['bin', 'etc', 'tmp', 'data/deep', 'home/alice']) {
    await mkdir(join(directory, folder), { recursive: true });
  }
  const wanted = new Set<string>();
  for (const program of PROGRAMS) {
    const path = await realpath((await run('sh', ['-c', `command -v ${program}`])).stdout.trim());
    await copyFile(path, join(directory, 'bin', program));
    const { stdout } = await run('ldd', [path]).catch(() => ({ stdout: '' }));
    for (const match of stdout.matchAll(/(?:=>\s*)?(\/\S+)\s+\(0x/g)) wanted.add(match[1] as string);
  }
  for (const library of wanted) {
    const target = join(directory, library);
    await mkdir(dirname(target), { recursive: true });
    await copyFile(await realpath(library), target);
  }
  await writeFile(
    join(directory, 'etc/passwd'),
    'root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001:Alice:/home/alice:/bin/sh\n',
  );
  await writeFile(
    join(directory, 'etc/group'),
    'root:x:0:\nalice:x:1001:\nwheel:x:10:alice\nvideo:x:44:bob,alice\n',
  );
  await writeFile(join(directory, 'bin/plain'), 'no program\n');
  await writeFile(join(directory, 'data/deep/file'), 'deep\n');
  await symlink('/bin/sh', join(directory, 'bin/shell'));
}

/** What the image's `config` object says, in the words of the OCI image-spec. */
export interface FakeConfig {
  Entrypoint?: string[];
  Cmd?: string[];
  Env?: string[];
  User?: string;
  WorkingDir?: string;
  StopSignal?: string;
}

export interface FakeEngine extends Pick<EngineClient, 'call'> {
  /** Operations so far, such as `mount` and `unmount`. */
  calls: string[];
  /** So many unmounts are refused first. */
  busyUnmounts: number;
  /** What the next mounts do instead of mounting. */
  onMount: ((signal: AbortSignal | undefined) => Promise<void>) | undefined;
  /** Overlays the image, says that it stands, and does this before it answers; an error takes the mount away. */
  onStanding: ((folder: ContainerFolder) => Promise<void>) | undefined;
}

/** An engine that knows one image: the folder `rootfs` with that configuration. */
export async function fakeEngine(directory: string, rootfs: string, config: FakeConfig): Promise<FakeEngine> {
  const configPath = join(directory, 'image-config.json');
  await writeFile(configPath, JSON.stringify({ architecture: 'amd64', os: 'linux', config }));
  const mounted = new Set<string>();
  const engine: FakeEngine = {
    calls: [],
    busyUnmounts: 0,
    onMount: undefined,
    onStanding: undefined,
    call: (async (
      operation: string,
      request: { ref: string; dir: string },
      options?: { signal?: AbortSignal; onProgress?: (progress: Progress) => void },
    ) => {
      engine.calls.push(operation);
      if (operation === 'mount') {
        await engine.onMount?.(options?.signal);
        await mount({ source: rootfs, target: request.dir, type: '', flags: MS.BIND });
        mounted.add(request.dir);
        const folder = folderOf(request.dir);
        if (engine.onStanding !== undefined) {
          await mountRoot(folder, { temporary: true });
          options?.onProgress?.({ phase: 'mount', config: configPath });
          try {
            await engine.onStanding(folder);
          } catch (error) {
            await unmountOverlay(folder.rootfs);
            await unmount(request.dir);
            mounted.delete(request.dir);
            throw error;
          }
        }
        const digest = `sha256:${'0'.repeat(64)}`;
        const reply: Mount = {
          id: 'm1',
          dir: request.dir,
          ref: request.ref,
          manifest: digest,
          config: digest,
          // What stands is read before this answer.
          configPath: engine.onStanding === undefined ? configPath : '/nowhere',
          ...(engine.onStanding === undefined ? {} : { overlay: true }),
          origin: 'node',
          trust: 'proven',
          state: 'mounted',
        };
        return reply;
      }
      if (operation === 'unmount') {
        if (engine.busyUnmounts-- > 0) throw new CofaError('busy', 'it is mounting');
        if (!mounted.delete(request.dir))
          throw new CofaError('not-found', `nothing is mounted at ${request.dir}`);
        if (engine.onStanding !== undefined) await unmountOverlay(folderOf(request.dir).rootfs);
        await unmount(request.dir);
        return { id: 'm1', dir: request.dir };
      }
      throw new Error(`unexpected ${operation}`);
    }) as EngineClient['call'],
  };
  return engine;
}

/** ROOT/containers/NAME/image is where a container has its image. */
const folderOf = (dir: string) => new ContainerFolder(resolve(dir, '../../..'), basename(dirname(dir)));

const run = promisify(execFile);
