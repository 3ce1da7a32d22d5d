/**
 * A reporter for ops/test: counts as a file that a shell reads. `$COFA_COUNTS`: `passed failed skipped` of the run; behind it
 * a line for each file that failed: its path from the root, and its three counts. A file that could not be loaded or left
 * something behind has no failed test, and an error outside of tests (unhandled) no file: each is one failure more.
 */
import { writeFileSync } from 'node:fs';
import { relative } from 'node:path';
import type { Reporter, TestModule } from 'vitest/node';

export default class Counts implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], errors: readonly unknown[]): void {
    const files = modules.map((file) => ({ name: relative('', file.moduleId), ...countsOf(file) }));
    const sum = (of: 'passed' | 'failed' | 'skipped') => files.reduce((all, file) => all + file[of], 0);
    const lines = [
      `${sum('passed')} ${sum('failed') + errors.length} ${sum('skipped')}`,
      ...files
        .filter(({ failed }) => failed > 0)
        .map(({ name, passed, failed, skipped }) => `${name} ${passed} ${failed} ${skipped}`),
    ];
    const { COFA_COUNTS: target } = process.env;
    if (target !== undefined) writeFileSync(target, `${lines.join('\n')}\n`);
  }
}

function countsOf(file: TestModule): { passed: number; failed: number; skipped: number } {
  const counts = { passed: 0, failed: 0, skipped: 0, pending: 0 };
  for (const test of file.children.allTests()) counts[test.result().state] += 1;
  const { passed, failed, skipped, pending } = counts;
  return {
    passed,
    failed: failed === 0 && file.state() === 'failed' ? 1 : failed,
    skipped: skipped + pending,
  };
}
