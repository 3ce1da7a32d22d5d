/**
 * The cases of containerd's own test suite for snapshotters (core/snapshots/testsuite), against the socket, with real
 * mounts. Each has the name that it has there.
 */
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Code } from '@connectrpc/connect';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { wallClock } from '../../src/kernel/clock.ts';
import { startEngine } from '../support/engine.ts';
import { Cleanup } from '../support/temp.ts';
import {
  all,
  checkSnapshots,
  connectSnapshotter,
  expectSameTree,
  file,
  folder,
  gone,
  inside,
  kindOf,
  linked,
  msOf,
  owned,
  refused,
  renamed,
  type SnapshotClient,
} from './test-bed.ts';
import { untilServed } from './served.ts';

const cleanup = new Cleanup();
let client: SnapshotClient;
let work: string;
let socket: string;
/** A name of its own for each test: they share one snapshotter. */
let n = 0;
let id: string;

beforeAll(async () => {
  work = await cleanup.tempDir('snap');
  const engine = await startEngine({ workers: 1, args: ['--snapshotter'] });
  cleanup.defer(() => engine.stop());
  socket = join(engine.root, 'run/snapshotter.sock');
  client = await untilServed(socket);
  cleanup.defer(() => client.close());
});
beforeEach(() => {
  id = `${work}/${n++}`;
});
afterAll(() => cleanup.run());

const nowMs = () => {
  const { sec, nsec } = wallClock();
  return sec * 1000 + nsec / 1e6;
};

describe("containerd's suite", () => {
  test('Basic', async () => {
    const initial = all(
      file('foo', 'foo\n', 0o777),
      folder('a', 0o755),
      folder('a/b', 0o755),
      folder('a/b/c', 0o755),
    );
    const diff = all(file('bar', 'bar\n', 0o777), file('foo', 'bar\n', 0o777), gone('a/b'));
    const flat = await cleanup.tempDir('flat');
    await inside(await client.prepare(`${id}/preparing`), work, initial);
    initial(flat);
    await client.commit(`${id}/committed`, `${id}/preparing`);
    const committed = await client.stat(`${id}/committed`);
    expect([committed.parent, kindOf(committed)]).toEqual(['', 'COMMITTED']);
    await refused(client.stat(`${id}/preparing`), Code.NotFound);

    await inside(await client.prepare(`${id}/next`, `${id}/committed`), work, async (root) => {
      await expectSameTree(flat, root);
      diff(root);
    });
    diff(flat);
    const active = await client.stat(`${id}/next`);
    expect([active.parent, kindOf(active)]).toEqual([`${id}/committed`, 'ACTIVE']);
    await client.commit(`${id}/next-committed`, `${id}/next`);
    const second = await client.stat(`${id}/next-committed`);
    expect([second.parent, kindOf(second)]).toEqual([`${id}/committed`, 'COMMITTED']);
    await refused(client.stat(`${id}/next`), Code.NotFound);
    const walked = new Map((await client.walk()).map((info) => [info.name, info]));
    expect(walked.get(committed.name)).toEqual(committed);
    expect(walked.get(second.name)).toEqual(second);

    const view = await client.view(`${id}/view`, `${id}/next-committed`);
    await inside(view, work, (root) => expectSameTree(flat, root));
    await client.remove(`${id}/view`);
    const error = await refused(client.remove(`${id}/committed`), Code.FailedPrecondition);
    expect(error.message).toContain('remove');
    await client.remove(`${id}/next-committed`);
    await client.remove(`${id}/committed`);
  });

  test('StatActive', async () => {
    await inside(await client.prepare(`${id}/p`), work, () => {});
    const info = await client.stat(`${id}/p`);
    expect([info.name, kindOf(info), info.parent]).toEqual([`${id}/p`, 'ACTIVE', '']);
  });

  test('StatComitted', async () => {
    await inside(await client.prepare(`${id}/p`), work, () => {});
    await client.commit(`${id}/c`, `${id}/p`);
    const info = await client.stat(`${id}/c`);
    expect([info.name, kindOf(info), info.parent]).toEqual([`${id}/c`, 'COMMITTED', '']);
  });

  test('TransitivityTest', async () => {
    await inside(await client.prepare(`${id}/p`), work, file('foo', 'foo\n', 0o777));
    await client.commit(`${id}/a`, `${id}/p`);
    await inside(await client.prepare(`${id}/n`, `${id}/a`), work, file('foo', 'foo bar\n', 0o777));
    await client.commit(`${id}/b`, `${id}/n`);
    const b = await client.stat(`${id}/b`);
    expect((await client.stat(`${id}/a`)).parent).toBe('');
    expect(b.parent).toBe(`${id}/a`);
    expect((await client.stat(b.parent)).parent).toBe('');
  });

  test('PreareViewFailingtest', async () => {
    await client.prepare(`${id}/p`);
    await client.commit(`${id}/a`, `${id}/p`);
    await client.prepare(`${id}/new`, `${id}/a`);
    await refused(client.view(`${id}/new`, `${id}/a`), Code.AlreadyExists);
    await refused(client.prepare(`${id}/new`, `${id}/a`), Code.AlreadyExists);
    await client.view(`${id}/view`, `${id}/a`);
    await refused(client.view(`${id}/view`, `${id}/a`), Code.AlreadyExists);
    await refused(client.prepare(`${id}/a`), Code.AlreadyExists);
  });

  test('Update', async () => {
    const before = nowMs();
    await baseSnapshots(id);
    const after = nowMs();
    const cases = [
      ['c1', 'COMMITTED', ''],
      ['c2', 'COMMITTED', 'c1'],
      ['a1', 'ACTIVE', 'c2'],
      ['a2', 'ACTIVE', ''],
      ['v1', 'VIEW', 'c2'],
      ['v2', 'VIEW', ''],
    ] as const;
    for (const [short, kind, parent] of cases) {
      const name = `${id}/${short}`;
      const info = await client.stat(name);
      const facts = { kind, name, parent: parent === '' ? '' : `${id}/${parent}` };
      const factsOf = (of: typeof info) => ({ kind: kindOf(of), name: of.name, parent: of.parent });
      expect(msOf(info.createdAt)).toBeGreaterThanOrEqual(before);
      expect(msOf(info.createdAt)).toBeLessThanOrEqual(after);
      expect(info.updatedAt).toEqual(info.createdAt);
      expect(factsOf(info)).toEqual(facts);
      const update = async (labels: Record<string, string>, ...paths: string[]) =>
        (
          await client.api.update({
            info: { ...info, parent: 'doesnotexist', labels },
            updateMask: { paths },
          })
        ).info as typeof info;

      const root = { 'containerd.io/gc.root': 'now' };
      const from = nowMs();
      const all = await update({ l1: 'v1', l2: 'v2', l3: 'v3', ...root });
      expect(all.labels).toEqual({ l1: 'v1', l2: 'v2', l3: 'v3', ...root });
      expect(all.createdAt).toEqual(info.createdAt);
      expect(msOf(all.updatedAt)).toBeGreaterThanOrEqual(from);
      expect(msOf(all.updatedAt)).toBeLessThanOrEqual(nowMs());
      expect(factsOf(all)).toEqual(facts);
      const some = await update({ l1: 'updated', l4: 'v4' }, 'labels.l1', 'labels.l2');
      expect(some.labels).toEqual({ l1: 'updated', l3: 'v3', ...root });
      expect((await update({ l4: 'v4', ...root }, 'labels')).labels).toEqual({ l4: 'v4', ...root });
      await refused(update({}, 'parent'), Code.InvalidArgument);
      expect((await client.stat(name)).labels).toEqual({ l4: 'v4', ...root });
    }
    await refused(client.api.update({ info: { name: `${id}/none` } }), Code.NotFound);
  });

  test('Remove', async () => {
    await client.prepare(`${id}/ca`);
    await client.commit(`${id}/c1`, `${id}/ca`);
    await client.prepare(`${id}/reuse`, `${id}/c1`);
    await client.remove(`${id}/reuse`);
    await client.view(`${id}/reuse`, `${id}/c1`);
    await client.remove(`${id}/reuse`);
    await client.prepare(`${id}/reuse`);
    await client.remove(`${id}/c1`);
    await client.commit(`${id}/c1`, `${id}/reuse`);
    await refused(client.remove(`${id}/none`), Code.NotFound);
  });

  test('Walk', async () => {
    const labels = { 'containerd.io/gc.root': `check-walk-${n}` };
    const at = (name: string) => `w${n}-${name}`;
    await client.prepare(at('a-np'), '', labels);
    await client.prepare(at('p-tmp'), '', labels);
    await client.commit(at('p'), at('p-tmp'), labels);
    await client.prepare(at('a'), at('p'), labels);
    await client.view(at('v'), at('p'), labels);
    await client.prepare(at('p-wl-tmp'), '', labels);
    await client.commit(at('p-wl'), at('p-wl-tmp'), { l: '1', ...labels });
    await client.prepare(at('a-wl'), at('p-wl'), { l: '2', ...labels });
    await client.view(at('v-wl'), at('p-wl'), { l: '3', ...labels });
    await client.prepare(at('a-np-wl'), '', { l: '2', ...labels });
    const mine = `labels."containerd.io/gc.root"==check-walk-${n}`;
    for (const [matches, ...filters] of [
      ['a-np p a v p-wl a-wl v-wl a-np-wl', mine],
      ['a-np a a-wl a-np-wl', `kind==active,${mine}`],
      ['v v-wl', `kind==view,${mine}`],
      ['p p-wl', `kind==committed,${mine}`],
      ['p a-np-wl', `name==${at('p')}`, `name==${at('a-np-wl')}`],
      ['a-wl', `name==${at('a-wl')},labels.l`],
      ['a v', `parent==${at('p')}`],
      ['a v a-wl v-wl', `parent!="",${mine}`],
      ['p-wl a-wl v-wl a-np-wl', `labels.l,${mine}`],
      ['a-wl a-np-wl', `labels.l==2,${mine}`],
      ['a-wl a-np-wl', `labels.l~=/^[2]$/,${mine}`],
      ['a v a-wl v-wl', `parent~="^w",${mine}`],
    ] as Array<[string, ...string[]]>) {
      const names = (await client.walk(...filters)).map((info) => info.name).sort();
      expect(names, filters.join(' or ')).toEqual(matches.split(' ').map(at).sort());
    }
    for (const broken of ['name=p', 'name==', 'labels.', ',', 'name=="p', 'name==/p/', 'a\0b', 'a b']) {
      await refused(client.walk(broken), Code.InvalidArgument);
    }
  });

  test('LayerFileupdate', async () => {
    const first = all(
      folder('etc', 0o700),
      file('etc/hosts', 'mydomain 10.0.0.1', 0o644),
      file('etc/profile', 'PATH=/usr/bin', 0o644),
    );
    const second = all(
      file('etc/hosts', 'mydomain 10.0.0.2', 0o644),
      file('etc/profile', 'PATH=/usr/bin', 0o666),
      folder('root', 0o700),
      file('root/.bashrc', 'PATH=/usr/sbin:/usr/bin', 0o644),
    );
    for (let round = 0; round < 5; round++)
      await checkSnapshots(client, work, `${id}/${round}`, first, second);
  });

  test('RemoveDirectoryInLowerLayer', () =>
    checkSnapshots(
      client,
      work,
      id,
      all(folder('lib', 0o700), file('lib/hidden', '', 0o644)),
      all(gone('lib'), folder('lib', 0o700), file('lib/not-hidden', '', 0o644)),
      file('lib/newfile', '', 0o644),
    ));

  test('Chown', () =>
    checkSnapshots(
      client,
      work,
      id,
      all(
        folder('opt', 0o700),
        folder('opt/a', 0o700),
        folder('opt/a/b', 0o700),
        file('opt/a/b/file.txt', 'hello', 0o644),
      ),
      all(owned('opt', 1, 1), owned('opt/a', 1, 1), owned('opt/a/b', 1, 1), owned('opt/a/b/file.txt', 1, 1)),
    ));

  test('DirectoryPermissionOnCommit', () =>
    checkSnapshots(
      client,
      work,
      id,
      all(
        ...[1, 2, 3, 4, 5].map((at) => folder(`dir${at}`, 0o700)),
        file('dir4/f1', '...', 0o644),
        file('dir5/f1', '...', 0o644),
        ...[1, 2, 3, 5].map((at) => owned(`dir${at}`, 1, 1)),
        owned('dir5/f1', 1, 1),
      ),
      all(owned('dir2', 0, 0), gone('dir3'), owned('dir4', 1, 1), owned('dir4/f1', 1, 1)),
      all(
        folder('dir3', 0o700),
        owned('dir3', 1, 1),
        gone('dir5'),
        folder('dir5', 0o700),
        owned('dir5', 1, 1),
      ),
    ));

  test('RemoveIntermediateSnapshot', async () => {
    await client.prepare(`${id}/base`);
    await client.commit(`${id}/c-base`, `${id}/base`);
    await client.prepare(`${id}/inter`, `${id}/c-base`);
    await client.commit(`${id}/c-inter`, `${id}/inter`);
    await client.prepare(`${id}/top`, `${id}/c-inter`);
    await refused(client.remove(`${id}/c-inter`), Code.FailedPrecondition);
    await client.remove(`${id}/top`);
    await client.remove(`${id}/c-inter`);
    await client.remove(`${id}/c-base`);
  });

  test('DeletedFilesInChildSnapshot', () =>
    checkSnapshots(
      client,
      work,
      id,
      all(file('foo', 'foo\n', 0o777), file('foobar', 'foobar\n', 0o777)),
      gone('foobar'),
      all(),
    ));

  test('MoveFileFromLowerLayer', () =>
    checkSnapshots(
      client,
      work,
      id,
      all(
        folder('dir1', 0o700),
        file('dir1/f1', 'Hello', 0o644),
        folder('dir2', 0o700),
        file('dir2/f2', '...', 0o644),
      ),
      all(
        folder('dir3', 0o700),
        file('dir3/f1', 'Hello', 0o644),
        gone('dir1'),
        linked('dir2/f2', 'dir3/f2'),
        gone('dir2/f2'),
      ),
    ));

  test('ViewReadonly', async () => {
    await client.prepare(`${id}/p`);
    await client.commit(`${id}/c`, `${id}/p`);
    await inside(await client.view(`${id}/v`, `${id}/c`), work, (root) => {
      expect(() => writeFileSync(join(root, 'testfile'), 'testcontent')).toThrow('EROFS');
    });
    await client.remove(`${id}/v`);
    await client.remove(`${id}/c`);
  });

  test('StatInWalk', async () => {
    await baseSnapshots(id);
    for await (const { info } of client.api.list({})) {
      for (const one of info) {
        if (one.name.startsWith(id)) expect(await client.stat(one.name)).toEqual(one);
      }
    }
  });

  test('CloseTwice', async () => {
    const other = connectSnapshotter(socket);
    await other.prepare(`${id}/p`);
    await other.commit(`${id}/c`, `${id}/p`);
    await other.remove(`${id}/c`);
    other.close();
    other.close();
    await refused(client.stat(`${id}/c`), Code.NotFound);
  });

  test('RootPermission', async () => {
    await inside(await client.prepare(`${id}/p`), work, (root) => {
      expect(statSync(root).mode & 0o777).toBe(0o755);
    });
  });

  test('Rename', () =>
    checkSnapshots(
      client,
      work,
      id,
      all(
        folder('dir1', 0o700),
        file('dir1/below', 'moves along', 0o644),
        folder('somefiles', 0o700),
        file('somefiles/f1', 'was here first!', 0o644),
        file('somefiles/f2', 'nothing interesting', 0o644),
      ),
      all(
        renamed('dir1', 'dir2'),
        file('somefiles/f1-overwrite', 'new content 1', 0o644),
        renamed('somefiles/f1-overwrite', 'somefiles/f1'),
        renamed('somefiles/f2', 'somefiles/f3'),
      ),
      all(renamed('dir2', 'dir3'), file('dir3/more', 'x', 0o600)),
    ));

  test('128LayersMount', async () => {
    const flat = await cleanup.tempDir('128');
    let parent = '';
    for (let layer = 0; layer < 128; layer++) {
      const change =
        layer === 0
          ? all(
              file('bottom', 'way at the bottom\n', 0o777),
              file('overwriteme', 'FIRST!\n', 0o777),
              folder('addhere', 0o755),
              folder('onlyme', 0o755),
              file('onlyme/bottom', 'bye!\n', 0o777),
            )
          : all(
              file('overwriteme', `${layer} WAS HERE!\n`, 0o777),
              file(`addhere/file-${layer}`, 'same\n', 0o755),
              gone('onlyme'),
              folder('onlyme', 0o755),
              file(`onlyme/file-${layer}`, 'only me!\n', 0o777),
            );
      const key = `${id}/prepare-${layer}`;
      await inside(await client.prepare(key, parent), work, change);
      change(flat);
      parent = `${id}/committed-${layer}`;
      await client.commit(parent, key);
    }
    await inside(await client.view(`${id}/v`, parent), work, async (root) => {
      await expectSameTree(flat, root);
      expect(readFileSync(join(root, 'overwriteme'), 'utf8')).toBe('127 WAS HERE!\n');
      expect(existsSync(join(root, 'onlyme/bottom'))).toBe(false);
    });
  });
});

async function baseSnapshots(id: string): Promise<void> {
  await client.prepare(`${id}/c1-a`);
  await client.commit(`${id}/c1`, `${id}/c1-a`);
  await client.prepare(`${id}/c2-a`, `${id}/c1`);
  await client.commit(`${id}/c2`, `${id}/c2-a`);
  await client.prepare(`${id}/a1`, `${id}/c2`);
  await client.prepare(`${id}/a2`);
  await client.view(`${id}/v1`, `${id}/c2`);
  await client.view(`${id}/v2`);
}
