/** What `cofa doctor` tries for real, in a folder of its own on the disk of the cofa root. Each undoes what it did. */
import { randomBytes } from 'node:crypto';
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';
import { exec } from '../container/exec.ts';
import { hostFacts } from '../container/host.ts';
import { mountOverlay, unmountOverlay } from '../container/overlay.ts';
import { buildSpec } from '../container/spec.ts';
import { unmount } from '../kernel/mount.ts';

/** Mounts a flat image of one file, with its data in a loop device, and reads it. */
export async function tryErofs(folder: string): Promise<string> {
  return await withTinyImage(join(folder, 'erofs'), async (file) => {
    if (!(await readFile(file)).equals(CONTENT))
      throw new CofaError('integrity', 'the file in the mounted image has the wrong content');
    return 'an image with its data in another device mounts and reads';
  });
}

/** Mounts such an image, and the folder, a second time with other owners, as it is for containers in user namespaces. */
export async function tryOtherOwners(folder: string): Promise<string> {
  const { mountMapped } = await import('../kernel/id-mapped.ts');
  const range = { container: 0, host: 100_000, size: 65_536 };
  const target = join(folder, 'owners');
  await mkdir(target);
  const shows = async (source: string, file: string) => {
    await mountMapped({ source, target, maps: { uid: [range], gid: [range] } });
    try {
      const { uid, gid } = await stat(join(target, file));
      if (uid !== range.host || gid !== range.host)
        throw new CofaError('environment', `a file of root’s shows the owner ${uid}:${gid}`);
    } finally {
      await unmount(target);
    }
  };
  return await withTinyImage(join(folder, 'other'), async (file) => {
    await shows(dirname(file), basename(file));
    await shows(folder, 'other');
    return 'images can be mounted with their ids';
  });
}

const CONTENT = Buffer.alloc(8192, 'cofa ');

/** Calls with the path of its one file. */
async function withTinyImage<T>(base: string, use: (file: string) => Promise<T>): Promise<T> {
  const [{ buildFlat }, { attachLoop, detachLoop }, { mountErofs }] = await Promise.all([
    import('../image/erofs.ts'),
    import('../kernel/loop.ts'),
    import('../kernel/erofs.ts'),
  ]);
  const { metadata } = buildFlat(
    [{ entries: [tinyFile(CONTENT.length)] }],
    [{ diffId: TINY_DIFFID, size: CONTENT.length }],
  );
  await mkdir(join(base, 'mnt'), { recursive: true });
  await writeFile(join(base, 'flat'), metadata);
  await writeFile(join(base, 'device'), CONTENT);
  const undo: Array<() => Promise<void>> = [];
  try {
    const label = `cofa-doctor-${randomBytes(4).toString('hex')}`;
    const flat = await attachLoop(join(base, 'flat'), { directIo: false, readOnly: true, label });
    undo.push(() => detachLoop(flat));
    const device = await attachLoop(join(base, 'device'), { directIo: true, readOnly: true, label });
    undo.push(() => detachLoop(device));
    await mountErofs({
      metadata: flat,
      devices: [device],
      target: join(base, 'mnt'),
      lookup: { links: 'ours' },
    });
    undo.push(() => unmount(join(base, 'mnt')));
    return await use(join(base, 'mnt/tiny'));
  } finally {
    for (const step of undo.toReversed()) await step();
  }
}

/** Mounts an overlay with the options of containers. */
export async function tryOverlay(folder: string): Promise<string> {
  const target = await overlayOf(folder, 'overlay', folder);
  await unmountOverlay(target);
  return 'mounts';
}

/** Runs /bin/true of this machine in a container like those of `cofa run`. */
export async function tryContainer(folder: string, runc: string): Promise<string> {
  const bundle = join(folder, 'container');
  const rootfs = await overlayOf(folder, 'container', '/');
  const id = `doctor-${randomBytes(6).toString('hex')}`;
  const state = join(bundle, 'state');
  try {
    const spec = buildSpec({
      rootfs,
      config: {
        entrypoint: [],
        cmd: ['/bin/true'],
        env: [],
        user: '',
        workingDir: '/',
        stopSignal: undefined,
      },
      options: {
        args: [],
        entrypoint: undefined,
        env: [],
        workdir: undefined,
        user: undefined,
        hostname: undefined,
        network: 'host',
        volumes: [],
        tty: false,
        interactive: false,
        readOnly: false,
        noNewPrivileges: false,
        unconfined: false,
      },
      user: { uid: 0, gid: 0, additionalGids: [], home: '/' },
      host: await hostFacts(),
      cgroupsPath: `/cofa/${id}`,
      files: [],
    });
    await writeFile(join(bundle, 'config.json'), JSON.stringify(spec));
    const result = await exec(runc, ['--root', state, 'run', '--bundle', bundle, id], 20_000);
    if (result.code !== 0) {
      throw new CofaError(
        'environment',
        result.stderr.trim().split('\n').at(-1) || `runc ends with ${result.code}`,
      );
    }
    return 'starts and ends';
  } finally {
    await exec(runc, ['--root', state, 'delete', '--force', id]);
    await unmountOverlay(rootfs);
  }
}

/** Returns the mount point. */
async function overlayOf(folder: string, name: string, lower: string): Promise<string> {
  const base = join(folder, name);
  const [upper, work, target] = ['upper', 'work', 'rootfs'].map((part) => join(base, part)) as [
    string,
    string,
    string,
  ];
  for (const path of [upper, work, target]) await mkdir(path, { recursive: true, mode: 0o755 });
  // A folder may not be below itself: the lower layer is a sibling where the whole machine is not wanted.
  const source = lower === folder ? join(base, 'lower') : lower;
  await mkdir(source, { recursive: true });
  await mountOverlay({ lower: source, upper, work, target, temporary: true });
  return target;
}

const TINY_DIFFID = `sha256:${'c0fa'.repeat(16)}`;

function tinyFile(size: number) {
  return {
    path: Buffer.from('tiny'),
    type: 'file' as const,
    mode: 0o644,
    uid: 0,
    gid: 0,
    mtime: { sec: 0, nsec: 0 },
    size,
    link: Buffer.alloc(0),
    major: 0,
    minor: 0,
    xattrs: [],
    extents: [{ fileOffset: 0, deviceOffset: 0, length: size }],
    patches: [],
  };
}
