/**
 * Namespaces of containerd whose clients are shown no layer that stays in the registry (src/containerd/lazy-content.ts), although the engine is
 * told to show them: `cofa uninstall` has taken the entries out, and a snapshotter that runs on must not add them again. A file in
 * the root names them, one a line. `cofa install` takes them out of it.
 */
import { readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { writeWhole } from './layout.ts';

/** Characters of the file that are read; a namespace has 76 at most (containerd's pkg/identifiers). */
const MOST = 16_384;

/** The namespaces that the file names; none where there is no file. */
export function hiddenIn(file: string): Set<string> {
  try {
    const text = readFileSync(file, 'utf8').slice(0, MOST);
    return new Set(text.split('\n').filter((line) => line !== ''));
  } catch {
    return new Set();
  }
}

/** Adds namespaces. Errors: of the file system. */
export async function hideBlobs(file: string, namespaces: readonly string[]): Promise<void> {
  await write(file, new Set([...hiddenIn(file), ...namespaces]));
}

/** Takes namespaces out. Errors: of the file system. */
export async function showBlobs(file: string, namespaces: readonly string[]): Promise<void> {
  const before = [...hiddenIn(file)];
  if (before.length > 0) await write(file, new Set(before.filter((one) => !namespaces.includes(one))));
}

async function write(file: string, namespaces: ReadonlySet<string>): Promise<void> {
  if (namespaces.size === 0) return await rm(file, { force: true });
  await writeWhole(file, Buffer.from(`${[...namespaces].join('\n')}\n`));
}
