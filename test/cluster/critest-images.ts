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

const CRI_TOOLS = 'k8s-staging-cri-tools';
const TESTED = 'e2e-test-images';

/** A web server whose first process has the names that tests look for: those of nginx. */
const server = (port: number) => ({
  config: { Cmd: ['/bin/start'] },
  files: {
    'bin/start': "#!/bin/bash-static\nexec -a 'nginx: master process' /bin/nginx /bin/serve\n",
    'bin/serve': `trap 'exit 0' TERM
mkdir -p /var/run
echo $$ >/var/run/nginx.pid
httpd -p ${port} -h /www
sleep 1000000 &
wait
`,
    'www/index.html': 'hello\n',
  },
});

/** What a process may that is not to have more than its user: a program that has root's rights tells. */
const EFFECTIVE: ImageConfig = { Cmd: ['/bin/bash-static', '-p', '-c', 'echo Effective uid: $EUID'] };

interface Wanted {
  repository: string;
  tags: readonly string[];
  config?: ImageConfig;
  /** Files of a layer of its own. */
  files?: Readonly<Record<string, string>>;
}

const plain = (name: string, ...tags: string[]): Wanted => ({
  repository: `${CRI_TOOLS}/${name}`,
  tags,
  files: { name },
});
const user = (name: string, User: string): Wanted => ({
  repository: `${CRI_TOOLS}/test-image-${name}`,
  tags: ['latest'],
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
  { repository: 'pause', tags: ['3.9'], config: { Cmd: ['/bin/sleep', '1000000'] } },
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
}

/** Pushes them all, and indexes all but the sandbox's. */
export async function pushCritestImages(work: string, host: string): Promise<CritestImages> {
  const base = await makeBusybox(join(work, 'busybox'));
  const blobs = new Set<string>();
  for (const [at, { repository, tags, config, files }] of WANTED.entries()) {
    const folder = join(work, `image-${at}`);
    const layers = [base];
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
  }
  return {
    sandbox: 'registry.k8s.io/pause:3.9',
    registries: ['registry.k8s.io', 'k8s.gcr.io', 'gcr.io'],
    blobs: [...blobs],
  };
}

async function makeBusybox(folder: string): Promise<LayerFile> {
  const { root } = await unpackedDebs({ release: RELEASE, packages: ['busybox-static', 'bash-static'] });
  const tree = join(folder, 'tree');
  for (const name of ['bin', 'etc', 'home', 'root', 'usr/bin', 'usr/sbin', 'var', 'www'])
    await mkdir(join(tree, name), { recursive: true });
  await mkdir(join(tree, 'tmp'));
  await chmod(join(tree, 'tmp'), 0o1777);
  const program = join(tree, 'bin/busybox');
  await copyFile(join(root, 'bin/busybox'), program);
  const bash = join(tree, 'bin/bash-static');
  await copyFile(join(root, 'bin/bash-static'), bash);
  await chmod(bash, 0o4755);
  // A test hides /bin/ls alone.
  for (const applet of (await runCommand(program, ['--list'])).trim().split('\n'))
    if (applet !== 'busybox') await link(program, join(tree, 'bin', applet));
  // Debian's has none.
  await writeFile(join(tree, 'bin/ipcs'), '#!/bin/sh\ncat /proc/sysvipc/shm\n', { mode: 0o755 });
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
