/** A private Prometheus (Debian's) that scrapes what a test tells it to, once a second. It dies with its parent. */
import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { freePort } from './ports.ts';
import type { Cleanup } from './temp.ts';

export interface Prometheus {
  url: string;
  /** The last value of each series. Throws what Prometheus says against the query. */
  query(expr: string): Promise<Series[]>;
  /** Labels of the exemplars of the last minutes. */
  exemplars(expr: string): Promise<Array<Record<string, string>>>;
  /** The rules by name: their health, and the state of alarms. */
  rules(): Promise<Map<string, { health: string; lastError?: string; state?: string }>>;
}

export interface Series {
  labels: Record<string, string>;
  value: number;
}

interface Reply {
  status: string;
  error?: string;
  data: {
    result: Array<{ metric: Record<string, string>; value: [number, string] }>;
    groups: Array<{ rules: Array<{ name: string; health: string; lastError?: string; state?: string }> }>;
  };
}

/** Resolves when it answers. `rules`: files. `every`: seconds between two scrapes, which may take as long. */
export async function startPrometheus(
  cleanup: Cleanup,
  { target, rules, every = 1 }: { target: string; rules: readonly string[]; every?: number },
): Promise<Prometheus> {
  const folder = await cleanup.tempDir('prometheus');
  const config = join(folder, 'prometheus.yml');
  const scrape = { job_name: 'cofa', static_configs: [{ targets: [target] }] };
  const global = { scrape_interval: `${every}s`, scrape_timeout: `${every}s`, evaluation_interval: '1s' };
  // JSON is YAML.
  writeFileSync(config, JSON.stringify({ global, rule_files: rules, scrape_configs: [scrape] }));
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const args = [
    `--config.file=${config}`,
    `--storage.tsdb.path=${join(folder, 'data')}`,
    `--web.listen-address=127.0.0.1:${port}`,
    '--enable-feature=exemplar-storage',
  ];
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', 'prometheus', ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said = (said + text).slice(-5_000)));
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  cleanup.defer(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  const deadline = Date.now() + 60_000;
  while (
    !(await fetch(`${url}/-/ready`).then(
      ({ ok }) => ok,
      () => false,
    ))
  ) {
    if (Date.now() > deadline || child.exitCode !== null) throw new Error(`no Prometheus: ${said}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const ask = async <Data = Reply['data']>(path: string): Promise<Data> => {
    const reply = (await (await fetch(`${url}/api/v1/${path}`)).json()) as Reply;
    if (reply.status !== 'success') throw new Error(`${path}: ${reply.error}`);
    return reply.data as Data;
  };
  return {
    url,
    query: async (expr) =>
      (await ask(`query?query=${encodeURIComponent(expr)}`)).result.map(({ metric, value }) => ({
        labels: metric,
        value: Number(value[1]),
      })),
    exemplars: async (expr) => {
      const now = Math.ceil(Date.now() / 1000);
      const path = `query_exemplars?query=${encodeURIComponent(expr)}&start=${now - 600}&end=${now}`;
      const series = await ask<Array<{ exemplars: Array<{ labels: Record<string, string> }> }>>(path);
      return series.flatMap(({ exemplars }) => exemplars.map(({ labels }) => labels));
    },
    rules: async () =>
      new Map(
        (await ask('rules')).groups.flatMap(({ rules: all }) =>
          all.map((rule) => [rule.name, rule] as const),
        ),
      ),
  };
}
