/**
 * Builds the site of the project's pages, with a search that works without a server: ops/docs-site [--out DIR]. It installs what builds
 * it (ops/site/package.json) on first use.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';

const SITE = import.meta.dirname;
const TOP = resolve(SITE, '../..');
/** Where the generator is installed: apart from the project's own packages, and out of the way of what walks its folders. */
const TOOLS = join(TOP, 'node_modules/.cofa-site');
const GENERATOR = join(TOOLS, 'node_modules/vitepress/bin/vitepress.js');

const HELP = `Usage: ops/docs-site [--out DIR]

Builds the site of README.md and docs/ with its search: files for any web server.

  --out DIR   where it is to lie (default: ops/site/dist); what is there is replaced`;

function run(command: string, args: readonly string[], cwd: string): void {
  const { status, error, stderr } = spawnSync(command, args, { cwd, stdio: ['ignore', 'inherit', 'pipe'] });
  if (status === 0) return;
  process.stderr.write(stderr ?? '');
  throw error ?? new Error(`${command} ${args.join(' ')} ends with ${status}`);
}

/** Errors: those of npm and of the generator, dead links among them. */
export function buildSite(out: string): void {
  if (!existsSync(GENERATOR)) install();
  const pages = mkdtempSync(join(tmpdir(), 'cofa-site-'));
  try {
    mkdirSync(join(pages, '.vitepress'));
    for (const name of readdirSync(TOP).filter((one) => one.endsWith('.md') || one === 'LICENSE'))
      cpSync(join(TOP, name), join(pages, name));
    cpSync(join(TOP, 'docs'), join(pages, 'docs'), { recursive: true });
    cpSync(join(SITE, 'config.ts'), join(pages, '.vitepress/config.ts'));
    // The generator finds itself by the folder of the pages.
    symlinkSync(join(TOOLS, 'node_modules'), join(pages, 'node_modules'));
    run(process.execPath, [GENERATOR, 'build', pages, '--outDir', resolve(out)], pages);
  } finally {
    rmSync(pages, { recursive: true, force: true });
  }
}

function install(): void {
  mkdirSync(TOOLS, { recursive: true });
  for (const name of ['package.json', 'package-lock.json', '.npmrc'])
    cpSync(join(SITE, name), join(TOOLS, name));
  run('npm', ['ci', '--no-audit', '--no-fund', '--ignore-scripts', '--silent'], TOOLS);
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: { out: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
  });
  if (values.help === true) console.log(HELP);
  else buildSite(values.out ?? join(SITE, 'dist'));
}
