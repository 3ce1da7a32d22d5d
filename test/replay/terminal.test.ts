/** The view in a real terminal: what it shows, and that the terminal is given back whatever happens. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { LogFileWriter } from '../../src/replay/log-file.ts';
import { Cleanup } from '../support/temp.ts';
import { expectGivenBack, lastScreen, MAIN, runInTerminal, type Step } from './in-terminal.ts';
import { sampleRecords, START } from './sample-log.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());
let file = '';

beforeAll(async () => {
  file = join(await cleanup.tempDir('terminal'), 'start.cofa-log');
  const writer = await LogFileWriter.create(file, { node: 'node-1', cofa: '0.1.0', exportedAt: START });
  for (const raw of sampleRecords()) await writer.add(raw, START);
  await writer.finish();
});

const inTerminal = (steps: Step[], args: string[] = [file], env: Record<string, string> = {}) =>
  runInTerminal(steps, args, env);

test('keys lead to the screens that the model draws; q leaves', async () => {
  const outcome = await inTerminal([
    ['wait', '? keys'],
    ['type', 'l\x1b[C\x1b[6~'],
    ['wait', '13/29'],
    ['type', ':'],
    ['wait', 'go to:'],
    ['type', '+460ms\r'],
    ['wait', 'reads in flight: 1'],
    ['type', 'w'],
    ['wait', 'why read 20.2'],
    ['type', '\x1b'],
    ['wait', 'reads in flight: 1'],
    ['type', 'G'],
    ['wait', '29/29'],
    ['type', 'q'],
  ]);
  expectGivenBack(outcome, 0);
  expect(lastScreen(outcome).join('\n')).toMatch(/seq 48 {2}29\/29[\s\S]+state: engine stopped/);
});

test('another size is drawn anew, and playing goes by itself', async () => {
  const outcome = await inTerminal([
    ['wait', '? keys'],
    ['size', 100, 30],
    [
      'wait',
      '? keys  q quit  ←→ step  Space play  : go to  / search  r read  w why  b break  c next  m mark',
    ],
    ['type', '+++ '],
    ['wait', '▶ 10x'],
    ['wait', 'the end'],
    ['type', '\x03'],
  ]);
  expectGivenBack(outcome, 0);
  const rows = lastScreen(outcome, { columns: 100, rows: 30 });
  expect(rows[0]).toMatch(/29\/29/);
});

test.each([
  [15, 143],
  [1, 129],
  [2, 130],
])('signal %d gives the terminal back and ends with %d', async (signal, exit) =>
  expectGivenBack(
    await inTerminal([
      ['wait', '? keys'],
      ['kill', signal],
    ]),
    exit,
  ),
);

test('so does a crash, and its message is seen', async () => {
  const crash = 'process.on("SIGUSR2", () => { throw new Error("made to crash") })';
  const steps: Step[] = [
    ['wait', '? keys'],
    ['kill', 12],
  ];
  const outcome = await inTerminal(steps, [file], {
    NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(crash)}`,
  });
  expectGivenBack(outcome, 1);
  expect(outcome.output.slice(outcome.output.lastIndexOf('\x1b[?1049l'))).toMatch(/made to crash/);
});

test('Ctrl-Z gives it to the shell; brought back, everything is drawn again', async () => {
  const outcome = await inTerminal([
    ['wait', '? keys'],
    ['type', 'll\x1a'],
    ['wait', '\x1b[?1049l'],
    ['pause', 100],
    ['kill', 18],
    ['wait', '3/29'],
    ['type', 'q'],
  ]);
  expectGivenBack(outcome, 0);
});

test('NO_COLOR is kept to; what is no terminal is told so', async () => {
  const outcome = await inTerminal(
    [
      ['wait', '? keys'],
      ['type', 'q'],
    ],
    [file],
    { NO_COLOR: '1' },
  );
  expectGivenBack(outcome, 0);
  expect(outcome.output).not.toMatch(/\[[0-9;]*(3[0-7]|9[0-7])m/);
  await expect(
    promisify(execFile)(process.execPath, [MAIN, 'replay', file], { timeout: 30_000 }),
  ).rejects.toMatchObject({ code: 2, stderr: expect.stringMatching(/the view needs a terminal/) });
});
