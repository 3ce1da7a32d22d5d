/** The supervisor's children: front end and fetchers are the engine's own programs, nats-server is simulated. */
import { EventEmitter } from 'node:events';
import type { SupervisorOptions } from '../../../src/supervisor/options.ts';
import { currentProcess, machine, type SimProcess } from './machine.ts';
import { FuseConnection } from './kernel.ts';
import { IDENTITY } from './identity.ts';
import { world } from './world.ts';

const START_MS = 30;
const LINK_MS = 0.1;

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
    if (program.endsWith('.ts')) runProgram(process, program, words.slice(at + 1));
    else runNats(process, words[words.indexOf('-c') + 1] ?? '');
  });
  return child;
}

/**
 * Runs a program of the engine in the context of a process, with what stands in for the machine. A failed start ends
 * it.
 */
function runProgram(process: SimProcess, path: string, args: string[]): void {
  const program = programs.get(path.replace(/^.*\/src\//, ''));
  if (program === undefined) process.machine.fail(`${path}: not simulated`);
  process.enter(() => {
    program(args).catch((error: unknown) => {
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
  const scheme = text.includes('\ntls {') ? 'tls' : 'nats';
  const server = world().server(`${scheme}://127.0.0.1:${port}`, world().store(folder));
  server.start();
  process.onEnd(() => server.stop());
}

/** Path below src/ → what runs it. */
const programs = new Map<string, (args: string[]) => Promise<unknown>>();

export type RunSupervisor = (options: SupervisorOptions) => Promise<void>;

/** The heap is one of all simulated processes, and of the simulation. */
const tidying = { worked: () => {}, now: () => {} };

/** Others want the processor for three seconds of each ten. */
const pressureAt = (ms: number) => ({
  cpuMs: Math.floor(ms / 10_000) * 3_000 + Math.min(ms % 10_000, 3_000),
  ioMs: 0,
});

/**
 * Loads the programs, once for all runs: they keep nothing outside of the call that starts them. Returns what runs a
 * supervisor. None of them rehearses: here no code is any faster the second time.
 */
export async function loadPrograms(): Promise<RunSupervisor> {
  const { runSupervisor } = await import('../../../src/supervisor/main.ts');
  const { realSupervisorPorts } = await import('../../../src/supervisor/ports.ts');
  const { runFrontEnd } = await import('../../../src/front-end/main.ts');
  const { runFetcher } = await import('../../../src/fetcher/main.ts');
  const { realChildSelf } = await import('../../../src/process/self.ts');
  const { realPorts } = await import('../../../src/process/ports.ts');
  const { LocalFetcher } = await import('./stand-ins/local-fetcher.ts');
  const { loadTransport } = await import('./stand-ins/kernel-transport.ts');
  // What a fetcher loads with its first such job, in real time.
  await import('../../../src/fetch/start-jobs.ts');
  programs.set('front-end/main.ts', ([root = '']) =>
    runFrontEnd(root, {
      ...realPorts(),
      self: realChildSelf(),
      tidying,
      loadTransport,
      ownFetcher: (options) => new LocalFetcher(options),
      machine: { pressure: () => pressureAt(realPorts().clock.now()), setPriority: () => {} },
    }),
  );
  programs.set('fetcher/main.ts', ([root = '', name = '']) =>
    runFetcher([root, name], { ...realPorts(), self: realChildSelf(), tidying, giveStreamRoom: () => {} }),
  );
  return (options) => {
    const { rehearse: _, ...ports } = realSupervisorPorts();
    const keepIncidents = world().blackBox.keep;
    const makeIdentity = async () => IDENTITY;
    return runSupervisor(options, { ...ports, tidying, keepIncidents, makeIdentity, choosePort });
  };
}

/** A port that no other process of the simulation has. */
async function choosePort(): Promise<number> {
  const port = world().nextPort();
  await machine().sleep(0);
  await machine().sleep(0);
  return port;
}
