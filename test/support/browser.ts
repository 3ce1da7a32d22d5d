/** Debian's Chromium, for tests that look at a page. Whatever the page complains about is kept: tests expect that it is nothing. */
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

/** The caller closes it. */
export const launchBrowser = (): Promise<Browser> =>
  chromium.launch({
    executablePath: process.env.COFA_CHROMIUM ?? '/usr/bin/chromium',
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
