/**
 * Traces in Perfetto itself: its importer drops and dislikes nothing of them, its tables hold what was exported, arrows join
 * each read with its fetches, and the UI shows all of it.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { perfettoUi } from '../../ops/images/perfetto.ts';
import { loadFile } from '../../src/replay/load.ts';
import type { ReplayLog } from '../../src/replay/replay-log.ts';
import { traceOf } from '../../src/replay/trace.ts';
import { type TraceEvent, wholeOf } from '../../src/replay/trace-events.ts';
import { writeTrace } from '../../src/replay/trace-file.ts';
import { launchBrowser, noBrowser } from '../support/browser.ts';
import { runCofa } from '../support/engine.ts';
import { Cleanup } from '../support/temp.ts';
import { type OpenTrace, openTrace, type Row, servePerfetto } from './perfetto-page.ts';
import { LAYER_A, logOf, MOUNT, record, sampleRecords, START } from './sample-log.ts';
import { syntheticRecords } from './synthetic-log.ts';
import { FILE, flawsOf } from './trace-format.ts';

const cleanup = new Cleanup();
const FIXTURE = join(import.meta.dirname, '../fixtures/replay/start-v1.cofa-log');
/** With COFA_PICTURES=docs the test takes the picture of docs/replay.md. */
const PICTURES = process.env.COFA_PICTURES;

let reason = noBrowser;
let origin = '';
let browser: Browser;
let folder = '';

beforeAll(async () => {
  if (reason !== undefined) return;
  const ui = await perfettoUi({
    onProgress(line) {
      console.log(line);
      reason = line;
    },
  });
  if (ui === undefined) return;
  reason = undefined;
  folder = await cleanup.tempDir('perfetto');
  const server = await servePerfetto(ui);
  cleanup.defer(() => server.stop());
  ({ origin } = server);
  browser = await launchBrowser();
  cleanup.defer(() => browser.close());
});
beforeEach(({ skip }) => skip(reason !== undefined, reason));
afterAll(() => cleanup.run());

const SLICES = `
  select process.pid, thread.tid, process.name as process, thread.name as thread,
    slice.name, slice.category as cat, slice.ts, slice.dur, slice.depth
  from slice join thread_track on slice.track_id = thread_track.id
  join thread using (utid) join process using (upid)`;
/** The read and the fetch at the ends of each arrow; a step is its fetch's. */
const FLOWS = `
  with whole as (
    select slice.id, ifnull(around.arg_set_id, slice.arg_set_id) as args
    from slice left join slice around on around.id = slice.parent_id)
  select extract_arg(one.args, 'args.id') as first_read, extract_arg(one.args, 'args.job') as first_job,
    extract_arg(other.args, 'args.id') as next_read, extract_arg(other.args, 'args.job') as next_job,
    extract_arg(one.args, 'args.layer') as first_layer, extract_arg(other.args, 'args.layer') as next_layer
  from flow join whole one on one.id = flow.slice_out join whole other on other.id = flow.slice_in`;

/** The first rows that the one has and the other has not. */
function differences(found: readonly Row[], expected: readonly Row[]): { more: string[]; missing: string[] } {
  const [has, wants] = [found, expected].map((rows) => rows.map((row) => JSON.stringify(row)));
  const without = (some: string[] = [], others: string[] = []) => {
    const known = new Set(others);
    return some.filter((one) => !known.has(one)).slice(0, 5);
  };
  return { more: without(has, wants), missing: without(wants, has) };
}

/** What Perfetto's tables have to hold: µs are its ns, marks are slices without length. */
function slicesOf(events: readonly TraceEvent[]): Row[] {
  const names = new Map<string, string>();
  for (const event of events)
    if (event.ph === 'M' && 'name' in event.args)
      names.set(
        `${event.name} ${event.pid} ${event.name === 'thread_name' ? event.tid : ''}`,
        event.args.name,
      );
  return events.flatMap((event): Row[] => {
    if (event.ph !== 'X' && event.ph !== 'i') return [];
    const { pid, tid, name, cat, ts, args } = event;
    const isOutermost = event.ph === 'i' || ['mount', 'job', 'block'].some((key) => key in args);
    return [
      {
        pid,
        tid,
        process: names.get(`process_name ${pid} `) ?? null,
        thread: names.get(`thread_name ${pid} ${tid}`) ?? null,
        name,
        cat,
        ts: ts * 1000,
        dur: event.ph === 'X' ? event.dur * 1000 : 0,
        depth: isOutermost ? 0 : 1,
      },
    ];
  });
}

/** `READ LAYER JOB` of each read and each fetch that it waited for, where the trace has both: as the log tells. */
function waitsOf(log: ReplayLog, events: readonly TraceEvent[]): string[] {
  const has = new Set(
    events.flatMap((event) =>
      event.ph === 'X' ? [`${event.args.id}`, `${event.args.layer} ${event.args.job}`] : [],
    ),
  );
  return [...log.traces.all()]
    .flatMap((index) => traceOf(log.timeline.eventAt(index)).reads)
    .filter(({ id }) => has.has(id))
    .flatMap(({ id, layer, jobs }) =>
      jobs.filter((job) => has.has(`${layer} ${job}`)).map((job) => `${id} ${layer} ${job}`),
    )
    .toSorted();
}

/** Opens the file and compares all that Perfetto has of it; the caller closes it. */
async function judged(file: string, log: ReplayLog): Promise<OpenTrace & { events: TraceEvent[] }> {
  const text = readFileSync(file, 'utf8');
  const { traceEvents } = FILE.parse(JSON.parse(text));
  const events = traceEvents as TraceEvent[];
  expect(flawsOf(events).slice(0, 5)).toEqual([]);
  const opened = await openTrace(browser, origin, text);
  const { page, query, exceptions } = opened;
  expect(await query(`select name, value from stats where severity <> 'info' and value > 0`)).toEqual([]);
  const expected = slicesOf(events);
  expect(differences(await query(SLICES), expected)).toEqual({ more: [], missing: [] });
  expect(await query('select count(*) as slices from slice')).toEqual([{ slices: expected.length }]);
  const flows = (await query(FLOWS)).map((row) => {
    expect(row.next_layer).toBe(row.first_layer);
    return `${row.first_read ?? row.next_read} ${row.first_layer} ${row.first_job ?? row.next_job}`;
  });
  expect(flows.toSorted()).toEqual(waitsOf(log, events));
  // Perfetto knows of an idle process, and gives each process a main thread.
  expect(await query('select pid from process where pid > 0 and name is null')).toEqual([]);
  expect(await query('select tid from thread where tid > 0 and name is null and is_main_thread = 0')).toEqual(
    [],
  );
  const said = await page.evaluate(
    '[window.app.trace.traceInfo.importErrors, window.app.trace.loadingErrors.length]',
  );
  expect(said).toEqual([0, 0]);
  expect(exceptions).toEqual([]);
  return { ...opened, events };
}

test('a start of a stored log of version 0.1.0, by the command: tables, arrows, and the UI', async () => {
  const out = join(folder, 'start.json');
  expect(await runCofa(['replay', 'export', FIXTURE, '--start', '--perfetto', out])).toMatchObject({
    code: 0,
  });
  const loaded = await loadFile(FIXTURE);
  cleanup.defer(() => loaded.close());
  const { page, query, events, exceptions, close } = await judged(out, loaded.log);
  expect(waitsOf(loaded.log, events).length).toBeGreaterThan(20);
  // As a user opens the groups, and selects a read that waited long.
  await page.evaluate('window.app.sidebar.toggleVisibility()');
  for (const event of events) {
    if (event.ph !== 'M' || event.name !== 'process_name') continue;
    // Long names are two halves, which lie above the whole one.
    await page.getByText(`${event.args.name} ${event.pid}`, { exact: true }).first().click({ force: true });
  }
  for (const event of events) {
    if (event.ph !== 'M' || event.name !== 'thread_name') continue;
    await page.getByText(`${event.args.name} ${event.tid}`, { exact: true }).first().waitFor();
  }
  const [slowest] = await query(
    `select id from slice where category = 'read' and ts < 1900000000 order by dur desc limit 1`,
  );
  const select = `window.app.trace.selection.selectSqlEvent('slice', ${slowest?.id}, { switchToCurrentSelectionTab: true })`;
  await page.evaluate(select);
  await page.getByText(/^(Preceding|Following) Flows$/).waitFor();
  await page.getByText('reads that waited [2]').waitFor();
  await picture(page);
  expect(await page.locator('.pf-modal-dialog').count()).toBe(0);
  expect(exceptions).toEqual([]);
  await close();
});

/** Its first two seconds, without the panel of the selection: the arrow stays. */
async function picture(page: Page): Promise<void> {
  if (PICTURES === undefined) return;
  await page.getByText('keyboard_arrow_down', { exact: true }).last().click();
  await page.evaluate(
    'window.app.trace.scrollTo({ time: { start: 0n, end: 2_000_000_000n, viewPercentage: 1 } })',
  );
  await page.setViewportSize({ width: 1280, height: 540 });
  await page.waitForTimeout(2_000);
  await page.screenshot({ path: join(PICTURES, 'replay-perfetto.png') });
}

test('a failed read, and a burst of events in one millisecond', async () => {
  const records = sampleRecords();
  const { seq } = records.at(-1) ?? { seq: 0 };
  for (let more = 1; more <= 600; more++)
    records.push(record(seq + more, 5_200, 'layer', LAYER_A, { type: 'layer.blocks', ranges: [[0, 1]] }));
  const log = logOf(records);
  const out = join(folder, 'sample.json');
  await writeTrace(log, wholeOf(log), out, { replace: false, mount: undefined });
  const { close, query } = await judged(out, log);
  expect(await query(`select count(*) as n from slice where category = 'read,failed'`)).toEqual([{ n: 1 }]);
  await close();
});

test('programs of two containers, in tracks of their own', async () => {
  const names = ['sh', 'python3', 'say "hi"', 'log', '<b>x</b>', '日本'];
  const seen = names.map((name, place) => ({
    pid: 70 + place,
    name,
    since: START + 400 + place,
    cpuUs: 10_000 * place,
    childrenUs: 0,
  }));
  const sample = (at: number, of: typeof seen) => ({
    at: START + at,
    cpus: 2,
    busyUs: 0,
    processes: [],
    programs: [
      { mount: MOUNT, seen: of },
      { mount: 'm2', seen: of.slice(0, 2) },
    ],
  });
  const samples = [sample(500, seen), sample(900, seen.slice(0, 3))];
  const records = [
    ...sampleRecords(),
    record(9_000, 5_300, 'engine', 'main', { type: 'engine.measured', samples }),
  ];
  const log = logOf(records);
  const out = join(folder, 'programs.json');
  await writeTrace(log, wholeOf(log), out, { replace: false, mount: undefined });
  const { page, query, close } = await judged(out, log);
  const told = await query(`select name, dur from slice where category = 'program' and name = 'python3'`);
  expect(told).toEqual([
    { name: 'python3', dur: 499_000_000 },
    { name: 'python3', dur: 499_000_000 },
  ]);
  await page.getByText('programs of containers 5', { exact: true }).first().waitFor();
  await close();
});

test('twenty thousand events', async () => {
  const log = logOf([...syntheticRecords(20_000, 1)]);
  const out = join(folder, 'large.json');
  await writeTrace(log, wholeOf(log), out, { replace: false, mount: undefined });
  const { close } = await judged(out, log);
  await close();
});
