/** A root that an engine of an earlier version left: the engine of today goes on where that one ended. */
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, describe, expect, it } from 'vitest';
import { prose } from '../images/nasty.ts';
import { startEngine, untilWell } from '../support/engine.ts';
import { Cleanup, listMounts } from '../support/temp.ts';

/** The log of that root has its mount here. */
const DIR = '/tmp/cofa-root-0.1.0-app';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

describe('a root of version 0.1.0', () => {
  it('brings its mount back with every byte, without the registry, and keeps what was proven', async () => {
    const root = await cleanup.tempDir('old-root');
    const archive = join(import.meta.dirname, '../fixtures/roots/0.1.0.tar.gz');
    await promisify(execFile)('tar', ['xzf', archive, '-C', root]);
    const engine = await startEngine({ root, args: ['--node', 'relic'] });
    cleanup.defer(() => engine.stop());

    await untilWell(engine);
    const { mounts, images } = await engine.status();
    expect(mounts).toMatchObject([{ dir: DIR, state: 'mounted', origin: 'sidecar', trust: 'proven' }]);
    expect(images).toMatchObject([
      { state: 'ready', blocks: { absent: 0, fetching: 0 }, bytes: { fetched: 0 } },
    ]);
    expect(await readFile(join(DIR, 'app/prose'))).toEqual(prose(150_000, 1));
    expect(await readFile(join(DIR, 'app/small'))).toEqual(prose(700, 2));
    expect(await readFile(join(DIR, 'lib/prose'))).toEqual(prose(90_000, 3));

    // The registry of then is gone: the same reference means what it meant.
    const again = join(root, 'again');
    const mounted = await engine.cli(['mount', images[0]?.ref ?? '', again]);
    expect(mounted.stderr).toBe('');
    expect(await readFile(join(again, 'app/small'))).toEqual(prose(700, 2));
    for (const dir of [again, DIR]) expect((await engine.cli(['unmount', dir])).code).toBe(0);
    expect(listMounts().filter(({ point }) => point === DIR)).toEqual([]);
    expect((await engine.cli(['down'])).code).toBe(0);
  });
});
