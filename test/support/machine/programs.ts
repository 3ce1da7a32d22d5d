/** What the supervisor starts: front end and fetchers are the engine's own programs, nats-server is simulated. */
import { EventEmitter } from 'node:events';
import { readFileSync } from 'node:fs';
import { currentProcess, type SimProcess } from './machine.ts';
import { FuseConnection } from './kernel.ts';
import { world } from './world.ts';

const START_MS = 30;
const LINK_MS = 0.1;
/** Node keeps what it has loaded: no life of any run is another's. */
let lives = 1;

interface SpawnOptions {
  stdio?: unknown[];
}

/** As child_process.spawn for `setpriv --pdeathsig SIGNAL -- COMMAND ARGS`. */
export function spawnSimulated(command: string, args: string[], options: SpawnOptions): EventEmitter {
  const parent = currentProcess() as SimProcess;
  const { machine } = parent;
  if (command !== 'setpriv') machine.fail(`spawn of ${command}: not simulated`);
  const deathSignal = args[args.indexOf('--pdeathsig') + 1] === 'KILL' ? 'SIGKILL' : 'SIGTERM';
  const words = args.slice(args.indexOf('--') + 1);
  const program = words.find((word) => word.endsWith('.ts')) ?? words[0] ?? '';
  const name = program.endsWith('/fetcher/main.ts')
    ? (words.at(-2) ?? 'fetcher')
    : program.replace(/\/main\.ts$/, '').replace(/^.*\/|\.ts$/g, '');
  const at = words.indexOf(program);
  const inherited = (options.stdio ?? []).slice(3);
  const hasLink = inherited.includes('ipc');
  const descriptors = inherited.filter((fd) => fd !== 'ipc').map((fd) => world().behind(fd as number));
  const process = machine.start({
    name,
    argv: ['node', program, ...words.slice(at + 1)],
    parent,
    descriptors,
    deathSignal,
  });
  for (const descriptor of descriptors)
    if (descriptor instanceof FuseConnection && !descriptor.isDead) descriptor.hold(process);
  const child = Object.assign(new EventEmitter(), {
    pid: process.pid,
    exitCode: null as number | null,
    signalCode: null as string | null,
    kill: (signal: string = 'SIGTERM') => {
      const { isAlive } = process;
      machine.after(0, () => process.signal(signal));
      return isAlive;
    },
    connected: hasLink,
    /** Messages keep their order, and come while both live. */
    send: (message: unknown) => {
      const copy = JSON.parse(JSON.stringify(message)) as unknown;
      machine.after(LINK_MS, () => process.enter(() => process.events.emit('message', copy)));
      return true;
    },
    unref: () => {},
    ref: () => {},
  });
  if (hasLink) {
    process.send = (message) => {
      const copy = JSON.parse(JSON.stringify(message)) as unknown;
      machine.after(LINK_MS, () => {
        if (process.isAlive) parent.enter(() => child.emit('message', copy));
      });
    };
    parent.onEnd(() => machine.after(LINK_MS, () => process.enter(() => process.events.emit('disconnect'))));
    process.onEnd(() => {
      child.connected = false;
    });
  }
  process.events.on('reaped', (code: number | null, signal: string | null) => {
    child.exitCode = code;
    child.signalCode = signal;
    child.emit('exit', code, signal);
    child.emit('close', code, signal);
  });
  machine.after(1, () => parent.enter(() => child.emit('spawn')));
  machine.after(START_MS * (0.5 + machine.random.next()), () => {
    if (!process.isAlive) return;
    if (program.endsWith('.ts')) runProgram(process, program);
    else runNats(process, words[words.indexOf('-c') + 1] ?? '');
  });
  return child;
}

/** Loads a program of the engine in the context of a process. What it throws at its top ends it. */
export function runProgram(process: SimProcess, path: string): void {
  const { machine } = process;
  process.enter(() => {
    machine.loading += 1;
    (globalThis as { cofaProgramStarts?: () => void }).cofaProgramStarts = () => {
      machine.loading -= 1;
    };
    void import(`${path}?life=${lives++}`).catch((error: unknown) => {
      if (!process.isAlive) return;
      process.machine.trace(`${process.name} fails: ${String(error)}`);
      process.end(1, null);
    });
  });
}

function runNats(process: SimProcess, config: string): void {
  const text = world().disk.file(config)?.content.toString() ?? '';
  const port = /listen: "127\.0\.0\.1:(\d+)"/.exec(text)?.[1];
  const folder = /store_dir: "([^"]*)"/.exec(text)?.[1];
  if (port === undefined || folder === undefined) {
    process.end(1, null);
    return;
  }
  const server = world().server(`nats://127.0.0.1:${port}`, world().store(folder));
  server.start();
  process.onEnd(() => server.stop());
}

/**
 * Loads what the programs import, so that a life of theirs loads only themselves: reading files is Node's own business
 * and takes real time.
 */
export async function preloadPrograms(): Promise<void> {
  const source = new URL('../../../src/', import.meta.url);
  for (const program of ['front-end/main.ts', 'fetcher/main.ts']) {
    const url = new URL(program, source);
    const text = readFileSync(url, 'utf8');
    for (const [, specifier] of text.matchAll(/from '(\.[^']+)';$/gm))
      await import(new URL(specifier ?? '', url).href);
    for (const [, specifier] of text.matchAll(/import\('(\.[^']+)'\)/g)) {
      // What only the other transport needs is not there everywhere.
      if (!specifier?.includes('fuse-native')) await import(new URL(specifier ?? '', url).href);
    }
  }
}
