/** Debian's Chromium, for tests that look at a page. Whatever the page complains about is kept: tests expect that it is nothing. */
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { chromium, type Browser, type Page } from 'playwright-core';

export interface Look {
  width?: number;
  height?: number;
  scheme?: 'light' | 'dark';
}

export interface OpenPage {
  page: Page;
  /** Errors of scripts, and what the console calls errors: what the page's policy forbids is among them. */
  complaints: string[];
}

const PROGRAM = process.env.COFA_CHROMIUM ?? '/usr/bin/chromium';

/** Why no test can look at a page here, as on Ubuntu, which has Chromium as a snap alone; undefined: they can. */
export const noBrowser: string | undefined = existsSync(PROGRAM)
  ? undefined
  : `there is no ${PROGRAM}; COFA_CHROMIUM names another`;

/** The caller closes it. */
export const launchBrowser = (): Promise<Browser> =>
  chromium.launch({
    executablePath: PROGRAM,
    // Tests run as root, which Chromium's sandbox refuses; the page is cofa's own.
    args: ['--no-sandbox', '--disable-dev-shm-usage'],
  });

/** In a context of its own: cookies and what is kept are not those of another page. */
export async function openPage(browser: Browser, url: string, look: Look = {}): Promise<OpenPage> {
  const { width = 1280, height = 800, scheme = 'light' } = look;
  const page = await browser.newPage({ viewport: { width, height }, colorScheme: scheme });
  page.setDefaultTimeout(60_000);
  const complaints: string[] = [];
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (message) => {
    if (message.type() === 'error') complaints.push(message.text());
  });
  await page.goto(url, { timeout: 60_000 });
  return { page, complaints };
}

/** What axe finds wrong with a page as it is now; `view` names it. */
export async function axeFlaws(page: Page, view: string): Promise<string[]> {
  const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
  const found = (await page.evaluate(`${axe}; axe.run(document, { resultTypes: ['violations'] })`)) as {
    violations: Array<{ id: string; nodes: Array<{ html: string; failureSummary: string }> }>;
  };
  return found.violations.flatMap(({ id, nodes }) =>
    nodes.map(({ html, failureSummary }) => `${view}: ${id}: ${html}: ${failureSummary}`),
  );
}
