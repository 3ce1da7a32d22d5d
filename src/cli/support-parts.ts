/** What is put into the archive of `cofa support`: each part with a name, its content without secrets, and what it is. */
import { execFile } from 'node:child_process';
import { open, readdir, readFile, stat } from 'node:fs/promises';
import { arch, cpus, release, totalmem, uptime } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { toErrorRecord } from '../../schemas/errors.ts';
import { version } from '../client/version.ts';
import { IncidentFolder } from '../incidents/folder.ts';
import { Layout } from '../store/layout.ts';
import type { Sink } from '../terminal/output.ts';
import { formatBytes } from '../terminal/table.ts';
import { copyMasked } from './support-log.ts';
import type { Mask } from './support-mask.ts';

export interface SupportPart {
  /** Path in the archive. */
  name: string;
  /** What it is, for the list of what is inside. */
  what: string;
  content: Buffer;
}

export interface PartsOptions {
  root: string;
  mask: Mask;
  /** For copies of logs while they are made. */
  scratch: string;
  signal: AbortSignal;
  /** What is being gathered. */
  onStep: (what: string) => void;
  /** Runs `cofa ARGS` and gives what it prints. */
  run: (args: readonly string[], sink: Sink) => Promise<number>;
}

/** Of each log file its end, bytes; of all logs and of all incidents. */
const LOG_BYTES = 512 << 10;
const LOGS_BYTES = 8 << 20;
const INCIDENTS_BYTES = 24 << 20;
/** A program has so long to say its version, ms. */
const VERSION_MS = 3_000;

const PROGRAMS: ReadonlyArray<readonly string[]> = [
  ['containerd', '--version'],
  ['runc', '--version'],
  ['docker', '--version'],
  ['nats-server', '--version'],
  ['mkfs.erofs', '--version'],
];

/** The parts, and what was left out, a sentence each. Throws the signal's reason only. */
export async function gatherParts(options: PartsOptions): Promise<{ parts: SupportPart[]; left: string[] }> {
  const { mask, signal, onStep } = options;
  const parts: SupportPart[] = [];
  const left: string[] = [];
  const add = (name: string, what: string, content: string | Buffer) => {
    parts.push({
      name,
      what,
      content: typeof content === 'string' ? Buffer.from(mask.text(content)) : content,
    });
  };
  for (const [what, gather] of STEPS) {
    signal.throwIfAborted();
    onStep(what);
    try {
      await gather(options, add, left);
    } catch (error) {
      signal.throwIfAborted();
      left.push(mask.text(`${what}: ${toErrorRecord(error).message}`));
    }
  }
  return { parts, left };
}

type Add = (name: string, what: string, content: string | Buffer) => void;
type Gather = (options: PartsOptions, add: Add, left: string[]) => Promise<void>;

/** In the order of the archive. */
const STEPS: ReadonlyArray<readonly [what: string, gather: Gather]> = [
  ['versions', versions],
  ['doctor', command(['doctor'], 'what this machine has and lacks')],
  ['status', command(['status', '--layers'], 'the engine: processes, images, mounts, what is degraded')],
  [
    'settings',
    command(['config', 'show'], 'settings of the file and defaults; no environment, no command line'),
  ],
  ['incidents', incidents],
  ['logs', logs],
];

/** What a command prints as JSON; its error where it fails. */
function command(args: readonly string[], what: string): Gather {
  return async ({ run, root, mask }, add) => {
    let text = '';
    const sink: Sink = { out: (more) => void (text += more), err: () => {}, errIsTerminal: false };
    const code = await run(['--root', root, '--json', ...args], sink);
    const shown = asJson(text);
    const content = JSON.stringify(
      { command: `cofa ${args.join(' ')}`, exit: code, result: mask.value(shown) },
      null,
      2,
    );
    add(`${args[0] === 'config' ? 'settings' : (args[0] as string)}.json`, what, `${content}\n`);
  };
}

function asJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

async function versions(_: PartsOptions, add: Add): Promise<void> {
  const os = await readFile('/etc/os-release', 'utf8').catch(() => '');
  const lines = [
    `cofa ${version()}`,
    `node ${process.version}`,
    `kernel ${release()} ${arch()}`,
    `system ${/^PRETTY_NAME="?([^"\n]*)/m.exec(os)?.[1] ?? 'not known'}`,
    `processors ${cpus().length}, memory ${formatBytes(totalmem())}, up ${Math.round(uptime())} s`,
    ...(await Promise.all(PROGRAMS.map(versionOf))),
  ];
  add('versions.txt', 'versions of cofa, the kernel, and programs that it meets', `${lines.join('\n')}\n`);
}

async function versionOf([name = '', ...args]: readonly string[]): Promise<string> {
  try {
    const { stdout, stderr } = await promisify(execFile)(name, args, { timeout: VERSION_MS });
    return `${name}: ${(stdout || stderr).trim().split('\n')[0] ?? ''}`;
  } catch (error) {
    return `${name}: ${(error as { code?: unknown }).code === 'ENOENT' ? 'not installed' : 'does not say'}`;
  }
}

/** The newest first, as far as there is room. */
async function incidents(
  { root, mask, scratch, signal }: PartsOptions,
  add: Add,
  left: string[],
): Promise<void> {
  const folder = new IncidentFolder(new Layout(root).incidents());
  const { incidents: all, problems } = await folder.list();
  left.push(...problems);
  let room = INCIDENTS_BYTES;
  for (const { name, facts, path, bytes } of all.toReversed()) {
    signal.throwIfAborted();
    if (bytes > room) {
      left.push(`incident ${name}: no room for it (${formatBytes(bytes)})`);
      continue;
    }
    room -= bytes;
    const { kind } = facts.incident;
    add(`incidents/${name}.json`, `incident: ${kind}`, `${JSON.stringify(mask.value(facts), null, 2)}\n`);
    if (path === undefined) continue;
    const copy = join(scratch, `${name}.cofa-log`);
    try {
      await copyMasked(path, copy, mask);
      add(`incidents/${name}.cofa-log`, 'the event log around it: cofa replay FILE', await readFile(copy));
    } catch (error) {
      left.push(`incidents/${name}.cofa-log: ${toErrorRecord(error).message}`);
    }
  }
}

async function logs({ root }: PartsOptions, add: Add, left: string[]): Promise<void> {
  const dir = join(root, 'log');
  const names = (await readdir(dir)).filter((name) => /^[\w.-]+$/.test(name)).sort();
  let room = LOGS_BYTES;
  for (const name of names) {
    const { text, size } = await endOf(join(dir, name));
    if (text.length > room) {
      left.push(`log/${name}: no room for it`);
      continue;
    }
    room -= text.length;
    add(
      `log/${name}`,
      size > LOG_BYTES ? `the last of ${formatBytes(size)} of a log` : 'log of a process',
      text,
    );
  }
}

/** The last lines of a file. */
async function endOf(path: string): Promise<{ text: string; size: number }> {
  const { size } = await stat(path);
  const file = await open(path, 'r');
  try {
    const from = Math.max(0, size - LOG_BYTES);
    const buffer = Buffer.alloc(Math.min(size, LOG_BYTES));
    const { bytesRead } = await file.read(buffer, 0, buffer.length, from);
    const text = buffer.toString('utf8', 0, bytesRead);
    // Half a line would hide what a secret is the value of.
    return { text: from === 0 ? text : text.slice(text.indexOf('\n') + 1), size };
  } finally {
    await file.close();
  }
}
