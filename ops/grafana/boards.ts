/**
 * The Grafana boards, as a table of panels: `node ops/grafana/boards.ts` writes ops/grafana/*.json from it, and a test compares.
 * Grafana reads the files (`cofa install monitoring`, or Dashboards → Import). A query may be empty where `empty` says why.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Query {
  expr: string;
  /** What Grafana writes beside the line. */
  legend: string;
  /** Why the query may return nothing on a node that is well. */
  empty?: string;
  /** Of a table: the last value of each series. */
  instant?: true;
}

export interface Panel {
  title: string;
  kind: 'timeseries' | 'stat' | 'table' | 'bargauge';
  /** Grafana's name of the unit. */
  unit: string;
  queries: readonly Query[];
  /** Columns of 24. */
  width: 4 | 6 | 8 | 12 | 24;
  note?: string;
  stacked?: true;
  /** Values from here on are red. */
  red?: number;
  /** Values below this are red. */
  redBelow?: number;
}

export interface Board {
  file: string;
  uid: string;
  title: string;
  about: string;
  rows: ReadonlyArray<{ title: string; panels: readonly Panel[] }>;
}

const ON = '{job="cofa",instance=~"$instance"}';
const on = (labels: string): string => `{job="cofa",instance=~"$instance",${labels}}`;
const RATE = '[$__rate_interval]';
const sumBy = (labels: string, inner: string) => `sum by (${labels}) (${inner})`;
const quantile = (q: number, by: string, name: string, labels = ON) =>
  `histogram_quantile(${q}, ${sumBy(`${by === '' ? '' : `${by}, `}le`, `rate(${name}_bucket${labels}${RATE})`)})`;
/** A quotient, where anything happened. */
const ratio = (part: string, whole: string) => `${part} / (${whole} > 0)`;
const AT_REST = 'NaN, or nothing, while nothing happens';

const stat = (title: string, expr: string, more: Partial<Panel> = {}): Panel => ({
  title,
  kind: 'stat',
  unit: 'short',
  width: 4,
  queries: [{ expr, legend: '{{instance}}' }],
  ...more,
});
const lines = (title: string, unit: string, queries: readonly Query[], more: Partial<Panel> = {}): Panel => ({
  title,
  kind: 'timeseries',
  unit,
  width: 12,
  queries,
  ...more,
});

const OVERVIEW: Board = {
  file: 'overview.json',
  uid: 'cofa-overview',
  title: 'cofa: overview',
  about: 'Is all well, how fast do containers start and read, and what comes from registries?',
  rows: [
    {
      title: 'Is all well?',
      panels: [
        stat('Engines that serve', `min(cofa_engine_ready${ON})`, { redBelow: 1 }),
        stat('Reads failed, 5 minutes', `sum(cofa_reads_failed_last_5m${ON})`, { red: 1 }),
        stat('Wrong at the moment', `sum(cofa_engine_degraded_conditions${ON})`, {
          red: 1,
          note: 'The degraded lines of cofa status.',
        }),
        stat('Integrity failures, 24 hours', `sum(increase(cofa_integrity_failures_total${ON}[24h]))`, {
          red: 1,
        }),
        stat('Process restarts, 1 hour', `sum(increase(cofa_process_restarts_total${ON}[1h]))`, { red: 3 }),
        stat('NATS', `min(cofa_nats_connected${ON})`, { redBelow: 1 }),
      ],
    },
    {
      title: 'Starts',
      panels: [
        lines('Median of each phase of a start', 's', [
          { expr: quantile(0.5, 'phase', 'cofa_start_phase_seconds'), legend: '{{phase}}', empty: AT_REST },
        ]),
        lines(
          'Starts by how the image was prepared',
          'short',
          [
            {
              expr: sumBy(
                'prepared',
                `increase(cofa_start_phase_seconds_count${on('phase="mount"')}${RATE})`,
              ),
              legend: '{{prepared}}',
              empty: 'no mount was made since the engine started',
            },
          ],
          { stacked: true },
        ),
        lines('Mounts', 'short', [{ expr: sumBy('state', `cofa_mounts${ON}`), legend: '{{state}}' }]),
        lines('Bytes that containerd did not download', 'Bps', [
          { expr: `sum(rate(cofa_lazy_pull_bytes_total${ON}${RATE}))`, legend: 'lazy pulls' },
        ]),
      ],
    },
    {
      title: 'What holds starts and reads up',
      panels: [
        lines(
          'Seconds of waiting a second, by cause',
          's',
          [
            {
              expr: sumBy('cause', 'cofa:held_up_seconds:rate5m{instance=~"$instance"}'),
              legend: '{{cause}}',
            },
          ],
          {
            stacked: true,
            note: 'From ops/prometheus/cofa.rules.yaml. cofa replay why says it of one start.',
          },
        ),
        lines(
          'What fetches for readers spend their time on',
          's',
          [
            {
              expr: sumBy('step', `rate(cofa_fetch_step_seconds_total${ON}${RATE})`),
              legend: '{{step}}',
            },
          ],
          { stacked: true },
        ),
      ],
    },
    {
      title: 'Reads',
      panels: [
        lines(
          'Reads by outcome',
          'ops',
          [{ expr: sumBy('outcome', `rate(cofa_reads_total${ON}${RATE})`), legend: '{{outcome}}' }],
          { stacked: true, note: 'What the kernel reads by itself, of whole layers, is not here.' },
        ),
        lines('How long reads of absent blocks wait', 's', [
          { expr: quantile(0.5, '', 'cofa_read_wait_seconds'), legend: 'median', empty: AT_REST },
          { expr: quantile(0.99, '', 'cofa_read_wait_seconds'), legend: '99 of 100', empty: AT_REST },
        ]),
        lines('Hits', 'percentunit', [
          {
            expr: ratio(
              `sum(rate(cofa_reads_total${on('outcome="hit"')}${RATE}))`,
              `sum(rate(cofa_reads_total${ON}${RATE}))`,
            ),
            legend: 'share',
            empty: AT_REST,
          },
        ]),
        lines('Reads that wait, jobs that wait', 'short', [
          { expr: `sum(cofa_waiting_reads${ON})`, legend: 'reads' },
          { expr: sumBy('class', `cofa_queued_jobs${ON}`), legend: 'jobs, {{class}}' },
          { expr: `sum(cofa_running_jobs${ON})`, legend: 'jobs that run' },
        ]),
      ],
    },
    {
      title: 'Registries',
      panels: [
        lines(
          'Bytes that came, by what asked for them',
          'Bps',
          [{ expr: sumBy('class', `rate(cofa_fetched_bytes_total${ON}${RATE})`), legend: '{{class}}' }],
          { stacked: true },
        ),
        lines(
          'Requests by status',
          'reqps',
          [{ expr: sumBy('code', `rate(cofa_registry_requests_total${ON}${RATE})`), legend: '{{code}}' }],
          { stacked: true },
        ),
        lines('Until an answer begins', 's', [
          { expr: quantile(0.5, '', 'cofa_registry_request_seconds'), legend: 'median', empty: AT_REST },
          { expr: quantile(0.99, '', 'cofa_registry_request_seconds'), legend: '99 of 100', empty: AT_REST },
        ]),
        lines('Credentials that were asked for', 'short', [
          {
            expr: sumBy('outcome', `increase(cofa_registry_credential_renewals_total${ON}${RATE})`),
            legend: '{{outcome}}',
          },
        ]),
      ],
    },
    {
      title: 'Cache and log',
      panels: [
        lines('Cache', 'bytes', [
          { expr: `sum(cofa_cache_used_bytes${ON})`, legend: 'used' },
          { expr: `sum(cofa_cache_limit_bytes${ON})`, legend: 'limit', empty: 'the cache has no limit' },
          { expr: `sum(cofa_cache_disk_free_bytes${ON})`, legend: 'free on the disk' },
        ]),
        lines('Blocks evicted', 'short', [
          { expr: sumBy('reason', `increase(cofa_evicted_blocks_total${ON}${RATE})`), legend: '{{reason}}' },
        ]),
        lines('Event log', 's', [
          { expr: `max(cofa_log_lag_seconds${ON})`, legend: 'oldest blocks that it lacks' },
          {
            expr: quantile(0.99, '', 'cofa_log_append_seconds'),
            legend: '99 of 100 appends',
            empty: AT_REST,
          },
          {
            expr: quantile(0.99, '', 'cofa_file_sync_seconds'),
            legend: '99 of 100 files on the disk',
            empty: AT_REST,
          },
        ]),
        lines(
          'Memory',
          'bytes',
          [{ expr: sumBy('process', `cofa_process_resident_memory_bytes${ON}`), legend: '{{process}}' }],
          { stacked: true },
        ),
      ],
    },
  ],
};

const START: Board = {
  file: 'start.json',
  uid: 'cofa-start',
  title: 'cofa: one start',
  about:
    'What a start spent its time on: choose the time around it, and one instance. cofa replay why --start on the node tells it read by read.',
  rows: [
    {
      title: 'Until the mount is ready',
      panels: [
        {
          title: 'Mean of each phase in this time',
          kind: 'bargauge',
          unit: 's',
          width: 12,
          note: 'resolve, prepare, attach, mount: as cofa replay why --start has them.',
          queries: [
            {
              expr: ratio(
                sumBy('phase', `increase(cofa_start_phase_seconds_sum${ON}[$__range])`),
                sumBy('phase', `increase(cofa_start_phase_seconds_count${ON}[$__range])`),
              ),
              legend: '{{phase}}',
              instant: true,
              empty: 'no mount was made in this time',
            },
          ],
        },
        lines('Phases, nine of ten starts, by how the image was prepared', 's', [
          {
            expr: quantile(0.9, 'phase, prepared', 'cofa_start_phase_seconds'),
            legend: '{{phase}}, {{prepared}}',
            empty: AT_REST,
          },
        ]),
        lines('Mounts that failed', 'short', [
          { expr: sumBy('code', `increase(cofa_mount_failures_total${ON}${RATE})`), legend: '{{code}}' },
        ]),
        lines('Images by state', 'short', [
          { expr: sumBy('state', `cofa_images${ON}`), legend: '{{state}}' },
        ]),
      ],
    },
    {
      title: 'Its reads',
      panels: [
        lines('From the first read to the last one', 's', [
          {
            expr: ratio(
              sumBy('ahead', `increase(cofa_start_reads_seconds_sum${ON}[$__range])`),
              sumBy('ahead', `increase(cofa_start_reads_seconds_count${ON}[$__range])`),
            ),
            legend: 'brought ahead: {{ahead}}',
            empty: 'no recorded start was over in this time',
          },
        ]),
        lines('Reads that wait', 'short', [{ expr: `sum(cofa_waiting_reads${ON})`, legend: 'reads' }]),
        lines('Time that reads waited, of each second', 's', [
          {
            expr: sumBy('outcome', `rate(cofa_read_wait_seconds_sum${ON}${RATE})`),
            legend: '{{outcome}}',
          },
        ]),
        lines('Reads by outcome', 'ops', [
          { expr: sumBy('outcome', `rate(cofa_reads_total${ON}${RATE})`), legend: '{{outcome}}' },
        ]),
      ],
    },
    {
      title: 'What they waited for',
      panels: [
        lines('Fetches, from the queue to the end, nine of ten', 's', [
          { expr: quantile(0.9, 'class', 'cofa_fetch_seconds'), legend: '{{class}}', empty: AT_REST },
        ]),
        lines('Jobs that wait for a fetcher', 'short', [
          { expr: sumBy('class', `cofa_queued_jobs${ON}`), legend: '{{class}}' },
          { expr: `sum(cofa_fetcher_slots${ON})`, legend: 'slots' },
        ]),
        lines('Bytes that came', 'Bps', [
          { expr: sumBy('class', `rate(cofa_fetched_bytes_total${ON}${RATE})`), legend: '{{class}}' },
        ]),
        lines('Fetches that failed', 'short', [
          { expr: sumBy('code', `increase(cofa_fetch_failures_total${ON}${RATE})`), legend: '{{code}}' },
        ]),
        lines('Until a registry answers, nine of ten', 's', [
          { expr: quantile(0.9, '', 'cofa_registry_request_seconds'), legend: 'first byte', empty: AT_REST },
        ]),
        lines(
          'Blocks of open layers',
          'short',
          [{ expr: sumBy('state', `cofa_blocks${ON}`), legend: '{{state}}' }],
          { stacked: true },
        ),
        lines('Processor time', 'percentunit', [
          {
            expr: sumBy('process', `rate(cofa_process_cpu_seconds_total${ON}${RATE})`),
            legend: '{{process}}',
          },
        ]),
        lines('Event log, nine of ten appends', 's', [
          { expr: quantile(0.9, '', 'cofa_log_append_seconds'), legend: 'append', empty: AT_REST },
        ]),
      ],
    },
  ],
};

const byNode = (title: string, unit: string, expr: string, more: Partial<Panel> = {}): Panel =>
  lines(title, unit, [{ expr, legend: '{{instance}}' }], more);

const FLEET: Board = {
  file: 'fleet.json',
  uid: 'cofa-fleet',
  title: 'cofa: nodes',
  about: 'All nodes beside each other: which one is different?',
  rows: [
    {
      title: 'Nodes',
      panels: [
        {
          title: 'Versions',
          kind: 'table',
          unit: 'short',
          width: 12,
          queries: [{ expr: `cofa_build_info${ON}`, legend: '{{instance}}', instant: true }],
        },
        {
          title: 'Not serving',
          kind: 'table',
          unit: 'short',
          width: 12,
          queries: [
            {
              expr: `cofa_engine_ready${ON} == 0`,
              legend: '{{instance}}',
              instant: true,
              empty: 'every engine serves',
            },
          ],
        },
      ],
    },
    {
      title: 'Trouble',
      panels: [
        byNode('Reads failed in five minutes', 'short', `cofa_reads_failed_last_5m${ON}`),
        byNode('Wrong at the moment', 'short', `cofa_engine_degraded_conditions${ON}`),
        byNode(
          'Process restarts',
          'short',
          sumBy('instance', `increase(cofa_process_restarts_total${ON}[1h])`),
        ),
        byNode('Age of what the log lacks', 's', `cofa_log_lag_seconds${ON}`),
        lines('Scrubs', 'short', [
          {
            expr: sumBy('instance, result', `increase(cofa_scrub_blocks_total${ON}[24h])`),
            legend: '{{instance}}: {{result}}',
          },
        ]),
        byNode(
          'Integrity failures',
          'short',
          sumBy('instance', `increase(cofa_integrity_failures_total${ON}[24h])`),
        ),
      ],
    },
    {
      title: 'Pieces from each other',
      panels: [
        byNode('Members that each node hears', 'short', `cofa_fleet_members${ON}`, {
          queries: [
            {
              expr: `cofa_fleet_members${ON}`,
              legend: '{{instance}}',
              empty: 'no node is a member of a fleet',
            },
          ],
        }),
        lines('Members that came, went, or were left out in an hour', 'short', [
          { expr: sumBy('what', `increase(cofa_fleet_changes_total${ON}[1h])`), legend: '{{what}}' },
        ]),
        lines('Came from the fleet in the place of a registry', 'Bps', [
          { expr: sumBy('from', `rate(cofa_fleet_received_bytes_total${ON}${RATE})`), legend: '{{from}}' },
        ]),
        byNode(
          'Fetched from registries for the fleet',
          'Bps',
          sumBy('instance', `rate(cofa_fleet_origin_bytes_total${ON}${RATE})`),
        ),
      ],
    },
    {
      title: "On each other's word (--trust fleet)",
      panels: [
        lines('Images that nodes asked each other about in an hour', 'short', [
          {
            expr: sumBy('outcome', `increase(cofa_fleet_inquiries_total${ON}[1h])`),
            legend: '{{outcome}}',
          },
        ]),
        byNode(
          'Images prepared on the word of others in an hour',
          'short',
          sumBy('instance', `increase(cofa_fleet_vouched_images_total${ON}[1h])`),
        ),
        byNode(
          'Members found to have lied in an hour',
          'short',
          sumBy('instance', `increase(cofa_fleet_disbelieved_total${ON}[1h])`),
        ),
        lines('What nodes answered each other in an hour', 'short', [
          { expr: sumBy('answer', `increase(cofa_fleet_questions_total${ON}[1h])`), legend: '{{answer}}' },
        ]),
      ],
    },
    {
      title: 'Speed',
      panels: [
        byNode('Reads that wait, 99 of 100', 's', quantile(0.99, 'instance', 'cofa_read_wait_seconds'), {
          queries: [
            {
              expr: quantile(0.99, 'instance', 'cofa_read_wait_seconds'),
              legend: '{{instance}}',
              empty: AT_REST,
            },
          ],
        }),
        lines('A start, mean of an hour', 's', [
          {
            expr: ratio(
              sumBy('instance', `rate(cofa_start_phase_seconds_sum${ON}[1h])`),
              sumBy('instance', `rate(cofa_start_phase_seconds_count${on('phase="mount"')}[1h])`),
            ),
            legend: '{{instance}}',
            empty: 'no mount was made in the hour',
          },
        ]),
        byNode('From registries', 'Bps', sumBy('instance', `rate(cofa_fetched_bytes_total${ON}${RATE})`)),
        byNode(
          'Not downloaded by containerd',
          'Bps',
          sumBy('instance', `rate(cofa_lazy_pull_bytes_total${ON}${RATE})`),
        ),
      ],
    },
    {
      title: 'Room',
      panels: [
        byNode('Cache', 'bytes', `cofa_cache_used_bytes${ON}`),
        byNode(
          'Free on the disk, above the reserve',
          'bytes',
          `cofa_cache_disk_free_bytes${ON} - cofa_cache_disk_reserve_bytes${ON}`,
        ),
        byNode('Memory of an engine', 'bytes', sumBy('instance', `cofa_process_resident_memory_bytes${ON}`)),
        byNode(
          'Processor time of an engine',
          'percentunit',
          sumBy('instance', `rate(cofa_process_cpu_seconds_total${ON}${RATE})`),
        ),
        byNode('Event log', 'bytes', `cofa_log_bytes${ON}`),
        byNode('Mounts', 'short', sumBy('instance', `cofa_mounts${on('state="mounted"')}`)),
      ],
    },
  ],
};

export const BOARDS: readonly Board[] = [OVERVIEW, START, FLEET];
export const queriesOf = ({ rows }: Board): Query[] =>
  rows.flatMap(({ panels }) => panels.flatMap(({ queries }) => queries));

const SOURCE = { type: 'prometheus', uid: '${datasource}' };
const HEIGHT = 8;
const STAT_HEIGHT = 4;

/** The text of a board's file. */
export function boardText(board: Board): string {
  return `${JSON.stringify(
    {
      uid: board.uid,
      title: board.title,
      description: board.about,
      tags: ['cofa'],
      schemaVersion: 38,
      version: 1,
      editable: true,
      graphTooltip: 1,
      refresh: '30s',
      time: { from: 'now-1h', to: 'now' },
      links: [
        {
          type: 'dashboards',
          tags: ['cofa'],
          title: 'cofa',
          asDropdown: false,
          keepTime: true,
          includeVars: true,
        },
      ],
      templating: { list: variables() },
      panels: panelsOf(board),
    },
    undefined,
    2,
  )}\n`;
}

const variables = () => [
  { name: 'datasource', label: 'Prometheus', type: 'datasource', query: 'prometheus' },
  {
    name: 'instance',
    label: 'Node',
    type: 'query',
    datasource: SOURCE,
    query: { query: 'label_values(cofa_build_info{job="cofa"}, instance)', refId: 'instance' },
    refresh: 2,
    multi: true,
    includeAll: true,
    allValue: '.*',
    current: { text: 'All', value: '$__all' },
  },
];

function panelsOf({ rows }: Board): object[] {
  const all: object[] = [];
  let y = 0;
  for (const { title, panels } of rows) {
    all.push({
      id: all.length + 1,
      type: 'row',
      title,
      gridPos: { x: 0, y, w: 24, h: 1 },
      collapsed: false,
      panels: [],
    });
    y += 1;
    let x = 0;
    let tall = 0;
    for (const panel of panels) {
      const h = panel.kind === 'stat' ? STAT_HEIGHT : HEIGHT;
      if (x + panel.width > 24) {
        x = 0;
        y += tall;
        tall = 0;
      }
      all.push(panelJson(panel, all.length + 1, { x, y, w: panel.width, h }));
      x += panel.width;
      tall = Math.max(tall, h);
    }
    y += tall;
  }
  return all;
}

function panelJson(panel: Panel, id: number, gridPos: object): object {
  const { title, kind, unit, queries, note, stacked, red, redBelow } = panel;
  const empties = queries.flatMap(({ empty }) => (empty === undefined ? [] : [`Empty: ${empty}.`]));
  const description = [note ?? [], ...new Set(empties)].flat().join(' ');
  const steps =
    red !== undefined
      ? [
          { color: 'green', value: null },
          { color: 'red', value: red },
        ]
      : redBelow !== undefined
        ? [
            { color: 'red', value: null },
            { color: 'green', value: redBelow },
          ]
        : [{ color: 'green', value: null }];
  return {
    id,
    type: kind,
    title,
    ...(description === '' ? {} : { description }),
    gridPos,
    datasource: SOURCE,
    fieldConfig: {
      defaults: {
        unit,
        min: 0,
        thresholds: { mode: 'absolute', steps },
        ...(kind === 'timeseries'
          ? {
              custom: {
                fillOpacity: stacked ? 25 : 8,
                showPoints: 'never',
                stacking: { mode: stacked ? 'normal' : 'none', group: 'A' },
              },
            }
          : {}),
      },
      overrides: [],
    },
    options:
      kind === 'timeseries'
        ? { legend: { displayMode: 'list', placement: 'bottom' }, tooltip: { mode: 'multi', sort: 'desc' } }
        : kind === 'table'
          ? {}
          : { reduceOptions: { calcs: ['lastNotNull'], fields: '', values: false } },
    targets: queries.map(({ expr, legend, instant }, at) => ({
      refId: String.fromCodePoint(65 + at),
      datasource: SOURCE,
      expr,
      legendFormat: legend,
      ...(instant === true
        ? { instant: true, range: false, format: kind === 'table' ? 'table' : 'time_series' }
        : { range: true }),
    })),
  };
}

if (import.meta.main)
  for (const board of BOARDS) writeFileSync(join(import.meta.dirname, board.file), boardText(board));
