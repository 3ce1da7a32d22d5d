/**
 * What a front end of the simulation serves its devices with: the rules of src/fuse/kernel-transport.ts, without
 * threads. A read whose blocks are all present is answered from the device file, some moments after they were seen to
 * be; any other goes to `cold`.
 */
import type { LoadTransport } from '../../../../src/front-end/devices.ts';
import type {
  ColdRead,
  DeviceFile,
  FuseTransport,
  TransportCounters,
} from '../../../../src/fuse/transport.ts';
import { type FuseConnection, type FuseRequest, type FuseServer, tagsOf } from '../kernel.ts';
import { currentProcess, machine, type SimProcess } from '../machine.ts';
import type { SimFile } from '../disk.ts';
import { world } from '../world.ts';

export const loadTransport: LoadTransport = async ({ cold }) => {
  const transport = new Transport(cold);
  return {
    begin: async () => {
      transport.begin();
      return transport;
    },
    settled: () => transport.settled(),
    trouble: () => undefined,
  };
};

const HOLD_MS = 10_000;

class Transport implements FuseServer, FuseTransport {
  readonly process = currentProcess() as SimProcess;
  readonly ended: Promise<Error | undefined>;
  readonly #connection: FuseConnection;
  readonly #cold: ColdRead;
  readonly #files = new Map<string, DeviceFile>();
  readonly #ended = Promise.withResolvers<Error | undefined>();
  readonly #counters: TransportCounters = { reads: 0, hits: 0, misses: 0, errors: 0, bytes: 0 };
  readonly #waiting = new Set<{ file: DeviceFile; request: FuseRequest }>();
  #held: FuseRequest[] | undefined = [];

  constructor(cold: ColdRead) {
    this.ended = this.#ended.promise;
    this.#connection = this.process.descriptors[0] as FuseConnection;
    this.#cold = cold;
    machine().after(HOLD_MS, () => this.process.enter(() => this.settled()));
  }

  begin(): void {
    this.#connection.serve(this);
  }

  add(file: DeviceFile): void {
    this.remove(file.inode);
    this.#files.set(file.name, file);
    const held = this.#held ?? [];
    if (this.#held !== undefined) this.#held = held.filter((request) => request.name !== file.name);
    for (const request of held) if (request.name === file.name) this.take(request);
  }

  remove(inode: number): void {
    for (const [name, file] of this.#files) if (file.inode === inode) this.#files.delete(name);
    for (const waiting of this.#waiting)
      if (waiting.file.inode === inode) {
        this.#waiting.delete(waiting);
        waiting.request.answer('EIO');
      }
  }

  settled(): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    for (const request of held) this.take(request);
  }

  stop(): Promise<void> {
    this.#connection.unserve(this);
    for (const { request } of this.#waiting) request.answer('EIO');
    this.#waiting.clear();
    this.#ended.resolve(undefined);
    return Promise.resolve();
  }

  counters(): TransportCounters {
    return this.#counters;
  }

  /** A caller that frees a block waits for the reads that saw it present. */
  quiesce(): Promise<void> {
    return machine().sleep(3);
  }

  take(request: FuseRequest): void {
    const file = this.#files.get(request.name);
    if (file === undefined) {
      if (this.#held !== undefined) this.#held.push(request);
      else request.answer('ENOENT');
      return;
    }
    if (request.kind === 'lookup') {
      request.answer(undefined, file.size);
      return;
    }
    this.#counters.reads += 1;
    const states = new Uint8Array(file.blocks);
    const uses = file.uses === undefined ? undefined : new Uint32Array(file.uses);
    for (let block = request.first; uses !== undefined && block <= request.last; block++)
      uses[1 + block] = uses[0] ?? 0;
    let isPresent = true;
    for (let block = request.first; block <= request.last; block++) isPresent &&= states[block] === 2;
    if (isPresent || (world().sabotage === 'answer-unread' && machine().random.chance(0.05))) {
      this.#counters.hits += 1;
      this.#reply(file, request);
      return;
    }
    this.#counters.misses += 1;
    const waiting = { file, request };
    this.#waiting.add(waiting);
    const { blockSize } = file;
    const offset = request.first * blockSize;
    this.#cold(file, offset, (request.last + 1) * blockSize - offset, (errno) => {
      if (!this.#waiting.delete(waiting)) return;
      if (world().sabotage === 'drop-waiter' && machine().random.chance(0.02)) return;
      if (errno === 0) this.#reply(file, request);
      else {
        this.#counters.errors += 1;
        request.answer('EIO');
      }
    });
  }

  #reply(file: DeviceFile, request: FuseRequest): void {
    machine().after(machine().random.next(), () => {
      if (!this.process.isAlive) return;
      request.answer(undefined, tagsOf(world().behind(file.fd) as SimFile, request.first, request.last));
    });
  }
}
