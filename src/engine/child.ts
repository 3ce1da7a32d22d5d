/** A child process of the supervisor: started, watched and restarted as actors/process.ts decides. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { processMachine } from '../../actors/process.ts';
import type { ProcessStatus } from '../../schemas/api.ts';
import { ActorHost } from './actor-host.ts';

export interface ChildOptions {
  role: ProcessStatus['role'];
  name: string;
  command: string;
  args: string[];
  env?: NodeJS.ProcessEnv;
  /** File that takes its stdout and stderr. */
  log: string;
  /** Descriptors that it inherits as 3, 4, … */
  descriptors?: number[];
  /** It is running as soon as it was spawned; otherwise `ready()` says so. */
  readyAtOnce?: boolean;
  /** Sent to end it; SIGKILL follows after `graceMs`. */
  signal?: NodeJS.Signals;
  graceMs?: number;
  /** What the kernel sends it when the supervisor dies; SIGKILL by default, which ends one that is stopped or stuck too. */
  deathSignal?: 'TERM' | 'KILL';
  now: () => number;
  onExit?: (code: number | null, signal: NodeJS.Signals | null) => void;
  /** Too many short lives in a row. */
  onGiveUp?: () => void;
}

export class Child {
  readonly #options: ChildOptions;
  readonly #host: ActorHost<typeof processMachine>;
  #process: ChildProcess | undefined;
  #born = 0;
  #retry: NodeJS.Timeout | undefined;

  constructor(options: ChildOptions) {
    this.#options = options;
    this.#host = new ActorHost(processMachine, {
      spawn: () => this.#spawn(),
      schedule: ({ ms }: { ms: number }) => {
        this.#retry = setTimeout(() => this.#host.send({ type: 'RETRY' }), ms);
      },
      kill: () => this.#kill(),
      giveUp: () => options.onGiveUp?.(),
    });
  }

  get pid(): number | undefined {
    return this.#process?.pid;
  }

  start(): void {
    this.#host.send({ type: 'START' });
  }

  ready(): void {
    this.#host.send({ type: 'READY' });
  }

  /** Resolves when it runs; rejects when it was given up or stopped. */
  async untilRunning(): Promise<void> {
    const state = await this.#host.until('running', 'failed', 'stopped');
    if (state !== 'running')
      throw new Error(`${this.#options.name} does not start; see ${this.#options.log}`);
  }

  /** Kills the process as it is; another is started. */
  kill(): void {
    this.#process?.kill('SIGKILL');
  }

  /** Ends it for good and waits until it is gone. */
  async stop(): Promise<void> {
    clearTimeout(this.#retry);
    this.#host.send({ type: 'STOP' });
    await this.#host.until('stopped');
  }

  status(): ProcessStatus {
    const state = this.#host.state;
    return {
      role: this.#options.role,
      name: this.#options.name,
      pid: this.#process?.pid ?? 0,
      state:
        state === 'running' || state === 'starting' ? state : state === 'pausing' ? 'restarting' : 'stopped',
      restarts: this.#host.snapshot.context.restarts,
    };
  }

  #spawn(): void {
    const { command, args, env, log, descriptors = [], onExit, now, readyAtOnce } = this.#options;
    const { deathSignal = 'KILL' } = this.#options;
    const output = openSync(log, 'a', 0o600);
    // The kernel ends it with the supervisor, however that ends: setpriv(1) of util-linux, prctl(2) PR_SET_PDEATHSIG.
    const child = spawn('setpriv', ['--pdeathsig', deathSignal, '--', command, ...args], {
      stdio: ['ignore', output, output, ...descriptors],
      env: env ?? process.env,
    });
    closeSync(output);
    this.#process = child;
    this.#born = now();
    let over = false;
    const ended = (code: number | null, signal: NodeJS.Signals | null) => {
      if (over) return;
      over = true;
      this.#process = undefined;
      onExit?.(code, signal);
      this.#host.send({ type: 'EXITED', livedMs: now() - this.#born });
    };
    child.once('error', () => ended(null, null));
    child.once('exit', ended);
    if (readyAtOnce === true) child.once('spawn', () => this.ready());
  }

  #kill(): void {
    const child = this.#process;
    if (child === undefined) {
      this.#host.send({ type: 'EXITED', livedMs: 0 });
      return;
    }
    child.kill(this.#options.signal ?? 'SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), this.#options.graceMs ?? 3_000);
    child.once('exit', () => clearTimeout(timer));
  }
}
