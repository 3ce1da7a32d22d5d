import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test, vi } from 'vitest';
import { stagedModule } from '../../ops/images/go-programs.ts';
import { JUDGES, judgeAtHand } from '../../ops/images/judges.ts';
import { PERFETTO, perfettoUi } from '../../ops/images/perfetto.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

test('a judge that was not built is done without, and it is said how to have it', async () => {
  const cache = await cleanup.tempDir('judges');
  const said: string[] = [];
  const onProgress = (line: string) => said.push(line);
  expect(judgeAtHand('containerd-2.4', { cache, onProgress })).toBeUndefined();
  expect(said).toEqual(['no containerd-2.4 here: ./ops/judges containerd-2.4 builds it, with Go']);
  const folder = join(cache, `containerd-${JUDGES['containerd-2.4'].version}`);
  mkdirSync(folder);
  expect(judgeAtHand('containerd-2.4', { cache, onProgress })).toBe(folder);
  expect(said).toHaveLength(1);
});

test('ops/judges lists what there is, and refuses names that it does not know', async () => {
  const env = { ...process.env, COFA_CACHE: await cleanup.tempDir('judges-list') };
  const judges = (...args: string[]) =>
    spawnSync(join(import.meta.dirname, '../../ops/judges'), args, { env, encoding: 'utf8' });
  const { status, stdout } = judges('--list');
  expect({ status, lines: stdout.trim().split('\n') }).toEqual({
    status: 0,
    lines: Object.entries(JUDGES).map(([name, { version }]) => `${name}  ${version}  not built`),
  });
  expect(judges('cri-o')).toMatchObject({
    status: 2,
    stderr: `judges: "cri-o" is not one of ${Object.keys(JUDGES).join(', ')}\n`,
  });
});

test('folders that a go.mod wants become modules by their versions: those below it, and the one above it', () => {
  const kubernetes = [
    'module k8s.io/kubernetes',
    'replace (',
    '\tk8s.io/api => ./staging/src/k8s.io/api',
    ')',
  ];
  expect(
    stagedModule(kubernetes.join('\n'), { module: 'k8s.io/kubernetes', version: 'v1.2.3', parts: 'v0.2.3' }),
  ).toBe(
    'module judge\nreplace (\n\tk8s.io/api => k8s.io/api v0.2.3\n)\n\nrequire k8s.io/kubernetes v1.2.3\n',
  );
  const soci = [
    'module example.org/soci/cmd',
    'replace example.org/soci v0.0.0-local => ../',
    'replace example.org/other => example.org/fork v1.0.0',
  ];
  expect(
    stagedModule(soci.join('\n'), { module: 'example.org/soci/cmd', version: 'v0.0.0-1', parts: 'v0.1.0' }),
  ).toBe(
    [
      'module judge',
      'replace example.org/soci v0.0.0-local => example.org/soci v0.1.0',
      'replace example.org/other => example.org/fork v1.0.0',
      '',
      'require example.org/soci/cmd v0.0.0-1',
      '',
    ].join('\n'),
  );
});

test('Perfetto is done without where pip finds no way to it, and nothing half stays', async () => {
  const cache = await cleanup.tempDir('perfetto-none');
  const said: string[] = [];
  vi.stubEnv('PIP_NO_INDEX', '1');
  vi.stubEnv('PIP_FIND_LINKS', cache);
  try {
    expect(await perfettoUi({ cache, onProgress: (line) => said.push(line) })).toBeUndefined();
  } finally {
    vi.unstubAllEnvs();
  }
  expect(said.at(-1)).toMatch(new RegExp(`^no Perfetto ${PERFETTO.version}: `));
  expect(readdirSync(cache)).toEqual([]);
});
