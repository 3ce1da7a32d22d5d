/**
 * What `cofa install monitoring` writes into Prometheus and Grafana of this machine, and how it is taken back. This file only
 * decides, as plans.ts does. Prometheus' configuration is not written anew: lines are put in, between marks, so that comments
 * and the rest stay as they are.
 */
import { basename, dirname, join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { parse } from 'yaml';
import { CofaError } from '../../schemas/errors.ts';
import type { FileChange, ReadFile } from './plans.ts';

export interface MonitoringPaths {
  /** Prometheus' configuration; undefined: Prometheus is left alone. */
  prometheus: string | undefined;
  /** Grafana's folder; undefined: Grafana is left alone. */
  grafana: string | undefined;
}

export const MONITORING_PATHS = {
  prometheus: '/etc/prometheus/prometheus.yml',
  grafana: '/etc/grafana',
} as const;

export interface MonitoringOrder {
  paths: MonitoringPaths;
  read: ReadFile;
  /** `HOST:PORT` at which Prometheus finds the engine. */
  target: string;
  /** Text of the rules. */
  rules: string;
  /** Text of each board by file name. */
  boards: ReadonlyMap<string, string>;
}

const BEGIN = '# cofa install: begin';
const END = '# cofa install: end';
const MARK = '# Written by cofa install monitoring.';
const BY_HAND = 'write the lines of docs/metrics.md by hand';

/** The files to change. Error `unsupported` for a configuration in which the lines have no place. */
export function planMonitoring({ paths, read, target, rules, boards }: MonitoringOrder): FileChange[] {
  const changes: FileChange[] = [];
  const change = (path: string, after: string, why: string) => {
    const before = read(path);
    if (before !== after) changes.push({ path, before, after, why });
  };
  const { prometheus, grafana } = paths;
  if (prometheus !== undefined) {
    const before = read(prometheus);
    if (before === undefined)
      throw new CofaError('unsupported', `there is no ${prometheus}`, {
        hint: 'name it: --prometheus-config FILE',
      });
    change(rulesOf(prometheus), `${MARK}\n${rules}`, 'alarms, and what boards ask for often');
    change(
      prometheus,
      configured(before, rulesOf(prometheus), target, prometheus),
      'Prometheus scrapes the engine',
    );
  }
  if (grafana !== undefined) {
    change(providerOf(grafana), provider(boardsOf(grafana)), 'Grafana finds the boards');
    for (const [name, text] of boards) change(join(boardsOf(grafana), name), text, 'a board');
  }
  return changes;
}

/** The files to change back; `boards`: names of their files. What is not cofa's stays. */
export function planMonitoringUninstall(order: {
  paths: MonitoringPaths;
  read: ReadFile;
  boards: readonly string[];
}): FileChange[] {
  const { paths, read, boards } = order;
  const changes: FileChange[] = [];
  const remove = (path: string, after: string | undefined, why: string) => {
    const before = read(path);
    if (before !== undefined && before !== after) changes.push({ path, before, after, why });
  };
  const { prometheus, grafana } = paths;
  if (prometheus !== undefined) {
    remove(prometheus, without(read(prometheus) ?? ''), 'Prometheus forgets the engine');
    if (read(rulesOf(prometheus))?.startsWith(MARK) === true)
      remove(rulesOf(prometheus), undefined, 'rules of cofa');
  }
  if (grafana !== undefined && read(providerOf(grafana))?.startsWith(MARK) === true) {
    remove(providerOf(grafana), undefined, 'Grafana forgets the boards');
    for (const name of boards) remove(join(boardsOf(grafana), name), undefined, 'a board of cofa');
  }
  return changes;
}

export const rulesOf = (prometheus: string): string => join(dirname(prometheus), 'cofa.rules.yaml');
const providerOf = (grafana: string): string => join(grafana, 'provisioning/dashboards/cofa.yaml');
const boardsOf = (grafana: string): string => join(grafana, 'cofa');

const provider = (folder: string): string =>
  [
    MARK,
    'apiVersion: 1',
    'providers:',
    '  - name: cofa',
    '    folder: cofa',
    '    type: file',
    `    options: { path: ${JSON.stringify(folder)} }`,
    '',
  ].join('\n');

interface Config {
  rule_files?: unknown;
  scrape_configs?: unknown;
}

function configured(before: string, rules: string, target: string, path: string): string {
  const original = without(before);
  const job = {
    job_name: 'cofa',
    static_configs: [{ targets: [target] }],
  };
  const lines = ['- job_name: cofa', `  static_configs: [{ targets: [${JSON.stringify(target)}] }]`];
  const name = basename(rules);
  const text = inserted(inserted(original, 'rule_files', [`- ${name}`]), 'scrape_configs', lines);
  // The judge is the parser: nothing but the two entries may have come.
  const old = parsed(original, path);
  const young = soundly(() => parsed(text, path));
  const listOf = (value: unknown) => (Array.isArray(value) ? value : []);
  const wanted = {
    ...old,
    rule_files: [name, ...listOf(old.rule_files)],
    scrape_configs: [job, ...listOf(old.scrape_configs)],
  };
  const hasJob = listOf(old.scrape_configs).some(
    (one: { job_name?: unknown } | null) => one?.job_name === 'cofa',
  );
  if (hasJob || !isDeepStrictEqual(young, wanted)) {
    const why = hasJob
      ? 'has a job of the name cofa already'
      : 'is written in a way in which the lines have no place';
    throw new CofaError('unsupported', `${path} ${why}`, { hint: BY_HAND });
  }
  return text;
}

/** What `read` gives; undefined where it throws. */
function soundly<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}

function parsed(text: string, path: string): Config & Record<string, unknown> {
  try {
    return (parse(text, { maxAliasCount: 100 }) ?? {}) as Config & Record<string, unknown>;
  } catch (cause) {
    throw new CofaError('unsupported', `${path} is not YAML: ${(cause as Error).message}`, {
      hint: BY_HAND,
      cause,
    });
  }
}

/** Puts an entry first into a list at the top level, between marks; where there is no such list, at the end of the text. */
function inserted(text: string, key: string, entry: readonly string[]): string {
  const lines = text.split('\n');
  const at = lines.findIndex((line) => new RegExp(`^${key}:\\s*(#.*)?$`).test(line));
  if (at < 0) {
    const end = text === '' || text.endsWith('\n') ? '' : '\n';
    return `${text}${end}${[BEGIN, `${key}:`, ...entry.map((line) => `  ${line}`), END, ''].join('\n')}`;
  }
  const next = lines.slice(at + 1).find((line) => /^\s*[^\s#]/.test(line));
  const [, indent = '  '] = /^(\s*)- /.exec(next ?? '') ?? [];
  const added = [BEGIN, ...entry, END].map((line) => `${indent}${line}`);
  return [...lines.slice(0, at + 1), ...added, ...lines.slice(at + 1)].join('\n');
}

/** The text without what stands between the marks. */
function without(text: string): string {
  const lines: string[] = [];
  let isOurs = false;
  for (const line of text.split('\n')) {
    if (line.trim() === BEGIN) isOurs = true;
    if (!isOurs) lines.push(line);
    if (line.trim() === END) isOurs = false;
  }
  return isOurs ? text : lines.join('\n');
}
