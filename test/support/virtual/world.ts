/** What virtual machines find outside: a registry with signed images, by a quick and by a slow link, and a tar file with the release. */
import { execFile } from 'node:child_process';
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import { startRelay } from '../../../ops/bench/relay.ts';
import {
  describeLayer,
  type ImageLayout,
  layoutLayers,
  pushLayout,
  writeLayout,
} from '../../../ops/images/layout.ts';
import { makeRootfs } from '../../container/host-rootfs.ts';
import { digestOf } from '../../../src/digest/digest.ts';
import { noise, prose } from '../../images/nasty.ts';
import { TarBytes } from '../../images/tar-bytes.ts';
import { runCofa } from '../engine.ts';
import { keptRelease } from '../kept-release.ts';
import { startRegistry } from '../registry-server.ts';
import type { Cleanup } from '../temp.ts';
import { unpackWithUmoci } from '../unpack.ts';

/** This machine, as virtual ones see it: what listens on its loopback is there. */
const OUTSIDE = '10.0.2.2';
/** Bits a second of the slow link: an image takes some seconds. */
const SLOW = 50e6;

export interface World {
  /** `10.0.2.2:PORT` */
  registry: string;
  slow: string;
  /** Repositories, each with the tag 1. The first is the one that most scenarios take. */
  images: readonly string[];
  /** For the machines: what `UNPACK` brings to `AT`. */
  files: string;
}

export const AT = '/opt/cofa';
/** In a machine, once. */
export const UNPACK = `mkdir -p ${AT} && tar --no-same-owner -xf /dev/vdb -C ${AT}`;
/** In a machine, before each script that compares: `names`, `sums`, `same`. */
export const LIBRARY = `. ${AT}/library.sh\n`;

/**
 * `names FOLDER` lists names, kinds, modes, owners, sizes and links; `sums FOLDER IMAGE` compares every byte of every file with
 * what another program has unpacked, past the page cache; `same FOLDER IMAGE` does both.
 */
const SHELL = `
names() {
  (cd "$1" && find . -mindepth 1 -type d -printf '%P %y %m %U %G\\n' -o -printf '%P %y %m %U %G %s %l\\n' | LC_ALL=C sort)
}
sums() {
  echo 3 > /proc/sys/vm/drop_caches
  (cd "$1" && sha256sum --quiet --check ${AT}/$2.sums)
}
same() {
  names "$1" | diff - ${AT}/$2.names && sums "$1" "$2"
}
`;

const run = promisify(execFile);

/** `images`: how many there are, at least one; their lower layer is the same. */
export async function makeWorld(
  cleanup: Cleanup,
  options: { images: number; seed: number; onProgress: (line: string) => void },
): Promise<World> {
  const { onProgress, seed } = options;
  const folder = await cleanup.tempDir('world');
  const files = join(folder, 'files');
  mkdirSync(files);
  onProgress('the release of this checkout');
  const { deb } = await keptRelease(onProgress);
  copyFileSync(deb, join(files, 'cofa.deb'));
  writeFileSync(join(files, 'library.sh'), SHELL);
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  const relay = await startRelay({ to: { host: '127.0.0.1', port: registry.port }, rate: SLOW, rttMs: 5 });
  cleanup.defer(() => relay.stop());

  onProgress(`${options.images} images, indexed and signed`);
  await cofa('key', 'create', '--out', join(files, 'release'));
  const rootfs = join(folder, 'rootfs');
  await makeRootfs(rootfs);
  const { stdout: base } = await run('tar', ['-C', rootfs, '--owner=0', '--group=0', '-c', '.'], {
    encoding: 'buffer',
    maxBuffer: 1 << 30,
  });
  const images: string[] = [];
  for (let number = 0; number < options.images; number++) {
    const name = `app-${number}`;
    images.push(name);
    const layout = await imageOf(join(folder, name), [base, dataLayer(seed + 100 * number)]);
    await pushLayout(layout, registry.host, name, '1');
    const ref = `${registry.host}/${name}:1`;
    await cofa('index', '--sign', join(files, 'release.key'), ref);
    const truth = await unpackWithUmoci(ref, join(folder, `${name}-truth`));
    const list = async (script: string) =>
      (await run('bash', ['-euc', `${SHELL}\n${script}`, 'bash', truth], { maxBuffer: 64 << 20 })).stdout;
    writeFileSync(join(files, `${name}.names`), await list('names "$1"'));
    writeFileSync(
      join(files, `${name}.sums`),
      await list('cd "$1" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum'),
    );
    const blobs = await layoutLayers(layout);
    writeFileSync(join(files, `${name}.layers`), blobs.map(({ digest }) => `${digest}\n`).join(''));
    await run('rm', ['-rf', '--one-file-system', '--', join(folder, `${name}-truth`), join(folder, name)]);
  }
  const tar = join(folder, 'files.tar');
  await run('tar', ['-C', files, '-cf', tar, 'cofa.deb', 'library.sh', 'release.pub', ...named(images)]);
  return { registry: `${OUTSIDE}:${registry.port}`, slow: `${OUTSIDE}:${relay.port}`, images, files: tar };
}

const named = (images: readonly string[]): string[] =>
  images.flatMap((name) => ['names', 'sums', 'layers'].map((kind) => `${name}.${kind}`));

async function imageOf(folder: string, tars: readonly Buffer[]): Promise<ImageLayout> {
  mkdirSync(folder);
  const layers = await Promise.all(
    tars.map(async (tar, index) => {
      const file = join(folder, `layer-${index}`);
      writeFileSync(file, gzipSync(tar));
      return await describeLayer(file, 'gzip', digestOf(tar), `layer ${index}`);
    }),
  );
  return await writeLayout(join(folder, 'layout'), {
    kind: 'oci',
    layers,
    config: { Env: ['PATH=/bin'], Cmd: ['sh'], WorkingDir: '/' },
    created: '2026-01-01T00:00:00Z',
  });
}

/** Some 22 MB: what compresses and what does not, large and small. */
function dataLayer(seed: number): Buffer {
  const tar = new TarBytes().dir('data/');
  for (let index = 0; index < 4; index++) tar.file(`data/noise-${index}`, noise(3 << 20, seed + index));
  tar.file('data/prose', prose(9_000_001, seed + 10));
  for (let index = 0; index < 40; index++)
    tar.file(`data/small-${index}`, prose(500 + 900 * index, seed + 20 + index), {
      mode: 0o640,
      uid: index,
      gid: 7,
    });
  return tar.bytes();
}

async function cofa(...args: string[]): Promise<void> {
  const { code, stderr } = await runCofa(args);
  if (code !== 0) throw new Error(`cofa ${args.join(' ')} ended with ${code}: ${stderr}`);
}
