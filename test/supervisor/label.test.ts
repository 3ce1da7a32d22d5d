/** The word by which an engine knows its loop devices: they are the machine's, and so are those of engines in containers. */
import { createHash } from 'node:crypto';
import { cp, mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { Layout } from '../../src/store/layout.ts';
import { labelOf } from '../../src/supervisor/start/leftovers.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

test('two roots that have had one path, as in two containers, and a copy have different words; a root keeps its own', async () => {
  const directory = await cleanup.tempDir('label');
  const layout = new Layout(join(directory, 'root'));
  await layout.prepare();
  const first = await labelOf(layout);
  expect(first).toMatch(/^cofa:[0-9a-f]{12}$/);
  await mkdir(layout.image(`sha256:${'a'.repeat(64)}`));
  expect(await labelOf(layout)).toBe(first);

  await rename(layout.root, join(directory, 'away'));
  await layout.prepare();
  expect(await labelOf(layout)).not.toBe(first);

  await cp(join(directory, 'away'), join(directory, 'copy'), { recursive: true });
  expect(await labelOf(new Layout(join(directory, 'copy')))).not.toBe(first);
});

test('a root of 0.1.0 keeps the word of its path, by which its loops are known; nonsense in the file is no word', async () => {
  const layout = new Layout(await cleanup.tempDir('label'));
  await layout.prepare();
  await mkdir(layout.image(`sha256:${'a'.repeat(64)}`));
  const ofPath = `cofa:${createHash('sha256').update(layout.root).digest('hex').slice(0, 12)}`;
  expect(await labelOf(layout)).toBe(ofPath);
  expect(await readFile(layout.label(), 'utf8')).toMatch(/^\d+ [0-9a-f]{12}\n$/);
  expect(await labelOf(layout)).toBe(ofPath);
  await writeFile(layout.label(), 'nonsense ../../x\n');
  expect(await labelOf(layout)).toMatch(/^cofa:[0-9a-f]{12}$/);
});
