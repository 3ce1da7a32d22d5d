/** `cofa install monitoring`: Prometheus and Grafana of this machine find the engine, its alarms and its boards. */
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Command } from 'commander';
import { CofaError } from '../../schemas/errors.ts';
import {
  MONITORING_PATHS,
  type MonitoringPaths,
  planMonitoring,
  planMonitoringUninstall,
  rulesOf,
} from '../install/monitoring.ts';
import type { FileChange, ReadFile } from '../install/plans.ts';

export interface MonitoringFlags {
  prometheusConfig?: string;
  grafana?: string;
  metricsTarget: string;
}

const OPS = fileURLToPath(new URL('../../ops', import.meta.url));

export function addMonitoringFlags(command: Command): Command {
  return command
    .option(
      '--prometheus-config <file>',
      `monitoring: Prometheus’ configuration (default: ${MONITORING_PATHS.prometheus}, where it is)`,
    )
    .option(
      '--grafana <dir>',
      `monitoring: Grafana’s folder (default: ${MONITORING_PATHS.grafana}, where it is)`,
    );
}

/** What is here, or was named. Error `environment`: neither of them. */
function pathsOf({ prometheusConfig, grafana }: MonitoringFlags): MonitoringPaths {
  const here = (named: string | undefined, usual: string) =>
    named === undefined ? (existsSync(usual) ? usual : undefined) : resolve(named);
  // Where one is named the other is not meant.
  const isNamed = prometheusConfig !== undefined || grafana !== undefined;
  return {
    prometheus:
      isNamed && prometheusConfig === undefined
        ? undefined
        : here(prometheusConfig, MONITORING_PATHS.prometheus),
    grafana: isNamed && grafana === undefined ? undefined : here(grafana, MONITORING_PATHS.grafana),
  };
}

const boardNames = async (): Promise<string[]> =>
  (await readdir(join(OPS, 'grafana'))).filter((name) => name.endsWith('.json')).toSorted();

/** Errors: those of `planMonitoring`; `environment` where there is neither; `unsupported` where promtool refuses. */
export async function monitoringChanges(
  flags: MonitoringFlags,
  read: ReadFile,
): Promise<{ changes: FileChange[]; next: string[] }> {
  const paths = pathsOf(flags);
  if (paths.prometheus === undefined && paths.grafana === undefined) {
    throw new CofaError('environment', 'neither Prometheus nor Grafana is installed here', {
      hint: `name them: --prometheus-config FILE, --grafana DIR; or take ops/prometheus and ops/grafana by hand (docs/metrics.md)`,
    });
  }
  const boards = new Map<string, string>();
  for (const name of await boardNames())
    boards.set(`cofa-${name}`, await readFile(join(OPS, 'grafana', name), 'utf8'));
  const rules = await readFile(join(OPS, 'prometheus/cofa.rules.yaml'), 'utf8');
  const changes = planMonitoring({ paths, read, target: flags.metricsTarget, rules, boards });
  await checkByPromtool(changes, paths.prometheus);
  return { changes, next: nextSteps(paths, flags.metricsTarget) };
}

export async function monitoringUninstall(flags: MonitoringFlags, read: ReadFile): Promise<FileChange[]> {
  const boards = (await boardNames()).map((name) => `cofa-${name}`);
  return planMonitoringUninstall({ paths: pathsOf(flags), read, boards });
}

const nextSteps = ({ prometheus, grafana }: MonitoringPaths, target: string): string[] => [
  `cofa up --metrics ${target}    # of a service: metrics = "${target}" in /etc/cofa/config.toml, then cofa upgrade --engine`,
  ...(prometheus === undefined ? [] : ['systemctl reload prometheus']),
  ...(grafana === undefined ? [] : ['systemctl restart grafana-server']),
];

/** The judge of its configuration is Prometheus itself, where it is here. */
async function checkByPromtool(changes: readonly FileChange[], config: string | undefined): Promise<void> {
  if (config === undefined) return;
  const [text, rules] = [config, rulesOf(config)].map(
    (path) => changes.find((change) => change.path === path)?.after,
  );
  if (text === undefined) return;
  const { exec, findProgram } = await import('../container/exec.ts');
  const promtool = findProgram('promtool');
  if (promtool === undefined) return;
  const folder = await mkdtemp(join(tmpdir(), 'cofa-install-'));
  try {
    const draft = join(folder, 'prometheus.yml');
    await writeFile(draft, text);
    await writeFile(rulesOf(draft), rules ?? 'groups: []\n');
    // Files that the configuration names lie beside the real one, not here: only its form is judged.
    const { code, stdout, stderr } = await exec(
      promtool,
      ['check', 'config', '--syntax-only', draft],
      30_000,
    );
    if (code === 0) return;
    throw new CofaError(
      'unsupported',
      `Prometheus would not take the changed ${config}: ${`${stdout}${stderr}`.trim()}`,
      {
        hint: 'nothing was written; add the lines of docs/metrics.md by hand',
      },
    );
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
