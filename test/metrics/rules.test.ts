/** Rules over made-up figures, by promtool: what slow-starts.test.ts sees of real starts, for those that one machine seldom shows apart. */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { Cleanup } from '../support/temp.ts';

const RULES = join(import.meta.dirname, '../../ops/prometheus/cofa.rules.yaml');
const cleanup = new Cleanup();
afterAll(() => cleanup.run());

/** Of each second: how long appends wait for the log and files for the disk, and how long tasks of the machine wait for disk and processor. */
interface Figures {
  append: number;
  io: number;
  cpu?: number;
  read?: number;
  sync?: number;
}

/** Whether `cause` is what holds up most, after ten minutes of these figures. */
async function expectMost(
  cause: string,
  { append, io, cpu = 0, read = 0.01, sync = 0 }: Figures,
): Promise<void> {
  const rises = (series: string, perSecond: number) => ({ series, values: `0+${perSecond * 15}x40` });
  const stays = (series: string, value: number) => ({ series, values: `${value}x40` });
  const of = (name: string, labels = '') => `cofa_${name}{instance="a"${labels}}`;
  const pressure = (resource: string) => of('machine_pressure_seconds_total', `,resource="${resource}"`);
  const input_series = [
    stays(of('engine_start_time_seconds'), 0),
    stays(of('machine_cpus'), 2),
    // Others take both processors, where tasks wait for one.
    rises(of('machine_cpu_seconds_total'), cpu > 0 ? 2 : 0.2),
    rises(of('process_cpu_seconds_total'), 0.1),
    rises(pressure('cpu'), cpu),
    rises(pressure('io'), io),
    rises(of('read_wait_seconds_sum'), read),
    rises(of('log_append_seconds_sum'), append),
    rises(of('log_append_seconds_count'), 1),
    rises(of('file_sync_seconds_sum'), sync),
    rises(of('file_sync_seconds_count'), 1),
  ];
  const most = `topk by (instance) (1, cofa:held_up_seconds:rate5m)`;
  const expr = `count by (instance, cause) (${most})`;
  const labels = `{instance="a", cause="${cause}"}`;
  const tests = [
    {
      interval: '15s',
      input_series,
      promql_expr_test: [{ expr, eval_time: '10m', exp_samples: [{ labels, value: 1 }] }],
    },
  ];
  const file = join(await cleanup.tempDir('rules'), 'test.yaml');
  // JSON is YAML.
  writeFileSync(file, JSON.stringify({ rule_files: [RULES], evaluation_interval: '15s', tests }));
  expect(execFileSync('promtool', ['test', 'rules', file], { encoding: 'utf8' })).toContain('SUCCESS');
}

test('a log that waits for its disk is the disk’s, without one it is the log’s, and a starved one is the processor’s', async () => {
  await expectMost('disk', { append: 0.8, io: 0.9 });
  await expectMost('log', { append: 0.8, io: 0.1 });
  await expectMost('disk', { append: 0.05, io: 0.9, read: 0.5 });
  await expectMost('disk', { append: 0.4, io: 0.1, sync: 0.8 });
  await expectMost('processor', { append: 0.8, io: 0.1, cpu: 1, read: 0.3 });
});
