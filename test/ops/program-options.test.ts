/** Programs that node runs by themselves: each says what it takes, and refuses what it does not know before it begins anything. */
import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { helpOf } from '../../ops/program-options.ts';

const OPS = join(import.meta.dirname, '../../ops');

const PROGRAMS = ['', 'bench'].flatMap((folder) =>
  readdirSync(join(OPS, folder))
    .filter((name) => name.endsWith('.ts'))
    .map((name) => join(OPS, folder, name))
    .filter((file) => readFileSync(file, 'utf8').includes('programOptions(import.meta.filename')),
);

test('the help is the comment at the top of the file, without its stars', () => {
  expect(helpOf('/**\n * What it does.\n *\n *     node ops/x.ts [--n 5]\n */\nconst a = 1; /** b */')).toBe(
    'What it does.\n\n    node ops/x.ts [--n 5]',
  );
});

test.each(PROGRAMS)('%s says in its help how it is called', (file) => {
  expect(helpOf(readFileSync(file, 'utf8'))).toMatch(/node ops\/[a-z/-]+\.ts/);
});

test('a program prints its help, and ends with 2 at an option that it does not know', async () => {
  const run = (...args: string[]) =>
    promisify(execFile)(process.execPath, [join(OPS, 'bench/console-columns.ts'), ...args]);
  expect((await run('--help')).stdout).toContain('node ops/bench/console-columns.ts [--events 1000000]');
  await expect(run('--bogus')).rejects.toMatchObject({
    code: 2,
    stderr: expect.stringContaining("console-columns: Unknown option '--bogus'; see --help"),
  });
});
