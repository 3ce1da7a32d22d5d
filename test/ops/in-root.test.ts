/** ops/in-root: what it refuses. Where its roots come from: apt.test.ts; the machine that it makes of one: release.test.ts. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const IN_ROOT = fileURLToPath(new URL('../../ops/in-root', import.meta.url));

test('names its releases when given another', () => {
  const { status, stderr } = spawnSync(IN_ROOT, ['--images', 'sid', 'true'], { encoding: 'utf8' });
  expect(stderr).toBe('in-root: it takes a release: bookworm, trixie, noble; see ops/in-root --help\n');
  expect(status).toBe(2);
});
