/**
 * A complete image as a directory: read, read at random and searched, beside the same image unpacked by containerd for
 * overlayfs on the same disk. Cold: the page cache is dropped before; warm: the same again. Rounds are interleaved.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { startContainerd } from '../../test/support/services.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { dropCaches, median, timed } from './measure.ts';
import { placesAtRandom } from './random-places.ts';
import { onFreshEngine, type Repositories, untilWhole } from './ways.ts';

/** Reads of `random`, 4 KiB each. */
const RANDOM_READS = 4_000;

const READ_AT = `
import os, sys
root = os.open(sys.argv[1], os.O_RDONLY)
for line in open(sys.argv[2]):
    at, path = line.rstrip("\\n").split(" ", 1)
    file = os.open(path, os.O_RDONLY, dir_fd=root)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    assert len(os.pread(file, 4096, int(at))) == 4096
    os.close(file)
`;

export interface FileTimes {
  task: string;
  /** ms, medians */
  cofa: { cold: number; warm: number };
  overlayfs: { cold: number; warm: number };
}

export async function fileTimes(
  at: Repositories,
  rounds: number,
  say: (line: string) => void,
): Promise<FileTimes[]> {
  const cleanup = new Cleanup();
  try {
    const containerd = await startContainerd();
    cleanup.defer(() => containerd.stop());
    const folder = await cleanup.tempDir('files');
    const overlay = join(folder, 'overlayfs');
    await mkdir(overlay);
    const plain = `${at.registry}/${at.plain}:latest`;
    await containerd.ctr(['images', 'pull', '--plain-http', '--snapshotter', 'overlayfs', plain]);
    await containerd.ctr(['images', 'mount', '--snapshotter', 'overlayfs', plain, overlay]);
    cleanup.defer(async () => void (await containerd.ctr(['images', 'unmount', overlay])));
    return await onFreshEngine(async (cofa, root) => {
      const flat = join(root, 'whole');
      await mkdir(flat);
      await cofa('mount', `${at.registry}/${at.indexed}:latest`, flat);
      await untilWhole(cofa);
      const list = join(folder, 'reads');
      await placesAtRandom(overlay, { seed: 1, count: RANDOM_READS, list });
      const tasks: Array<[name: string, args: (dir: string) => [string, string[]]]> = [
        ['find', (dir) => ['sh', ['-c', 'find "$1" -xdev -ls >/dev/null', 'sh', dir]]],
        [
          'read every file',
          (dir) => [
            'sh',
            ['-c', 'cd "$1" && find . -xdev -type f -print0 | xargs -0 cat >/dev/null', 'sh', dir],
          ],
        ],
        [`${RANDOM_READS} reads of 4 KiB at random`, (dir) => ['python3', ['-c', READ_AT, dir, list]]],
      ];
      const results = new Map<string, number[]>();
      for (let round = 1; round <= rounds; round++) {
        for (const [task, of] of tasks) {
          say(`files, round ${round} of ${rounds}: ${task}`);
          const both: Array<[string, string]> = [
            ['cofa', flat],
            ['overlayfs', overlay],
          ];
          for (const [name, dir] of round % 2 === 1 ? both : both.toReversed()) {
            await dropCaches();
            for (const cache of ['cold', 'warm']) {
              const { totalMs } = await timed(...of(dir));
              const key = `${task} ${name} ${cache}`;
              results.set(key, [...(results.get(key) ?? []), totalMs]);
            }
          }
        }
      }
      await cofa('unmount', flat);
      const of = (task: string, name: string) => ({
        cold: median(results.get(`${task} ${name} cold`) ?? []),
        warm: median(results.get(`${task} ${name} warm`) ?? []),
      });
      return tasks.map(([task]) => ({ task, cofa: of(task, 'cofa'), overlayfs: of(task, 'overlayfs') }));
    });
  } finally {
    await cleanup.run();
  }
}
