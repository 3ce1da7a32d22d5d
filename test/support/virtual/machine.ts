/**
 * A virtual machine by qemu and KVM, with a kernel, a systemd and a disk of its own (ops/images/virtual-disks.ts). It can be
 * started anew as by its reset button, and its power can be cut: what it had not flushed to its disk is lost then, or not.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { VirtualDisk } from '../../../ops/images/virtual-disks.ts';
import { CachedDisk, type Cut } from '../power/cached-disk.ts';
import type { Random } from '../random.ts';
import type { Cleanup } from '../temp.ts';
import { AgentAway, GuestAgent, type Ran } from './agent.ts';
import { type DiskServer, serveDisk } from './disk.ts';

export const QEMU = 'qemu-system-x86_64';

/** Why there can be no virtual machines here, and what to do; undefined: there can. */
export function whyNoMachines(): { what: string; hint: string } | undefined {
  if (process.arch !== 'x64') return { what: 'they are of x86-64 alone', hint: 'take such a machine' };
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch {
    return {
      what: '/dev/kvm cannot be opened',
      hint: 'as root, on a machine with KVM: modprobe kvm_intel or kvm_amd',
    };
  }
  try {
    execFileSync(QEMU, ['--version'], { stdio: 'ignore' });
    return undefined;
  } catch {
    return { what: `${QEMU} is not installed`, hint: 'apt install --no-install-recommends qemu-system-x86' };
  }
}

/** A script in the machine that did not end with 0. */
export class ScriptFailed extends Error {
  readonly ran: Ran;
  constructor(ran: Ran) {
    super(
      ran.code === 124 ? `it takes too long\n${tail(ran.said)}` : `exit code ${ran.code}\n${tail(ran.said)}`,
    );
    this.ran = ran;
  }
}

const tail = (text: string): string => text.trim().split('\n').slice(-15).join('\n');

export interface MachineOptions {
  disk: VirtualDisk;
  /** Which of the disk's kernels: the first by default. */
  kernel?: number;
  /** A tar file, which the machine has as its second disk. */
  files?: string;
  /** For sockets, the console and what the disk's base has not. */
  folder: string;
  memoryMiB?: number;
  onProgress?: (line: string) => void;
}

/**
 * `tcg`: qemu itself computes what the machine does, where KVM cannot: a /dev/kvm in a virtual machine may know too few
 * instructions to start a kernel. It is ten times slower, and the same in all else.
 */
export type Accelerator = 'kvm' | 'tcg';
const ACCELERATION = {
  kvm: ['-accel', 'kvm', '-cpu', 'host'],
  tcg: ['-accel', 'tcg,thread=multi', '-cpu', 'max'],
} as const satisfies Record<Accelerator, readonly string[]>;
/** How much longer all may take. */
const PATIENCE = { kvm: 1, tcg: 6 } as const satisfies Record<Accelerator, number>;
/** What qemu says where KVM is at fault. */
const KVM_FAILED = /KVM internal error|kvm\.c:\d+: .*Assertion|failed to set MSR|failed to initialize kvm/i;

/** What was found out holds for all machines of this process. */
let accelerator: Accelerator = 'kvm';

/** A limit that holds for a machine of its own hardware, where this one computes more slowly. */
export const patient = (ms: number): number => ms * PATIENCE[accelerator];

const fileDisk = (file: string): string[] => [
  '-blockdev',
  `driver=raw,node-name=files,read-only=on,file.driver=file,file.filename=${file}`,
  '-device',
  'virtio-blk-pci,drive=files',
];

const BOOT_MS = 180_000;
const STOP_MS = 120_000;

export class VirtualMachine {
  readonly #options: MachineOptions;
  readonly #disk: CachedDisk;
  readonly #server: DiskServer;
  #qemu: ChildProcess | undefined;
  #agent: GuestAgent | undefined;
  #boots = 0;
  #kvmFailed = false;

  /** Makes one that is off; it ends with `cleanup`. */
  static async make(cleanup: Cleanup, options: MachineOptions): Promise<VirtualMachine> {
    mkdirSync(options.folder, { recursive: true });
    const at = (name: string) => join(options.folder, name);
    const disk = new CachedDisk({ base: options.disk.file, file: at('disk') });
    cleanup.defer(() => disk.close());
    const server = await serveDisk(disk, at('disk.sock'));
    cleanup.defer(() => server.close());
    const machine = new VirtualMachine(options, disk, server);
    cleanup.defer(() => machine.#kill());
    return machine;
  }

  private constructor(options: MachineOptions, disk: CachedDisk, server: DiskServer) {
    this.#options = options;
    this.#disk = disk;
    this.#server = server;
  }

  /** Turns it on. Resolves when systemd has started all that it starts. Error `AgentAway`. */
  async boot(): Promise<void> {
    await this.powerOn();
    const { said } = await this.tried('systemctl is-system-running --wait || true', BOOT_MS);
    if (!/running|degraded/.test(said)) throw new AgentAway(`systemd says ${said.trim()}`);
  }

  /** Turns it on. Resolves as soon as it takes commands, which is before services have started. Error `AgentAway`. */
  async powerOn(): Promise<void> {
    try {
      await this.#start();
    } catch (error) {
      if (!this.#kvmFailed || accelerator === 'tcg') throw error;
      await this.#kill();
      accelerator = 'tcg';
      this.#options.onProgress?.(
        'KVM of this machine cannot start a kernel: qemu computes all of it, which is slower',
      );
      await this.#start();
    }
  }

  /** Turns it on and waits for nothing. */
  powerOnBlindly(): void {
    this.#spawn();
  }

  /** Its own `systemctl reboot`: services are stopped, file systems are unmounted. */
  async reboot(): Promise<void> {
    await this.#systemctl('reboot');
    await this.boot();
  }

  /** Its own `systemctl poweroff`. */
  async powerOff(): Promise<void> {
    await this.#systemctl('poweroff');
  }

  /** Ends qemu at once. What was not flushed is lost, kept or torn by chance. It is off then. */
  async cutPower(random: Random): Promise<Cut> {
    await this.#kill();
    return this.#disk.cut(random);
  }

  /** Runs a script by bash. Returns what it said; error `ScriptFailed` where it does not end with 0, `AgentAway`. */
  async sh(script: string, timeoutMs = 60_000): Promise<string> {
    const ran = await this.tried(script, timeoutMs);
    if (ran.code !== 0) throw new ScriptFailed(ran);
    return ran.said;
  }

  /** The machine's bash runs a script. Returns its exit code and what it said. Error `AgentAway`: the machine does not answer. */
  async tried(script: string, timeoutMs = 60_000): Promise<Ran> {
    if (this.#agent === undefined) throw new AgentAway('the machine is off');
    return await this.#agent.run(script, patient(timeoutMs));
  }

  /** What its kernel and its systemd have written to the serial line since it was turned on last. */
  console(): string {
    const file = this.#at(`console-${this.#boots}`);
    return existsSync(file) ? readFileSync(file, 'latin1') : '';
  }

  /** Bytes that it has written and not flushed. */
  get unflushed(): number {
    return this.#disk.unflushed;
  }

  readonly #at = (name: string): string => join(this.#options.folder, name);

  async #start(): Promise<void> {
    const qemu = this.#spawn();
    const isOver = () => qemu.exitCode !== null || qemu.signalCode !== null || this.#kvmFailed;
    this.#agent = await GuestAgent.open(this.#at('agent.sock'), patient(BOOT_MS), isOver);
  }

  async #systemctl(command: string): Promise<void> {
    const qemu = this.#qemu;
    if (qemu === undefined) throw new AgentAway('the machine is off');
    const ended = once(qemu, 'exit');
    // Its answer may come, or not.
    this.tried(`systemctl ${command} --no-block`, 30_000).catch(() => {});
    const timer = setTimeout(() => void qemu.kill('SIGKILL'), patient(STOP_MS));
    await ended;
    clearTimeout(timer);
    if (qemu.signalCode !== null) throw new AgentAway(`it does not ${command} within ${STOP_MS / 1000} s`);
    this.#forget();
  }

  async #kill(): Promise<void> {
    const qemu = this.#qemu;
    if (qemu !== undefined && qemu.exitCode === null && qemu.signalCode === null) {
      const ended = once(qemu, 'exit');
      qemu.kill('SIGKILL');
      await ended;
    }
    this.#forget();
  }

  #forget(): void {
    // What qemu had sent and this had not read yet was never on the disk.
    this.#server.disconnect();
    this.#agent?.close();
    this.#agent = undefined;
    this.#qemu = undefined;
  }

  #spawn(): ChildProcess {
    if (this.#qemu !== undefined) throw new Error('the machine is on');
    const { disk, kernel = 0, files, memoryMiB = 1536 } = this.#options;
    const boot = disk.kernels[kernel];
    if (boot === undefined) throw new Error(`${disk.name} has no kernel ${kernel}`);
    this.#boots += 1;
    const options: ReadonlyArray<readonly string[]> = [
      ['-machine', 'q35', ...ACCELERATION[accelerator], '-smp', '2', '-m', String(memoryMiB)],
      // A reboot ends qemu, so that it is seen.
      ['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
      ['-kernel', boot.kernel, '-initrd', boot.initrd],
      ['-append', 'root=/dev/vda rw console=ttyS0 panic=-1 net.ifnames=0 systemd.show_status=no'],
      ['-serial', `file:${this.#at(`console-${this.#boots}`)}`],
      ['-blockdev', `driver=nbd,node-name=disk,server.type=unix,server.path=${this.#at('disk.sock')}`],
      ['-device', 'virtio-blk-pci,drive=disk,write-cache=on'],
      ['-netdev', 'user,id=net', '-device', 'virtio-net-pci,netdev=net,romfile='],
      ['-device', 'virtio-rng-pci', '-device', 'virtio-serial-pci'],
      ['-chardev', `socket,id=agent,path=${this.#at('agent.sock')},server=on,wait=off`],
      ['-device', 'virtserialport,chardev=agent,name=org.qemu.guest_agent.0'],
      ...(files === undefined ? [] : [fileDisk(files)]),
    ];
    const args = options.flat();
    // setpriv(1) becomes qemu, which then dies with this process even where it is killed.
    const qemu = spawn('setpriv', ['--pdeathsig', 'KILL', QEMU, ...args], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let said = '';
    this.#kvmFailed = false;
    qemu.stderr.on('data', (bytes: Buffer) => {
      said = (said + bytes.toString()).slice(-4_000);
      if (accelerator === 'kvm' && KVM_FAILED.test(said)) this.#kvmFailed = true;
      else if (!this.#kvmFailed) this.#options.onProgress?.(`qemu: ${bytes.toString().trim()}`);
    });
    this.#qemu = qemu;
    return qemu;
  }
}
