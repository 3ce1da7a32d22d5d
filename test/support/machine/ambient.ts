/**
 * Node's ambient functions for simulated processes: time, chance, files, processes. Each looks in whose context it is
 * called; outside of a simulated process it is Node's own. This file has the functions that the engine uses. A path
 * below `/sim/` is on the simulated disk, `/proc` and `/sys` are empty, all others are the real files (Node's modules,
 * the package).
 */
import { EventEmitter } from 'node:events';
import { createRequire, syncBuiltinESMExports } from 'node:module';
import { BLOCK, SimFile } from './disk.ts';
import { type Handle, machine, type SimProcess, currentProcess } from './machine.ts';
import { spawnSimulated } from './programs.ts';
import { world } from './world.ts';

// biome-ignore lint/suspicious/noExplicitAny: the module's own functions, as they are
type Functions = Record<string, (...args: never[]) => unknown>;

interface Entry {
  name: string;
  parentPath: string;
  isDirectory(): boolean;
  isFile(): boolean;
}

const EPOCH = Date.UTC(2030, 0, 1);
const CALL_MS = 1;

class Errno extends Error {
  readonly code: string;
  readonly errno: number;
  constructor(code: string, what: string) {
    super(`${code}: ${what}`);
    this.code = code;
    this.errno = -1;
  }
}

const isSimulated = (path: unknown): path is string =>
  currentProcess() !== undefined && typeof path === 'string' && path.startsWith('/sim/');
const isNowhere = (path: unknown): boolean =>
  currentProcess() !== undefined && typeof path === 'string' && /^\/(proc|sys)\//.test(path);

export function installAmbient(): void {
  const require = createRequire(import.meta.url);
  patchTimers(require);
  patchProcess();
  patchFiles(require('node:fs') as Functions, require('node:fs/promises') as Functions);
  const crypto = require('node:crypto') as Functions;
  replace(crypto, 'randomBytes', (real) => (size: number, ...rest: never[]) => {
    if (currentProcess() === undefined) return real(size as never, ...rest);
    const { random } = machine();
    return Buffer.from(Array.from({ length: size }, () => random.int(0, 255)));
  });
  const children = require('node:child_process') as Functions;
  replace(
    children,
    'spawn',
    (real) => (command: string, args: string[], options: never) =>
      currentProcess() === undefined
        ? real(command as never, args as never, options)
        : spawnSimulated(command, args, options),
  );
  const net = require('node:net') as Functions;
  replace(
    net,
    'createServer',
    (real) =>
      (...args: never[]) =>
        currentProcess() === undefined ? real(...args) : fakeListener(),
  );
  const os = require('node:os') as Functions;
  replace(os, 'availableParallelism', (real) => () => (currentProcess() === undefined ? real() : 2));
  syncBuiltinESMExports();
}

function replace(
  target: Functions,
  name: string,
  make: (real: (...args: never[]) => unknown) => (...args: never[]) => unknown,
): void {
  const real = target[name];
  if (real === undefined) throw new Error(`node has no ${name}`);
  target[name] = make(real.bind(target)) as never;
}

// ── Time ──

interface Timer {
  handle: Handle | undefined;
  unref(): Timer;
  ref(): Timer;
  hasRef(): boolean;
  refresh(): Timer;
  [Symbol.dispose](): void;
}

function patchTimers(require: NodeJS.Require): void {
  const real = { ...globalThis };
  const start = (ms: number, run: () => void, again: boolean): Timer => {
    const process = currentProcess() as SimProcess;
    const timer: Timer = {
      handle: undefined,
      unref: () => timer,
      ref: () => timer,
      hasRef: () => true,
      refresh: () => timer,
      [Symbol.dispose]: () => stop(timer),
    };
    const arm = () => {
      timer.handle = machine().after(Math.max(1, Number(ms) || 0), () => {
        if (again) arm();
        process.enter(run);
      });
    };
    arm();
    return timer;
  };
  const stop = (timer: Timer | undefined) => {
    if (timer?.handle !== undefined) timer.handle.run = undefined;
  };
  const isOurs = (timer: unknown): timer is Timer =>
    typeof timer === 'object' && timer !== null && 'handle' in timer;
  const global = globalThis as unknown as Record<string, unknown>;
  for (const [name, again] of [
    ['setTimeout', false],
    ['setInterval', true],
  ] as const) {
    const original = real[name] as (...args: unknown[]) => unknown;
    global[name] = (run: (...args: unknown[]) => void, ms: number, ...args: unknown[]) =>
      currentProcess() === undefined ? original(run, ms, ...args) : start(ms, () => run(...args), again);
  }
  for (const name of ['clearTimeout', 'clearInterval'] as const) {
    const original = real[name] as (timer: unknown) => void;
    global[name] = (timer: unknown) => (isOurs(timer) ? stop(timer) : original(timer));
  }
  const immediate = real.setImmediate as (...args: unknown[]) => unknown;
  global.setImmediate = (run: (...args: unknown[]) => void, ...args: unknown[]) =>
    currentProcess() === undefined ? immediate(run, ...args) : start(0, () => run(...args), false);
  const dateNow = Date.now.bind(Date);
  Date.now = () => (currentProcess() === undefined ? dateNow() : EPOCH + Math.round(machine().now));
  const monotonic = performance.now.bind(performance);
  performance.now = () => (currentProcess() === undefined ? monotonic() : machine().now);
  const chance = Math.random.bind(Math);
  Math.random = () => (currentProcess() === undefined ? chance() : machine().random.next());
  const promises = require('node:timers/promises') as Functions;
  replace(
    promises,
    'setTimeout',
    (original) =>
      ((ms: number, value: unknown, options?: { signal?: AbortSignal }) => {
        if (currentProcess() === undefined) return original(ms as never, value as never, options as never);
        return new Promise((resolve, reject) => {
          const timer = start(ms, () => resolve(value), false);
          options?.signal?.addEventListener('abort', () => {
            stop(timer);
            reject(options.signal?.reason);
          });
        });
      }) as never,
  );
}

// ── Processes ──

function patchProcess(): void {
  const realSend = process.send?.bind(process);
  const real = {
    pid: process.pid,
    argv: process.argv,
    kill: process.kill.bind(process),
    exit: process.exit.bind(process),
    on: process.on.bind(process),
    once: process.once.bind(process),
  };
  Object.defineProperty(process, 'pid', { get: () => currentProcess()?.pid ?? real.pid });
  Object.defineProperty(process, 'send', {
    get: () => {
      const me = currentProcess();
      if (me?.send === undefined) return realSend;
      return (message: unknown) => {
        world().told(me, message);
        me.send?.(message);
        return true;
      };
    },
  });
  Object.defineProperty(process, 'argv', { get: () => currentProcess()?.argv ?? real.argv });
  const patched = process as unknown as Record<string, unknown>;
  patched.kill = (pid: number, signal: string | number = 'SIGTERM') => {
    const me = currentProcess();
    if (me === undefined) return real.kill(pid, signal);
    const other = me.machine.processes.get(pid);
    // A process that kills itself twice has ended already.
    if (other === undefined && pid === me.pid) return true;
    if (other === undefined) throw new Errno('ESRCH', `kill ${pid}`);
    if (signal !== 0) other.signal(String(signal));
    return true;
  };
  patched.exit = (code?: number) => {
    const me = currentProcess();
    if (me === undefined) return real.exit(code);
    me.end(code ?? 0, null);
    return undefined;
  };
  for (const name of ['on', 'once'] as const) {
    patched[name] = (event: string, listener: () => void) => {
      const me = currentProcess();
      if (me === undefined) return real[name](event as never, listener as never);
      me.events[name](event, listener);
      return process;
    };
  }
}

function fakeListener(): unknown {
  const events = new EventEmitter();
  const port = world().nextPort();
  return Object.assign(events, {
    listen: (_port: number, _host: string, ready: () => void) => void machine().sleep(0).then(ready),
    address: () => ({ port, address: '127.0.0.1', family: 'IPv4' }),
    close: (done?: () => void) => void machine().sleep(0).then(done),
  });
}

// ── Files ──

/** What it takes on the disk, in sectors of 512 bytes: `st_blocks`. */
const sectorsOf = ({ size, blocks }: SimFile): number =>
  blocks === undefined ? Math.ceil(size / 512) : (blocks.filter((tag) => tag !== 0).length * BLOCK) / 512;

function patchFiles(fs: Functions, promises: Functions): void {
  const disk = () => world().disk;
  /** The folder above must exist. */
  const parentOf = (path: string): string => path.slice(0, path.lastIndexOf('/')) || '/';
  const need = (path: string): SimFile => {
    const file = disk().get(path);
    if (file === undefined) throw new Errno('ENOENT', path);
    if (file === 'folder') throw new Errno('EISDIR', path);
    return file;
  };
  const makeFolder = (path: string, recursive: boolean): void => {
    const found = disk().get(path);
    if (found === 'folder' && recursive) return;
    if (found !== undefined) throw new Errno(found === 'folder' ? 'EEXIST' : 'ENOTDIR', path);
    const parent = parentOf(path);
    if (disk().get(parent) === undefined) {
      if (!recursive) throw new Errno('ENOENT', path);
      makeFolder(parent, true);
    }
    world().spend(0);
    disk().put(path, 'folder');
  };
  const removeTree = (path: string): void => {
    for (const name of disk().children(path)) removeTree(`${path}/${name}`);
    disk().remove(path);
  };
  const list = (path: string): string[] => {
    if (disk().get(path) === undefined) throw new Errno('ENOENT', path);
    if (disk().get(path) !== 'folder') throw new Errno('ENOTDIR', path);
    // A mount hides the folder's own files; images are never empty.
    return world().kernel.find(path) === undefined ? disk().children(path) : ['bin'];
  };
  const openFile = (path: string, flags: string): SimFile => {
    const found = disk().get(path);
    if (found === 'folder') throw new Errno('EISDIR', path);
    if (found !== undefined) {
      if (flags.includes('x')) throw new Errno('EEXIST', path);
      if (flags.startsWith('w')) {
        found.content = Buffer.alloc(0);
        found.size = 0;
      }
      return found;
    }
    if (flags.startsWith('r')) throw new Errno('ENOENT', path);
    if (disk().get(parentOf(path)) !== 'folder') throw new Errno('ENOENT', path);
    world().spend(0);
    return disk().create(path);
  };
  const write = (file: SimFile, bytes: Buffer, at: number): void => {
    world().spend(bytes.length);
    const whole = Buffer.alloc(Math.max(file.content.length, at + bytes.length));
    file.content.copy(whole);
    bytes.copy(whole, at);
    file.content = whole;
    file.size = whole.length;
  };
  const kindOf = (path: string) => {
    const isFolder = disk().get(path) === 'folder';
    return { isDirectory: () => isFolder, isFile: () => !isFolder };
  };
  const spaceOf = () => {
    const free = world().isDiskFull ? 0 : 1e8;
    return { type: 0xef53, bsize: 4096, bavail: free, bfree: free, blocks: 2e8 };
  };
  const statOf = (path: string) => {
    const found = disk().get(path);
    if (found === undefined) throw new Errno('ENOENT', path);
    const size = found === 'folder' ? 4096 : found.size;
    return {
      size,
      blocks: found === 'folder' ? 8 : sectorsOf(found),
      ino: found === 'folder' ? 1 : found.number,
      dev: 1,
      uid: 0,
      mode: found === 'folder' ? 0o40700 : 0o100600,
      mtimeMs: 0,
      isDirectory: () => found === 'folder',
      isFile: () => found !== 'folder',
    };
  };
  const handle = (file: SimFile, path: string) => {
    const call = <T>(effect: () => T, ms = CALL_MS): Promise<T> => machine().call(ms, effect);
    const sync = () =>
      call(() => {
        if (world().sabotage !== 'event-before-sync' || machine().random.chance(0.9)) disk().sync(file);
      }, world().plan.syncMs);
    return {
      fd: world().descriptor(file),
      path,
      file,
      close: () => call(() => undefined, 0.1),
      stat: () => call(() => ({ size: file.size, blocks: sectorsOf(file) })),
      sync,
      datasync: sync,
      truncate: (size: number) =>
        call(() => {
          world().spend(0);
          if (path.endsWith('/device')) {
            const blocks = new Uint8Array(Math.ceil(size / BLOCK));
            blocks.set((file.blocks ?? new Uint8Array()).subarray(0, blocks.length));
            file.blocks = blocks;
          }
          file.size = size;
        }),
      writeFile: (bytes: Uint8Array | string) => call(() => write(file, Buffer.from(bytes as string), 0)),
      appendFile: (bytes: Uint8Array | string) =>
        call(() => write(file, Buffer.from(bytes as string), file.content.length)),
      readFile: (encoding?: string) =>
        call(() => (encoding === undefined ? Buffer.from(file.content) : file.content.toString())),
      [Symbol.asyncDispose]: async () => {},
    };
  };
  /** A folder that is opened to be synced. */
  const folder = new SimFile(0);
  const inPromises: Record<string, (path: string, ...rest: never[]) => unknown> = {
    mkdir: (path, options?: { recursive?: boolean }) =>
      machine().call(CALL_MS, () => makeFolder(path, options?.recursive === true)),
    readdir: (path, options?: { withFileTypes?: boolean; recursive?: boolean }) =>
      machine().call(CALL_MS, () => {
        if (options?.withFileTypes !== true) return list(path);
        const entries = (folder: string): Entry[] =>
          list(folder).flatMap((name) => {
            const entry = { name, parentPath: folder, ...kindOf(`${folder}/${name}`) };
            const isDeep = options.recursive === true && entry.isDirectory();
            return isDeep ? [entry, ...entries(`${folder}/${name}`)] : [entry];
          });
        return entries(path);
      }),
    realpath: (path) => machine().call(CALL_MS, () => path),
    rmdir: (path) =>
      machine().call(CALL_MS, () => {
        if (world().kernel.find(path) !== undefined) throw new Errno('EBUSY', path);
        if (list(path).length > 0) throw new Errno('ENOTEMPTY', path);
        disk().remove(path);
      }),
    rm: (path, options?: { force?: boolean; recursive?: boolean }) =>
      machine().call(CALL_MS, () => {
        if (disk().get(path) === undefined) {
          if (options?.force !== true) throw new Errno('ENOENT', path);
        } else removeTree(path);
      }),
    unlink: (path) => machine().call(CALL_MS, () => (need(path), disk().remove(path))),
    rename: (path, to: string) =>
      machine().call(CALL_MS, () => {
        const file = need(path);
        disk().put(to, file);
        disk().remove(path);
      }),
    readFile: (path, options?: string | { encoding?: string }) =>
      machine().call(CALL_MS, () => {
        const { content } = need(path);
        const isText = typeof options === 'string' || options?.encoding !== undefined;
        return isText ? content.toString() : Buffer.from(content);
      }),
    writeFile: (path, bytes: Uint8Array | string) =>
      machine().call(CALL_MS, () => write(openFile(path, 'w'), Buffer.from(bytes as string), 0)),
    stat: (path) => machine().call(CALL_MS, () => statOf(path)),
    lstat: (path) => machine().call(CALL_MS, () => statOf(path)),
    access: (path) => machine().call(CALL_MS, () => void statOf(path)),
    statfs: () => machine().call(CALL_MS, spaceOf),
    open: (path, flags = 'r' as never) =>
      machine()
        .call(CALL_MS, () =>
          disk().get(path) === 'folder' && flags === 'r' ? folder : openFile(path, flags),
        )
        .then((file) => handle(file, path)),
    truncate: (path, size: number) =>
      machine().call(CALL_MS, () => {
        need(path).size = size;
      }),
  };
  /** Where an open file lies now: `/proc/self/fd/N`. */
  const linkOf = (path: string): string => {
    const file = world().behind(Number(path.split('/').at(-1)));
    if (!(file instanceof SimFile)) throw new Errno('ENOENT', path);
    return file.path;
  };
  replace(
    fs,
    'readlinkSync',
    (real) => ((path: string) => (isNowhere(path) ? linkOf(path) : real(path as never))) as never,
  );
  replace(
    promises,
    'readlink',
    (real) =>
      ((path: string) => {
        if (isNowhere(path)) return machine().call(CALL_MS, () => linkOf(path));
        if (!isSimulated(path)) return real(path as never);
        // No file of the simulated disk is a link.
        return machine().call(CALL_MS, () => {
          throw new Errno('ENOENT', path);
        });
      }) as never,
  );
  for (const [name, simulated] of Object.entries(inPromises))
    replace(
      promises,
      name,
      (real) =>
        ((path: string, ...rest: never[]) => {
          if (isSimulated(path)) return simulated(path, ...rest);
          if (isNowhere(path))
            return machine()
              .sleep(1)
              .then(() => Promise.reject(new Errno('ENOENT', path)));
          if (name === 'access' && currentProcess() !== undefined)
            return String(path).endsWith('nats-server')
              ? machine().sleep(0)
              : machine()
                  .sleep(0)
                  .then(() => Promise.reject(new Errno('ENOENT', path)));
          return real(path as never, ...rest);
        }) as never,
    );
  const inSync: Record<string, (path: string, ...rest: never[]) => unknown> = {
    existsSync: (path) => disk().get(path) !== undefined,
    mkdirSync: (path, options?: { recursive?: boolean }) => makeFolder(path, options?.recursive === true),
    readFileSync: (path, options?: unknown) =>
      options === undefined ? Buffer.from(need(path).content) : need(path).content.toString(),
    readdirSync: (path) => list(path),
    statSync: (path) => statOf(path),
    statfsSync: () => spaceOf(),
    renameSync: (path, to: string) => {
      disk().put(to, need(path));
      disk().remove(path);
    },
    rmSync: (path) => removeTree(path),
    unlinkSync: (path) => disk().remove(path),
    writeFileSync: (path, bytes: Uint8Array | string) =>
      write(openFile(path, 'w'), Buffer.from(bytes as string), 0),
    openSync: (path, flags = 'r' as never) => world().descriptor(openFile(path, flags)),
  };
  for (const [name, simulated] of Object.entries(inSync))
    replace(
      fs,
      name,
      (real) =>
        ((path: string, ...rest: never[]) => {
          if (isSimulated(path)) return simulated(path, ...rest);
          if (isNowhere(path)) {
            if (name === 'existsSync') return false;
            throw new Errno('ENOENT', path);
          }
          return real(path as never, ...rest);
        }) as never,
    );
  replace(
    fs,
    'closeSync',
    (real) =>
      ((fd: number) => {
        if (currentProcess() === undefined) return real(fd as never);
        return undefined;
      }) as never,
  );
  replace(
    fs,
    'fstatSync',
    (real) =>
      ((fd: number) => {
        if (currentProcess() === undefined) return real(fd as never);
        const file = world().behind(fd) as SimFile;
        return { size: file.size, blocks: sectorsOf(file), ino: file.number, dev: 1 };
      }) as never,
  );
  replace(
    fs,
    'writeSync',
    (real) =>
      ((fd: number, text: string) => {
        const me = currentProcess();
        if (me === undefined) return real(fd as never, text as never);
        world().say(me, String(text));
        return text.length;
      }) as never,
  );
}
