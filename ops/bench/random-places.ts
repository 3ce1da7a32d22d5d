/** Places in the files of a tree, for reads at random. */
import { timed } from './measure.ts';

/** Larger files are chosen more often, so that each place of 4 KiB has about the same chance. */
const PLACES = `
import os, random, sys
root = sys.argv[1]
files = []
for folder, _, names in sorted(os.walk(root)):
    for name in sorted(names):
        path = os.path.join(folder, name)
        if os.path.islink(path) or not os.path.isfile(path): continue
        size = os.path.getsize(path)
        if size >= 4096: files.append((os.path.relpath(path, root), size))
chance = random.Random(int(sys.argv[2]))
for path, size in chance.choices(files, [size for _, size in files], k=int(sys.argv[3])):
    print(chance.randrange(size // 4096) * 4096, path)
`;

/** Writes `count` lines into `list`, each an offset in bytes, a blank, and the path of its file below `root`. */
export async function placesAtRandom(
  root: string,
  { seed, count, list }: { seed: number; count: number; list: string },
): Promise<void> {
  const args = [root, `${seed}`, `${count}`];
  await timed('sh', ['-c', 'exec python3 -c "$1" "$2" "$3" "$4" > "$5"', 'sh', PLACES, ...args, list]);
}
