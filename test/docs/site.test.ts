/** The pages as a site: each is there, the search knows them, and no link leads nowhere (a dead one ends the build). */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { Cleanup } from '../support/temp.ts';

const TOP = resolve(import.meta.dirname, '../..');
const cleanup = new Cleanup();
afterAll(() => cleanup.run());

test('the site has every page, a search over them, and names of sources instead of links', async () => {
  const out = join(await cleanup.tempDir('site'), 'dist');
  execFileSync(join(TOP, 'ops/docs-site'), ['--out', out], { stdio: 'pipe' });
  const built = readdirSync(out, { recursive: true, encoding: 'utf8' });
  const pages = readdirSync(join(TOP, 'docs'), { recursive: true, encoding: 'utf8' });
  for (const page of pages.filter((path) => path.endsWith('.md')))
    expect(built).toContain(join('docs', page.replace(/\.md$/, '.html')));
  const index = built.find((path) => path.includes('localSearchIndex')) ?? '';
  const found = readFileSync(join(out, index), 'utf8');
  for (const page of ['trust', 'cold-read', 'kubernetes']) expect(found).toContain(`/docs/${page}.html#`);
  const html = readFileSync(join(out, 'docs/trust.html'), 'utf8');
  expect(html).toContain('/docs/signing.html"');
  expect(html).not.toMatch(/href="[^"]*\/(?:src|test|actors)\//);
  expect(readFileSync(join(out, 'index.html'), 'utf8')).toContain('Copy On First Access');
});
