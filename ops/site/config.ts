/**
 * The site of the pages in docs/: VitePress' settings. `build.ts` lays this file beside a copy of the pages; it imports nothing
 * of the project. Kinds and order are those of docs/README.md.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

interface Token {
  type: string;
  tag: string;
  attrs: Array<[string, string]> | null;
  attrGet: (name: string) => string | null;
  children: Token[] | null;
}
interface Markdown {
  core: { ruler: { push: (name: string, rule: (state: { tokens: Token[] }) => void) => void } };
}
interface Entry {
  text: string;
  link: string;
}

const pages = join(import.meta.dirname, '..');

/** The table of docs/README.md: pages by kind. */
function kinds(): Array<{ text: string; items: Entry[]; collapsed: boolean }> {
  const found: Array<{ text: string; items: Entry[]; collapsed: boolean }> = [];
  for (const line of readFileSync(join(pages, 'docs/README.md'), 'utf8').split('\n')) {
    const [, kind, path, what] = /^\| *([a-z]*) *\| *\[[^\]]*\]\(([^)#]+)\) *\| *(.*?) *\|$/.exec(line) ?? [];
    if (path === undefined) continue;
    if (kind !== '') found.push({ text: kind ?? '', items: [], collapsed: false });
    const link = `/${join('docs', path)}`.replace(/(?:README)?\.md$/, '').replace(/\/lab\/$/, '/lab/README');
    found.at(-1)?.items.push({ text: what === undefined || what === '' ? path : what, link });
  }
  return found;
}

/** Whether a link leads to something that the site has. */
function isOfSite(to: string): boolean {
  if (/^(?:[a-z]+:|#)/.test(to)) return true;
  const [path = ''] = to.split('#');
  return /\.(?:md|svg|png)$|\/$/.test(path) && !/^(?:\.\.\/)+(?:src|ops|actors|schemas|test)\//.test(path);
}

/** Of sources, which the pages point to, the site has the name alone. */
function namesOnly(markdown: Markdown): void {
  markdown.core.ruler.push('names-only', ({ tokens }) => {
    for (const { children } of tokens) {
      let isName = false;
      for (const token of children ?? []) {
        if (token.type === 'link_open') isName = !isOfSite(token.attrGet('href') ?? '');
        if (!isName || !token.type.startsWith('link_')) continue;
        token.tag = 'span';
        token.attrs = [];
      }
    }
  });
}

export default {
  title: 'cofa',
  description: 'Containers start before their image has arrived.',
  lastUpdated: false,
  cleanUrls: false,
  rewrites: { 'README.md': 'index.md' },
  markdown: { config: namesOnly },
  // What a page shows is text of ours, and none of a template.
  vue: { template: { compilerOptions: { delimiters: ['\u0001', '\u0002'] } } },
  head: [],
  themeConfig: {
    search: { provider: 'local' },
    outline: { level: [2, 3] },
    nav: [
      { text: 'Overview', link: '/docs/architecture' },
      { text: 'Commands', link: '/docs/cli' },
      { text: 'Figures', link: '/docs/benchmarks' },
      { text: 'Changes', link: '/CHANGELOG' },
    ],
    sidebar: [
      { text: 'all pages', items: [{ text: 'by kind', link: '/docs/README' }], collapsed: false },
      ...kinds(),
    ],
  },
};
