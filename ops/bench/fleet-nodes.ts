/** Nodes of `fleet-start.ts`: an engine or a containerd, each with a root of its own in the network of a machine. */
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { toErrorRecord } from '../../schemas/errors.ts';
import { abortable } from '../../src/bus/abortable.ts';
import { LIGHT } from '../../test/fleet/support.ts';
import { type Engine, startEngine } from '../../test/support/engine.ts';
import { type ContainerdOptions, startContainerd } from '../../test/support/services.ts';
import type { Machine } from './links.ts';

/** Nodes that start at a time. */
const AT_ONCE = 3;
/** Of a log that is shown. */
const LOG_CHARS = 4_000;

export interface Node {
  name: string;
  /**
   * Has all that a program needs that reads the image's files, and returns their folder. Errors: what the node says; the
   * reason of the interruption.
   */
  mount(ref: string): Promise<string>;
  /** What its processes said last. */
  logs?(): string;
  /** Removes all of it. */
  stop(): Promise<void>;
}

export interface EngineNode extends Node {
  engine: Engine;
  /** Ends its processes at once, as a machine that fails. */
  kill(): void;
}

export interface NodeOptions {
  name: string;
  machine: Machine;
  /** A mount takes no longer, ms. */
  limitMs: number;
  interrupted: AbortSignal;
}

/**
 * An engine with light settings. `args`: further ones of `cofa up`. `directory`: holds the mounts. `onAgain` is called where a
 * mount is asked for once more, since NATS is in trouble, as a kubelet does.
 */
export async function engineNode(
  options: NodeOptions & { args: string[]; directory: string; onAgain: () => void },
): Promise<EngineNode> {
  const { name, machine, interrupted, onAgain } = options;
  const engine = await startEngine({
    ...LIGHT,
    through: machine.through,
    args: options.args,
    // As engines that are up do; a first start of one that has not rehearsed takes twice the processor time.
    rehearses: true,
  });
  let mounts = 0;
  const mount = async (ref: string) => {
    const dir = join(options.directory, `${name}-${mounts++}`);
    await mkdir(dir, { recursive: true });
    const request = { ref, dir, prefetch: false };
    for (const end = performance.now() + options.limitMs; ; onAgain())
      try {
        const call = engine.client.call('mount', request, { timeoutMs: options.limitMs });
        await abortable(call, interrupted);
        return dir;
      } catch (error) {
        interrupted.throwIfAborted();
        const isLate = performance.now() > end;
        if (isLate || !['unavailable', 'timeout'].includes(toErrorRecord(error).code)) throw error;
        await sleep(1_000);
      }
  };
  // The kernel ends the other processes with the supervisor; `stop` finds the loop devices by the mount that stays.
  const kill = () => void process.kill(engine.pid, 'SIGKILL');
  const logs = () =>
    ['supervisor', 'front-end', 'fetcher-0', 'fleet']
      .map((log) => engine.log(log).slice(-LOG_CHARS))
      .join('\n');
  return { name, engine, mount, kill, logs, stop: () => engine.stop() };
}

/** A containerd that pulls, unpacks and mounts by ctr(8); `containerd`: which one. */
export async function containerdNode(
  options: NodeOptions & { containerd: ContainerdOptions },
): Promise<Node> {
  const { name, machine, interrupted } = options;
  const daemon = await startContainerd({ ...options.containerd, through: machine.through });
  const terms = { timeoutMs: options.limitMs, signal: interrupted };
  let mounts = 0;
  const mount = async (ref: string) => {
    await daemon.ctr(['images', 'pull', '--plain-http', ref], terms);
    // What is mounted in its folder is unmounted when it is stopped.
    const dir = join(dirname(daemon.socket), `mount-${mounts++}`);
    await mkdir(dir);
    await daemon.ctr(['images', 'mount', ref, dir], terms);
    return dir;
  };
  return { name, mount, stop: () => daemon.stop() };
}

/** Starts a node on each machine, some at a time. Where one fails, or at an interruption, all are stopped. */
export async function startNodes<N extends Node>(
  machines: readonly Machine[],
  start: (machine: Machine, at: number) => Promise<N>,
  { interrupted, say }: { interrupted: AbortSignal; say: (line: string) => void },
): Promise<N[]> {
  const nodes: N[] = [];
  const left = [...machines.entries()];
  const lane = async () => {
    for (let next = left.shift(); next !== undefined; next = left.shift()) {
      const [at, machine] = next;
      try {
        interrupted.throwIfAborted();
        nodes.push(await start(machine, at));
      } catch (error) {
        left.length = 0;
        throw error;
      }
      say(`${nodes.length} of ${machines.length} nodes run`);
    }
  };
  try {
    await allOf(Array.from({ length: AT_ONCE }, lane));
  } catch (error) {
    await stopNodes(nodes);
    throw error;
  }
  return nodes;
}

/** Stops all of them, also where one cannot be stopped. */
export async function stopNodes(nodes: readonly Node[]): Promise<void> {
  await allOf(nodes.map((node) => node.stop()));
}

/** Waits for the end of all of it; throws the first failure then. */
export async function allOf(work: ReadonlyArray<Promise<unknown>>): Promise<void> {
  for (const result of await Promise.allSettled(work)) if (result.status === 'rejected') throw result.reason;
}
