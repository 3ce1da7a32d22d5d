/**
 * Machines of a benchmark: network namespaces on one bridge, each behind a link of its own of a given rate in both directions
 * (HTB of the kernel; no delay beside that of the queue). Needs root; `close` removes all of it.
 */
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

export interface Machine {
  /** On the bridge. */
  address: string;
  /** Begins a command line that runs on this machine: its network alone is another one. */
  through: string[];
  /** What crossed its link, bytes. */
  counters(): Promise<{ sent: number; received: number }>;
}

export interface Links {
  /** Begins the names of its interfaces and namespaces, with `-` behind it. */
  name: string;
  /** The machine that runs the benchmark, on the bridge, without a link. */
  address: string;
  machine(): Promise<Machine>;
  /** Also removes a machine whose making was broken off. May be called twice. */
  close(): Promise<void>;
}

/**
 * `rate`: bits a second. `name`: at most six letters; the number of a bridge that no other benchmark has, and none has left
 * behind, is added. Errors: those of ip(8); all ten numbers are taken.
 */
export async function makeLinks(name: string, rate: number): Promise<Links> {
  const { bridge, own, subnet } = await claimBridge(name);
  const spaces: string[] = [];
  const close = async () => {
    for (const space of spaces.splice(0)) {
      // A process that has not ended yet keeps its namespace, and with it the link.
      await run('ip', ['link', 'del', outsideOf(space)]).catch(() => {});
      await run('ip', ['netns', 'del', space]).catch(() => {});
    }
    await run('ip', ['link', 'del', bridge]).catch(() => {});
  };
  try {
    await run('ip', ['addr', 'add', `${subnet}.0.1/16`, 'dev', bridge]);
    await run('ip', ['link', 'set', bridge, 'up']);
  } catch (error) {
    await close();
    throw error;
  }
  const machine = async (): Promise<Machine> => {
    const number = spaces.length + 2;
    const space = `${own}-${number}`;
    const [outside, inside] = [outsideOf(space), `${space}i`];
    const address = `${subnet}.${number >> 8}.${number & 255}`;
    spaces.push(space);
    await run('ip', ['netns', 'add', space]);
    await run('ip', ['link', 'add', outside, 'type', 'veth', 'peer', 'name', inside]);
    await run('ip', ['link', 'set', inside, 'netns', space]);
    await run('ip', ['link', 'set', outside, 'master', bridge, 'up']);
    const there = ['netns', 'exec', space];
    await run('ip', [...there, 'ip', 'addr', 'add', `${address}/16`, 'dev', inside]);
    await run('ip', [...there, 'ip', 'link', 'set', inside, 'up']);
    await run('ip', [...there, 'ip', 'link', 'set', 'lo', 'up']);
    await run('tc', shape(outside));
    await run('tc', classOf(outside, rate));
    await run('ip', [...there, 'tc', ...shape(inside)]);
    await run('ip', [...there, 'tc', ...classOf(inside, rate)]);
    const counter = async (which: string) =>
      Number(await readFile(`/sys/class/net/${outside}/statistics/${which}_bytes`, 'utf8'));
    return {
      address,
      // `ip netns exec` would make a mount namespace too, in which mounts stay.
      through: ['nsenter', `--net=/run/netns/${space}`],
      counters: async () => ({ sent: await counter('rx'), received: await counter('tx') }),
    };
  };
  return { name: own, address: `${subnet}.0.1`, machine, close };
}

const NUMBERS = 10;

/** The bridge is the claim: the kernel makes one of each name. Each number has a subnet of its own. */
async function claimBridge(name: string): Promise<{ bridge: string; own: string; subnet: string }> {
  for (let number = 0; ; number++) {
    const own = `${name}${number}`;
    const bridge = `${own}-br`;
    try {
      await run('ip', ['link', 'add', bridge, 'type', 'bridge']);
      return { bridge, own, subnet: `10.${78 + number}` };
    } catch (error) {
      if (number === NUMBERS - 1 || !String(error).includes('File exists')) throw error;
    }
  }
}

const outsideOf = (space: string): string => `${space}o`;

const shape = (device: string): string[] => [
  'qdisc',
  'add',
  'dev',
  device,
  'root',
  'handle',
  '1:',
  'htb',
  'default',
  '1',
];
const classOf = (device: string, rate: number): string[] =>
  `class add dev ${device} parent 1: classid 1:1 htb rate ${rate}bit burst 256kb quantum 60000`.split(' ');
