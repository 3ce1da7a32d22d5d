/** The chart and the kustomize base give the very objects of ops/kubernetes. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { judgeAtHand } from '../../ops/images/judges.ts';
import { version } from '../../src/client/version.ts';
import { runCommand } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';
import { parseYaml } from '../support/yaml.ts';

const FOLDER = join(import.meta.dirname, '../../ops/kubernetes');
const CHART = join(FOLDER, 'chart');
const onProgress = (line: string) => console.log(line);
const kubernetes = judgeAtHand('kubernetes', { onProgress });
const helm = judgeAtHand('helm', { onProgress });
const cleanup = new Cleanup();
afterAll(() => cleanup.run());

interface Manifest {
  kind: string;
  metadata: { name: string };
  spec?: {
    template: { spec: { nodeSelector?: object; containers: Array<{ image: string; args?: string[] }> } };
  };
}

const byName = (all: Manifest[]) =>
  all.toSorted((a, b) => (`${a.kind}/${a.metadata.name}` < `${b.kind}/${b.metadata.name}` ? -1 : 1));
const written = () =>
  byName(
    ['cofa', 'configure'].flatMap((name) => parseYaml<Manifest>(readFileSync(join(FOLDER, `${name}.yaml`)))),
  );

test.runIf(kubernetes)('the kustomize base', async () => {
  const said = await runCommand(join(kubernetes as string, 'kubectl'), ['kustomize', FOLDER]);
  expect(byName(parseYaml(said))).toEqual(written());
});

describe.runIf(helm)('the chart', () => {
  const rendered = async (...args: string[]) => {
    const home = await cleanup.tempDir('helm');
    const said = await runCommand(
      join(helm as string, 'helm'),
      ['template', 'cofa', CHART, '--namespace', 'kube-system', ...args],
      { env: { HELM_CACHE_HOME: home, HELM_CONFIG_HOME: home, HELM_DATA_HOME: home } },
    );
    return byName(parseYaml<Manifest>(said));
  };

  test('gives the same by default', async () => {
    expect(await rendered()).toEqual(written());
  });

  test('takes an image, options, and nodes', async () => {
    const image = 'registry.mine/cofa:7';
    const all = await rendered(
      '--set',
      `image=${image},configure=false,nodeSelector.lazy=yes`,
      '--set-json',
      'args=["--keep-free","30","--trust","operator"]',
    );
    expect(all.map(({ kind }) => kind)).toEqual(['DaemonSet', 'RuntimeClass', 'ServiceAccount']);
    const spec = all[0]?.spec?.template.spec;
    expect(spec?.containers[0]).toMatchObject({ image, args: ['--keep-free', '30', '--trust', 'operator'] });
    expect(spec?.nodeSelector).toEqual({ lazy: 'yes' });
  });
});

test('the chart has the version of cofa', () => {
  const [chart] = parseYaml<{ version: string; appVersion: string }>(readFileSync(join(CHART, 'Chart.yaml')));
  expect(chart).toMatchObject({ version: version(), appVersion: version() });
});
