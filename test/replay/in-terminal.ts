/** `cofa replay` in a real terminal: terminal.py drives it. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect } from 'vitest';
import { screenOf } from './screen.ts';

export type Step =
  | ['wait' | 'type', string]
  | ['size', number, number]
  | ['kill' | 'kill-other' | 'pause', number];

export interface Outcome {
  output: string;
  failed: string | null;
  killed: boolean;
  exit: number | null;
  restored: boolean;
}

export const MAIN = join(import.meta.dirname, '../../src/cli/main.ts');

/** Runs `cofa replay ARGS` in a terminal of 80 × 24 and does the steps. */
export async function runInTerminal(
  steps: Step[],
  args: string[],
  env: Record<string, string> = {},
): Promise<Outcome> {
  const driver = join(import.meta.dirname, 'terminal.py');
  const command = [driver, '80', '24', JSON.stringify(steps), process.execPath, MAIN, 'replay', ...args];
  const { stdout } = await promisify(execFile)('python3', command, {
    env: { ...process.env, TERM: 'xterm', NO_COLOR: '', ...env },
    timeout: 115_000,
    maxBuffer: 2 ** 24,
  });
  return JSON.parse(stdout) as Outcome;
}

/** The last codes are those that leave the alternate screen and show the cursor; the modes are as before. */
export function expectGivenBack(outcome: Outcome, exit: number | null): void {
  expect(outcome).toMatchObject({ failed: null, killed: false, exit, restored: true });
  const entered = outcome.output.split('\x1b[?1049h').length;
  expect(outcome.output.split('\x1b[?1049l')).toHaveLength(entered);
  expect(outcome.output.lastIndexOf('\x1b[?25h')).toBeGreaterThan(outcome.output.lastIndexOf('\x1b[?25l'));
}

/** What was on the alternate screen last. */
export const lastScreen = (outcome: Outcome, size = { columns: 80, rows: 24 }) => {
  const [, view = ''] = outcome.output.split('\x1b[?1049h');
  return screenOf(view.split('\x1b[0m\x1b[?25h')[0] ?? '', size);
};
