/**
 * Secrets for the next life of this process: sealed memory that the service manager holds. They are in no file and no
 * keyring, and gone with the service. Without a service manager they are gone with the process.
 *
 * Two names take turns. A process that is killed between the two messages to the service manager leaves two of them, of
 * which the one with the higher number counts:
 *
 *     8 bytes  number, little-endian
 *     the rest what was kept
 */
import { closeSync } from 'node:fs';
import { readSealed, sealMemory } from '../kernel/sealed-memory.ts';
import { forgetDescriptors, storeDescriptor, takeStoredDescriptors } from '../kernel/service-manager.ts';

/** Where secrets outlive this process. */
export interface Keeper {
  /** The most that is kept, bytes. */
  readonly most: number;
  /** What an earlier life kept; undefined: nothing. */
  load(): Buffer | undefined;
  /** In the place of what was kept. Throws SystemCallError. */
  save(bytes: Uint8Array): void;
}

const MOST = 16 << 20;
const NUMBER = 8;

export class KeptSecrets implements Keeper {
  readonly most = MOST;
  readonly #names: readonly [string, string];
  /** Of what was kept last. */
  #number = 0n;

  /** `name`: a word, to tell these from other descriptors of the service. */
  constructor(name: string) {
    this.#names = [`${name}-0`, `${name}-1`];
  }

  load(): Buffer | undefined {
    let newest: Buffer | undefined;
    for (const [fd, name] of takeStoredDescriptors()) {
      const bytes = readOnce(fd);
      if (!this.#names.includes(name) || bytes === undefined || bytes.length < NUMBER) continue;
      const number = bytes.readBigUInt64LE(0);
      if (newest !== undefined && number <= this.#number) continue;
      this.#number = number;
      newest = bytes.subarray(NUMBER);
    }
    return newest;
  }

  save(bytes: Uint8Array): void {
    this.#number += 1n;
    const whole = Buffer.alloc(NUMBER + bytes.length);
    whole.writeBigUInt64LE(this.#number, 0);
    whole.set(bytes, NUMBER);
    const at = Number(this.#number % 2n);
    const fd = sealMemory('cofa-secrets', whole);
    try {
      storeDescriptor(this.#names[at] as string, fd);
      forgetDescriptors(this.#names[1 - at] as string);
    } finally {
      closeSync(fd);
    }
  }
}

/** Closes it. Undefined: it is not what this program has stored. */
function readOnce(fd: number): Buffer | undefined {
  try {
    return readSealed(fd, NUMBER + MOST);
  } catch {
    return undefined;
  } finally {
    closeSync(fd);
  }
}
