/**
 * The images that critest wants, by the names that it pulls, made of Debian's busybox. What they are is in the folders `images`
 * of cri-tools and `test/images` of Kubernetes. One cannot be made: critest knows its digest.
 */
import { createHash } from 'node:crypto';
import { chmod, copyFile, link, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { RELEASE } from '../../ops/images/apt.ts';
import { unpackedDebs } from '../../ops/images/debs.ts';
import {
  describeLayer,
  type ImageConfig,
  type LayerFile,
  pushLayout,
  writeLayout,
} from '../../ops/images/layout.ts';
import { index } from '../clients/images.ts';
import { runCommand } from '../support/services.ts';

/** Debian's packages that they are made of. */
export const BUSYBOX = { release: RELEASE, packages: ['busybox-static', 'bash-static'] };

const CRI_TOOLS = 'k8s-staging-cri-tools';
const TESTED = 'e2e-test-images';

/** A web server whose first process has the names that tests look for: those of nginx. It logs what httpd logs. */
const server = (port: number) => ({
  config: { Cmd: ['/bin/start'] },
  files: {
    'bin/start': "#!/bin/bash-static\nexec -a 'nginx: master process' /bin/nginx /bin/serve\n",
    'bin/serve': `trap 'exit 0' TERM
mkdir -p /var/run
echo $$ >/var/run/nginx.pid
echo httpd -D FOREGROUND
httpd -p ${port} -h /www
sleep 1000000 &
wait
`,
    'www/index.html': 'hello\n',
  },
});

/** What a process may that is not to have more than its user: a program that has root's rights tells. */
const EFFECTIVE: ImageConfig = { Cmd: ['/bin/bash-static', '-p', '-c', 'echo Effective uid: $EUID'] };

/** Programs of a name. Debian's busybox knows programs by their files too, and all of its own are one file. */
const PGREP = `#!/bin/sh
for comm in /proc/[0-9]*/comm; do
  read -r name <"$comm" || continue
  [ "$name" != "$1" ] || echo "$comm" | cut -d / -f 3
done 2>/dev/null
`;

/** A pod's first process ends when it is told to. */
const PAUSE = 'trap "exit 0" TERM INT; sleep 1000000 & wait';

interface Wanted {
  repository: string;
  tags: readonly string[];
  /** Tests pull and remove it, or mount it as a volume. */
  isRemoved?: boolean;
  config?: ImageConfig;
  /** Files of a layer of its own. */
  files?: Readonly<Record<string, string>>;
}

const plain = (name: string, ...tags: string[]): Wanted => ({
  repository: `${CRI_TOOLS}/${name}`,
  tags,
  isRemoved: true,
  files: { name },
});
const user = (name: string, User: string): Wanted => ({
  repository: `${CRI_TOOLS}/test-image-${name}`,
  tags: ['latest'],
  isRemoved: true,
  config: { User },
});
const web = (repository: string, tag: string, port: number): Wanted => ({
  repository,
  tags: [tag],
  ...server(port),
});

const WANTED: readonly Wanted[] = [
  { repository: `${TESTED}/busybox`, tags: ['1.29-2'] },
  { repository: `${TESTED}/nonewprivs`, tags: ['1.3'], config: EFFECTIVE },
  web(`${TESTED}/nginx`, '1.14-2', 80),
  web(`${TESTED}/httpd`, '2.4.39-4', 80),
  web(`${CRI_TOOLS}/hostnet-nginx-amd64`, 'latest', 12_003),
  { repository: 'pause', tags: ['3.9'], config: { Cmd: ['/bin/sh', '-c', PAUSE] } },
  plain('test-image-latest', 'latest'),
  plain('test-image-tag', 'test', 'all'),
  plain('test-image-tags', '1', '2', '3'),
  ...['1', '2', '3'].map((one) => plain(`test-image-${one}`, 'latest')),
  user('user-uid', '1002'),
  user('user-username', 'www-data'),
  user('user-uid-group', '1003:users'),
  user('user-username-group', 'www-data:100'),
  user('predefined-group', '1000'),
];

export interface CritestImages {
  /** Reference of the first container of every pod. */
  sandbox: string;
  /** Registries that the images' names have. */
  registries: readonly string[];
  /** Digests of the layers of all others, which are indexed. */
  blobs: string[];
  /**
   * References of those that tests run and do not remove. They share no layer with others: CRI-O can remove no image that shares one
   * with an image of another store.
   */
  kept: string[];
}

/** Pushes them all, and indexes all but the sandbox's. */
export async function pushCritestImages(work: string, host: string): Promise<CritestImages> {
  const keptBase = await makeBusybox(join(work, 'busybox'), 'kept');
  const base = await makeBusybox(join(work, 'busybox-2'), 'removed');
  const blobs = new Set<string>();
  const kept: string[] = [];
  for (const [at, { repository, tags, isRemoved = false, config, files }] of WANTED.entries()) {
    const folder = join(work, `image-${at}`);
    const isKept = !isRemoved && repository !== 'pause';
    const layers = [isKept ? keptBase : base];
    if (files !== undefined) {
      const tree = join(folder, 'tree');
      for (const [name, text] of Object.entries(files)) {
        await mkdir(join(tree, name, '..'), { recursive: true });
        await writeFile(join(tree, name), text, { mode: 0o755 });
      }
      layers.push(await packed(tree, folder));
    }
    const layout = await writeLayout(join(folder, 'layout'), {
      kind: 'oci',
      layers,
      config: { Env: ['PATH=/bin'], Cmd: ['/bin/sh'], ...config },
      created: '2020-01-01T00:00:00Z',
    });
    for (const tag of tags) await pushLayout(layout, host, repository, tag);
    if (repository === 'pause') continue;
    await index(`${host}/${repository}:${tags[0]}`);
    for (const { digest } of layers) blobs.add(digest);
    if (isKept) kept.push(...tags.map((tag) => `${registryOf(repository)}/${repository}:${tag}`));
  }
  return {
    sandbox: 'registry.k8s.io/pause:3.9',
    registries: ['registry.k8s.io', 'k8s.gcr.io', 'gcr.io'],
    blobs: [...blobs],
    kept,
  };
}

/** By which critest pulls it. */
const registryOf = (repository: string) => (repository.startsWith(CRI_TOOLS) ? 'gcr.io' : 'registry.k8s.io');

/** `name` is in a file of it, so that two of them are no common layer. */
async function makeBusybox(folder: string, name: string): Promise<LayerFile> {
  const { root } = await unpackedDebs(BUSYBOX);
  const tree = join(folder, 'tree');
  for (const name of ['bin', 'etc', 'home', 'root', 'usr/bin', 'usr/sbin', 'var', 'www'])
    await mkdir(join(tree, name), { recursive: true });
  await mkdir(join(tree, 'tmp'));
  await chmod(join(tree, 'tmp'), 0o1777);
  const program = join(tree, 'bin/busybox');
  await copyFile(join(root, 'bin/busybox'), program);
  await writeFile(join(tree, 'etc/image'), `${name}\n`);
  const bash = join(tree, 'bin/bash-static');
  await copyFile(join(root, 'bin/bash-static'), bash);
  await chmod(bash, 0o4755);
  // A test hides /bin/ls alone.
  for (const applet of (await runCommand(program, ['--list'])).trim().split('\n'))
    if (applet !== 'busybox' && applet !== 'sh') await link(program, join(tree, 'bin', applet));
  await writeFile(join(tree, 'bin/sh'), withoutLs(await readFile(program)), { mode: 0o755 });
  // Debian's has neither.
  await writeFile(join(tree, 'bin/ipcs'), '#!/bin/sh\ncat /proc/sysvipc/shm\n', { mode: 0o755 });
  await writeFile(join(tree, 'bin/pgrep'), PGREP, { mode: 0o755 });
  await copyFile(join(root, 'bin/bash-static'), join(tree, 'bin/nginx'));
  await writeFile(
    join(tree, 'etc/passwd'),
    'root:x:0:0:root:/root:/bin/sh\ndefault-user:x:1000:1000::/home:/bin/sh\nwww-data:x:33:33::/var:/bin/sh\nnobody:x:65534:65534::/home:/bin/false\n',
  );
  await writeFile(
    join(tree, 'etc/group'),
    'root:x:0:\nwww-data:x:33:\nusers:x:100:\nnobody:x:65534:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n',
  );
  return await packed(tree, folder);
}

/**
 * Debian's busybox is a shell that lists folders itself, where others look for /bin/ls. This one calls its own `ls` by a name that
 * stands in the same place of its list.
 */
function withoutLs(program: Buffer): Buffer {
  const [before, after] = ['\0ls\0lsmod\0', '\0lr\0lsmod\0'];
  const at = program.indexOf(before);
  if (at < 0) throw new Error('busybox: its list of programs is not understood');
  const changed = Buffer.from(program);
  changed.write(after, at, 'latin1');
  return changed;
}

async function packed(tree: string, folder: string): Promise<LayerFile> {
  const file = join(folder, 'layer.tar');
  await runCommand('tar', [
    '-C',
    tree,
    '--sort=name',
    '--mtime=@1000000000',
    '--owner=0',
    '--group=0',
    '--numeric-owner',
    '-cf',
    file,
    '.',
  ]);
  const diffId = `sha256:${createHash('sha256')
    .update(await readFile(file))
    .digest('hex')}`;
  await runCommand('gzip', ['--no-name', file]);
  return await describeLayer(`${file}.gz`, 'gzip', diffId, 'critest');
}
