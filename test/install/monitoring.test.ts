/** `cofa install monitoring` and its undoing, on files as Debian and people have them, with promtool as a judge. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeEach, expect, test } from 'vitest';
import { parse } from 'yaml';
import { errorOf, runCofa } from '../support/engine.ts';
import { Cleanup } from '../support/temp.ts';

/** Records and alarms that cofa comes with. */
const RULES = readFileSync(join(import.meta.dirname, '../../ops/prometheus/cofa.rules.yaml'), 'utf8').match(
  /^ +- (record|alert): /gm,
)?.length;

const cleanup = new Cleanup();
afterAll(() => cleanup.run());
let etc: string;
let config: string;
let grafana: string;

beforeEach(async () => {
  etc = await cleanup.tempDir('monitoring');
  config = join(etc, 'prometheus/prometheus.yml');
  grafana = join(etc, 'grafana');
  mkdirSync(join(etc, 'prometheus'));
});

const cofa = (...args: string[]) =>
  runCofa([...args, '--prometheus-config', config, '--grafana', grafana, '--no-unit'].flat());
const filesIn = (folder: string): string[] =>
  existsSync(folder) ? readdirSync(folder, { recursive: true, encoding: 'utf8' }).toSorted() : [];

/** As Debian 12's package has it, shortened. */
const DEBIAN = `# Sample config for Prometheus.

global:
  scrape_interval:     15s # Set the scrape interval to every 15 seconds. Default is every 1 minute.
  external_labels:
      monitor: 'example'

alerting:
  alertmanagers:
  - static_configs:
    - targets: ['localhost:9093']

# Load rules once and periodically evaluate them.
rule_files:
  # - "first_rules.yml"

# Here it's Prometheus itself.
scrape_configs:
  # The job name is added as a label.
  - job_name: 'prometheus'
    scrape_interval: 5s

    static_configs:
      - targets: ['localhost:9090']
`;
/** Lists that begin in the first column, a rule file, and no newline at the end. */
const FLUSH = `scrape_configs:
- job_name: node
  static_configs: [{targets: ['localhost:9100']}]
rule_files:
- other.yml`;

test.each([
  ['Debian’s', DEBIAN],
  ['one whose lists are flush', FLUSH],
  ['one without lists', 'global:\n  scrape_interval: 30s\n'],
  ['an empty one', ''],
])('into %s configuration: promtool takes it, and uninstall leaves no trace', async (_, before) => {
  writeFileSync(config, before);
  writeFileSync(join(etc, 'prometheus/other.yml'), 'groups: []\n');
  const shown = await cofa('install', 'monitoring', '--dry-run', '--metrics-target', '127.0.0.1:9555');
  expect(shown).toMatchObject({ code: 0, stderr: '' });
  expect(shown.stdout).toMatch(/\+ +- job_name: cofa/);
  expect(readFileSync(config, 'utf8')).toBe(before);
  expect(filesIn(grafana)).toEqual([]);

  const done = await cofa('install', 'monitoring', '--metrics-target', '127.0.0.1:9555');
  expect(done).toMatchObject({ code: 0, stderr: '' });
  expect(done.stdout).toContain('cofa up --metrics 127.0.0.1:9555');
  expect(execFileSync('promtool', ['check', 'config', config], { encoding: 'utf8' })).toContain(
    `${RULES} rules found`,
  );
  const after = parse(readFileSync(config, 'utf8')) as { scrape_configs: Array<{ job_name: string }> };
  expect(after.scrape_configs[0]).toEqual({
    job_name: 'cofa',
    static_configs: [{ targets: ['127.0.0.1:9555'] }],
  });
  // What stood there stands there still, comments too.
  for (const line of before.split('\n')) expect(readFileSync(config, 'utf8').split('\n')).toContain(line);
  expect(filesIn(join(grafana, 'cofa'))).toEqual([
    'cofa-fleet.json',
    'cofa-overview.json',
    'cofa-start.json',
  ]);
  const provider = parse(readFileSync(join(grafana, 'provisioning/dashboards/cofa.yaml'), 'utf8')) as {
    providers: Array<{ options: { path: string } }>;
  };
  expect(provider.providers[0]?.options.path).toBe(join(grafana, 'cofa'));

  expect((await cofa('install', 'monitoring', '--metrics-target', '127.0.0.1:9555')).stdout).toContain(
    'nothing to do',
  );
  expect((await cofa('uninstall', 'monitoring')).code).toBe(0);
  expect(readFileSync(config, 'utf8')).toBe(before);
  expect(filesIn(join(etc, 'prometheus'))).toEqual(['other.yml', 'prometheus.yml']);
  expect(filesIn(grafana).filter((name) => name.endsWith('.json') || name.endsWith('.yaml'))).toEqual([]);
  expect((await cofa('uninstall', 'monitoring')).stdout).toContain('nothing to do');
});

test.each([
  ['a list on one line', 'scrape_configs: [{job_name: a}]\n', /no place/],
  ['a job of that name', 'scrape_configs:\n  - job_name: cofa\n', /job of the name cofa/],
  ['no YAML', 'a: [\n', /not YAML/],
])('%s is left alone, and the user told', async (_, before, message) => {
  writeFileSync(config, before);
  const refused = await cofa('install', 'monitoring', '--json');
  expect(errorOf(refused)).toMatchObject({ code: 'unsupported', message: expect.stringMatching(message) });
  expect(readFileSync(config, 'utf8')).toBe(before);
  expect(filesIn(grafana)).toEqual([]);
});

test('files of others under the same names stay', async () => {
  writeFileSync(config, DEBIAN);
  writeFileSync(join(etc, 'prometheus/cofa.rules.yaml'), 'groups: []\n');
  mkdirSync(join(grafana, 'provisioning/dashboards'), { recursive: true });
  writeFileSync(join(grafana, 'provisioning/dashboards/cofa.yaml'), 'apiVersion: 1\n');
  expect((await cofa('uninstall', 'monitoring')).stdout).toContain('nothing to do');
});
