/** The files of an image that is removed, and of the same image that comes again at once. */
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { pino } from 'pino';
import { afterEach, expect, test } from 'vitest';
import { subjects } from '../../schemas/subjects.ts';
import type { EventLog } from '../../src/store/event-log.ts';
import { Layout } from '../../src/store/layout.ts';
import { LiveFold } from '../../src/store/live-fold.ts';
import { NodeFold } from '../../src/store/node-fold.ts';
import { Images, type ImagesOptions } from '../../src/supervisor/images/images.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterEach(() => cleanup.run());

const MANIFEST = `sha256:${'a'.repeat(64)}`;

test('a removal takes no file of the image that has come again meanwhile', async () => {
  const layout = new Layout(await cleanup.tempDir('removal'));
  const put = (path: string) => {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, 'bytes');
  };
  let seq = 0;
  const append: EventLog['append'] = async (subject, event) => {
    const record = { seq: ++seq, subject, event: { v: 1, at: 0, ...event } as never };
    live.take(record);
    return record;
  };
  const names = subjects('node');
  const live = new LiveFold({ events: { append }, names, fold: new NodeFold() });
  await live.append('a'.repeat(64), {
    type: 'image.resolved',
    ref: 'registry.example/app:1',
    registry: 'registry.example',
    repository: 'app',
    manifest: MANIFEST,
    config: `sha256:${'b'.repeat(64)}`,
    layers: [],
  });
  const images = new Images({
    layout,
    live,
    log: pino({ level: 'silent' }),
    trust: 'never',
  } as ImagesOptions);
  put(layout.flat(MANIFEST));
  put(layout.config(MANIFEST));
  const again = Promise.withResolvers<void>();
  live.listen(({ event }) => {
    if (event.type !== 'image.removed') return;
    // It is prepared again while the files of before are on their way out.
    setImmediate(() => {
      put(layout.flat(MANIFEST));
      again.resolve();
    });
  });
  await images.remove(MANIFEST);
  await again.promise;
  expect(existsSync(layout.flat(MANIFEST))).toBe(true);
  expect(existsSync(layout.config(MANIFEST))).toBe(false);
  expect(readdirSync(layout.in('images'))).toEqual(['a'.repeat(64)]);
});
