/**
 * Commands in a virtual machine, by Debian's and Ubuntu's qemu-guest-agent on a virtio port: JSON lines on a unix socket
 * (qemu's docs/interop/qemu-ga-ref). No network, key or login takes part, so it is there also when those are not.
 */
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

export interface Ran {
  code: number;
  /** Standard output and error in one. */
  said: string;
}

/** The agent, or the whole machine, does not answer. */
export class AgentAway extends Error {}

/** The agent writes a line into the machine's journal each time that it is asked. */
const [FIRST_POLL_MS, LAST_POLL_MS] = [50, 1_000];
/** An answer to one line; scripts are asked after. */
const ANSWER_MS = 90_000;
/** The agent keeps so much of what a command says (qemu-ga, GUEST_EXEC_MAX_OUTPUT). */
const ENVIRONMENT = [
  'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  'HOME=/root',
  'LANG=C.UTF-8',
  'DEBIAN_FRONTEND=noninteractive',
];

export class GuestAgent {
  readonly #socket: Socket;
  #text = '';
  #lines: string[] = [];
  #wake: (() => void) | undefined;
  #isClosed = false;
  #turn: Promise<unknown> = Promise.resolve();

  /** Resolves when the agent answers. Error `AgentAway`: it does not within the time, or `isOver` says so. */
  static async open(socketPath: string, timeoutMs: number, isOver: () => boolean): Promise<GuestAgent> {
    const end = performance.now() + timeoutMs;
    while (performance.now() < end && !isOver()) {
      const socket = await connected(socketPath);
      if (socket !== undefined) {
        const agent = new GuestAgent(socket);
        if (await agent.#sync(end, isOver)) return agent;
        agent.close();
      }
      await sleep(200);
    }
    throw new AgentAway(isOver() ? 'the machine has ended' : `no agent answers within ${timeoutMs / 1000} s`);
  }

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding('latin1');
    socket.on('data', (chunk: string) => {
      // 0xff stands before the answer to a sync: what came before it was another talk.
      this.#text += chunk.replaceAll('\xff', '');
      const lines = this.#text.split('\n');
      this.#text = lines.pop() ?? '';
      this.#lines.push(...lines);
      this.#wake?.();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      this.#isClosed = true;
      this.#wake?.();
    });
  }

  close(): void {
    this.#socket.destroy();
  }

  /** Runs a script by bash, which ends at the first command that fails. Several may run side by side. Error `AgentAway`. */
  async run(script: string, timeoutMs: number): Promise<Ran> {
    const seconds = Math.ceil(timeoutMs / 1000);
    const args = ['--kill-after=5', String(seconds), 'bash', '-euc', `exec 2>&1\n${script}`];
    const { pid } = await this.#call<{ pid: number }>('guest-exec', {
      path: '/usr/bin/timeout',
      arg: args,
      env: ENVIRONMENT,
      'capture-output': true,
    });
    let pause = FIRST_POLL_MS;
    // The machine's own limit comes first.
    for (const end = performance.now() + timeoutMs + 30_000; performance.now() < end; ) {
      const status = await this.#call<{
        exited: boolean;
        exitcode?: number;
        signal?: number;
        'out-data'?: string;
      }>('guest-exec-status', { pid });
      if (status.exited) {
        const said = Buffer.from(status['out-data'] ?? '', 'base64').toString();
        return { code: status.exitcode ?? 128 + (status.signal ?? 0), said };
      }
      await sleep(pause);
      pause = Math.min(LAST_POLL_MS, pause * 1.5);
    }
    throw new AgentAway(`no end of a command within ${seconds} s`);
  }

  async #sync(end: number, isOver: () => boolean): Promise<boolean> {
    const first = Math.floor(Math.random() * 1e6) * 1000;
    for (let id = first; performance.now() < end && !this.#isClosed && !isOver(); id++) {
      this.#socket.write(
        Buffer.concat([
          Buffer.from([0xff]),
          Buffer.from(`${JSON.stringify({ execute: 'guest-sync-delimited', arguments: { id } })}\n`),
        ]),
      );
      for (const until = performance.now() + 500; performance.now() < until; ) {
        const line = await this.#line(until - performance.now());
        if (line === undefined) break;
        // Answers to earlier ones come as well.
        if (line.includes(`"return": ${id}`) || line.includes(`"return":${id}`)) return true;
      }
    }
    return false;
  }

  /** One call after the other: answers bear no name. */
  #call<T>(execute: string, args: object): Promise<T> {
    const call = this.#turn.then(async () => {
      this.#socket.write(`${JSON.stringify({ execute, arguments: args })}\n`);
      const line = await this.#line(ANSWER_MS);
      if (line === undefined) throw new AgentAway(`the agent does not answer ${execute}`);
      const answer = JSON.parse(Buffer.from(line, 'latin1').toString()) as {
        return?: T;
        error?: { desc: string };
      };
      if (answer.return === undefined) throw new Error(`${execute}: ${answer.error?.desc ?? line}`);
      return answer.return;
    });
    this.#turn = call.catch(() => {});
    return call;
  }

  async #line(timeoutMs: number): Promise<string | undefined> {
    const end = performance.now() + timeoutMs;
    for (;;) {
      const line = this.#lines.shift();
      if (line !== undefined) return line;
      const left = end - performance.now();
      if (this.#isClosed || left <= 0) return undefined;
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}

function connected(path: string): Promise<Socket | undefined> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => resolve(socket));
    socket.once('error', () => resolve(undefined));
  });
}
