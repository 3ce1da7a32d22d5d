/** The first thing that a user runs: what it says of a wrong line, before it installs anything. Needs no root. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const DEMO = join(import.meta.dirname, '../../ops/demo');
const demo = (...args: string[]) => spawnSync(DEMO, args, { encoding: 'utf8', timeout: 20_000 });

test.each([
  [['--bogus'], "demo: there is no option '--bogus'"],
  [['--keep', 'python'], "demo: there is no option 'python'"],
  [['--rounds'], 'demo: --rounds takes a whole number from 1 on'],
  [['--rounds', '0'], 'demo: --rounds takes a whole number from 1 on'],
  [['--rounds', '3x', '--keep'], 'demo: --rounds takes a whole number from 1 on'],
])('ops/demo %j ends with 2 and says what is wrong', (args, message) => {
  const { status, stderr, stdout } = demo(...args);
  expect({ status, stderr, stdout }).toEqual({
    status: 2,
    stderr: `${message}\n  hint: ${DEMO} --help\n`,
    stdout: '',
  });
});

test.each([[['--help']], [['--keep', '-h']]])('ops/demo %j shows every option', (args) => {
  const { status, stdout } = demo(...args);
  expect(status).toBe(0);
  for (const option of ['--rounds N', '--link', '--no-link', '--keep']) expect(stdout).toContain(option);
});
