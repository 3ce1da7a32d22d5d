/**
 * The kernel of a simulated machine: mounts, loop devices and FUSE connections, as far as cofa uses them, and reads
 * that go through all three.
 *
 * - A FUSE connection lives as long as a process that has its descriptor. The kernel asks the next server again for
 *   what a server had taken and not answered when it died (kernel ≥ 6.9). Without any descriptor, or after an abort,
 *   all of it fails.
 * - LOOP_CHANGE_FD works on a loop whose FUSE file is dead, since its attributes are cached.
 * - A detached file system lives for as long as it has a user, and so do its loops.
 */
import { BLOCK, GARBAGE, HOLE, SimDisk, SimFile } from './disk.ts';
import type { Machine, SimProcess } from './machine.ts';

export class KernelError extends Error {
  readonly code: string;
  constructor(code: string, what: string) {
    super(`${code}: ${what}`);
    this.code = code;
  }
}

export interface FuseRequest {
  kind: 'lookup' | 'read';
  name: string;
  first: number;
  last: number;
  /** `size` of a lookup, tags of a read; undefined with an errno. */
  answer(errno: string | undefined, value?: number | Uint8Array): void;
}

/** The server of a connection: the transport of a front end. */
export interface FuseServer {
  readonly process: SimProcess;
  take(request: FuseRequest): void;
}

export class FuseConnection {
  readonly target: string;
  readonly holders = new Set<SimProcess>();
  /** The supervisor's own descriptor was closed. */
  isDead = false;
  #server: FuseServer | undefined;
  readonly #requests = new Set<FuseRequest>();
  readonly #machine: Machine;

  constructor(machine: Machine, target: string) {
    this.#machine = machine;
    this.target = target;
  }

  get waiting(): number {
    return this.#requests.size;
  }

  hold(process: SimProcess): void {
    this.holders.add(process);
    process.onEnd(() => {
      this.letGo(process);
    });
  }

  letGo(process: SimProcess): void {
    this.holders.delete(process);
    if (this.#server?.process === process) this.#server = undefined;
    if (this.holders.size === 0) this.abort();
  }

  serve(server: FuseServer): void {
    if (this.#server !== undefined && this.#server.process.isAlive)
      this.#machine.fail('two front ends serve one FUSE connection');
    this.#server = server;
    for (const request of this.#requests) this.#hand(server, request);
  }

  /** The server takes no further request; the kernel keeps those that it had. */
  unserve(server: FuseServer): void {
    if (this.#server === server) this.#server = undefined;
  }

  ask(request: FuseRequest): void {
    if (this.isDead) {
      this.#machine.after(0, () => request.answer('ENOTCONN'));
      return;
    }
    const tracked: FuseRequest = {
      ...request,
      answer: (errno, value) => {
        if (!this.#requests.delete(tracked)) return;
        request.answer(errno, value);
      },
    };
    this.#requests.add(tracked);
    if (this.#server !== undefined) this.#hand(this.#server, tracked);
  }

  abort(): void {
    if (this.isDead) return;
    this.isDead = true;
    this.#machine.trace(`FUSE connection of ${this.target} ends, ${this.#requests.size} wait`);
    for (const request of Array.from(this.#requests)) request.answer('EIO');
  }

  #hand(server: FuseServer, request: FuseRequest): void {
    this.#machine.after(this.#machine.random.next(), () => {
      if (this.#server === server && this.#requests.has(request))
        server.process.enter(() => server.take(request));
    });
  }
}

export type Backing =
  | { kind: 'disk'; path: string; file: SimFile }
  | { kind: 'fuse'; connection: FuseConnection; name: string };

export interface Loop {
  number: number;
  label: string;
  backing: Backing;
  size: number;
  autoclear: boolean;
  reads: number;
  /** File systems that stand on it. */
  users: number;
}

export interface SimMount {
  id: number;
  point: string;
  type: 'erofs' | 'fuse';
  source: string;
  connection?: FuseConnection;
  metadata?: Loop;
  devices: Loop[];
  /** Readers and open files in it. */
  users: number;
  /** Whether it is still in the tree. */
  isAttached: boolean;
}

export class Kernel {
  readonly disk: SimDisk;
  readonly loops = new Map<number, Loop>();
  mounts: SimMount[] = [];
  readonly #machine: Machine;
  #nextMount = 30;

  constructor(machine: Machine, disk: SimDisk) {
    this.#machine = machine;
    this.disk = disk;
  }

  // ── Loops ──

  /** Opens a file as the loop driver does: one below a FUSE mount has to be looked up by its server. */
  async open(path: string): Promise<{ backing: Backing; size: number }> {
    const machine = this.#machine;
    const fuse = this.mounts.findLast((mount) => mount.type === 'fuse' && path.startsWith(`${mount.point}/`));
    if (fuse?.connection === undefined) {
      return machine.call(1, () => {
        const file = this.disk.file(path);
        if (file === undefined) throw new KernelError('ENOENT', path);
        return { backing: { kind: 'disk' as const, path, file }, size: file.size };
      });
    }
    const { connection } = fuse;
    const name = path.slice(fuse.point.length + 1);
    const size = await new Promise<number>((resolve, reject) => {
      const done = this.#inProcess();
      connection.ask({
        kind: 'lookup',
        name,
        first: 0,
        last: 0,
        answer: (errno, value) =>
          done(() =>
            errno === undefined ? resolve(value as number) : reject(new KernelError(errno, `open ${path}`)),
          ),
      });
    });
    return { backing: { kind: 'fuse', connection, name }, size };
  }

  #inProcess(): (run: () => void) => void {
    const machine = this.#machine;
    const process = machine.processes.get(this.caller());
    return (run) => machine.after(0, () => process?.enter(run));
  }

  /** Set by the stand-ins: pid of the process that calls. */
  caller: () => number = () => 0;

  async attachLoop(path: string, label: string): Promise<Loop> {
    const { backing, size } = await this.open(path);
    return this.#machine.call(2, () => {
      let number = 0;
      while (this.loops.has(number)) number += 1;
      const loop: Loop = { number, label, backing, size, autoclear: false, reads: 0, users: 0 };
      this.loops.set(number, loop);
      this.#machine.trace(`loop${number} on ${short(path)}`);
      return loop;
    });
  }

  async changeBacking(number: number, label: string, path: string): Promise<void> {
    const { backing, size } = await this.open(path);
    await this.#machine.call(2, () => {
      const loop = this.loops.get(number);
      if (loop?.label !== label) throw new KernelError('ENXIO', `loop${number} is gone`);
      if (loop.size !== size) throw new KernelError('EINVAL', 'the sizes differ');
      loop.backing = backing;
      this.#machine.trace(`loop${number} moves to ${short(path)}`);
    });
  }

  /** LOOP_CLR_FD: at once, or with its last user. Returns whether it is detached. */
  clear(number: number, label: string): boolean {
    const loop = this.loops.get(number);
    if (loop?.label !== label) return true;
    if (loop.users > 0) {
      loop.autoclear = true;
      return false;
    }
    this.loops.delete(number);
    this.#machine.trace(`loop${number} is free`);
    return true;
  }

  // ── Mounts ──

  find(point: string): SimMount | undefined {
    return this.mounts.findLast((mount) => mount.point === point);
  }

  mountFuse(point: string, source: string): FuseConnection {
    const connection = new FuseConnection(this.#machine, point);
    this.#mount({ point, type: 'fuse', source, connection, devices: [] });
    return connection;
  }

  mountErofs(metadata: number, devices: number[], point: string): void {
    if (this.disk.get(point) !== 'folder') throw new KernelError('ENOENT', `mount at ${point}`);
    const get = (number: number): Loop => {
      const loop = this.loops.get(number);
      if (loop === undefined) throw new KernelError('ENXIO', `loop${number}`);
      return loop;
    };
    const [flat, ...others] = [get(metadata), ...devices.map(get)];
    for (const loop of [flat, ...others]) loop.users += 1;
    this.#mount({ point, type: 'erofs', source: `/dev/loop${metadata}`, metadata: flat, devices: others });
  }

  #mount(mount: Omit<SimMount, 'id' | 'users' | 'isAttached'>): void {
    this.#machine.trace(`${mount.type} at ${mount.point}`);
    this.mounts.push({ ...mount, id: this.#nextMount++, users: 0, isAttached: true });
  }

  /** umount2(2). Throws EBUSY, EINVAL. */
  unmount(point: string, lazy: boolean): void {
    const mount = this.find(point);
    if (mount === undefined) throw new KernelError('EINVAL', `nothing at ${point}`);
    if (!lazy && mount.users > 0) throw new KernelError('EBUSY', point);
    this.#machine.trace(`${mount.type} at ${point} is unmounted${lazy ? ' lazily' : ''}`);
    this.mounts = this.mounts.filter((other) => other !== mount);
    mount.isAttached = false;
    this.settle(mount);
  }

  /** Ends a file system that is not in the tree and has no user. */
  settle(mount: SimMount): void {
    if (mount.isAttached || mount.users > 0 || mount.type !== 'erofs') return;
    for (const loop of [mount.metadata as Loop, ...mount.devices]) {
      loop.users -= 1;
      if (loop.users === 0 && loop.autoclear) this.clear(loop.number, loop.label);
    }
  }

  /** Reads blocks of a loop; `done` gets an errno or the content. */
  read(
    loop: Loop,
    first: number,
    last: number,
    done: (errno: string | undefined, tags?: Uint8Array) => void,
  ): void {
    const { backing } = loop;
    loop.reads += 1;
    if (backing.kind === 'fuse') {
      backing.connection.ask({
        kind: 'read',
        name: backing.name,
        first,
        last,
        answer: (errno, value) => done(errno, value as Uint8Array | undefined),
      });
      return;
    }
    this.#machine.after(this.#machine.random.next(), () =>
      done(undefined, tagsOf(backing.file, first, last)),
    );
  }

  reboot(): void {
    for (const mount of this.mounts) mount.connection?.abort();
    this.mounts = [];
    this.loops.clear();
  }
}

export function tagsOf(file: SimFile | undefined, first: number, last: number): Uint8Array {
  const tags = new Uint8Array(last - first + 1);
  for (let block = first; block <= last; block++) tags[block - first] = file?.blocks?.[block] ?? HOLE;
  return tags;
}

export const backingPath = (backing: Backing): string =>
  backing.kind === 'disk' ? backing.path : `${backing.connection.target}/${backing.name}`;

export const blocksOf = (size: number): number => Math.ceil(size / BLOCK);
const short = (path: string): string => path.replace(/[0-9a-f]{64}/, (hex) => hex.slice(0, 6));
export { GARBAGE, HOLE };
