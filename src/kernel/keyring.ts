/**
 * Secrets that outlive this process and lie on no disk: root's keys in the kernel (keyrings(7)). The next boot forgets
 * them. Each set of secrets is a keyring with a name, below the user's keyring.
 */
import { call, declare } from './libc.ts';

/** Numbers of system calls for which the C library has no functions (asm/unistd.h). */
const NUMBERS: Partial<Record<string, { addKey: number; keyctl: number }>> = {
  x64: { addKey: 248, keyctl: 250 },
  arm64: { addKey: 217, keyctl: 219 },
};
const { addKey, keyctl } = NUMBERS[process.arch] ?? { addKey: -1, keyctl: -1 };

const add = declare('syscall', ['long', 'str', 'str', 'void *', 'size_t', 'long'], 'int64');
const control = declare('syscall', ['long', 'long', 'long', 'long'], 'int64');
const search = declare('syscall', ['long', 'long', 'long', 'str', 'str', 'long'], 'int64');
const read = declare('syscall', ['long', 'long', 'long', 'void *', 'size_t'], 'int64');

/** linux/keyctl.h */
const PROCESS_KEYRING = -2;
const USER_KEYRING = -4;
const CLEAR = 7;
const LINK = 8;
const UNLINK = 9;
const SEARCH = 10;
const READ = 11;
const SET_TIMEOUT = 15;

/** The largest payload of a key of the type `user`, bytes. */
export const MAX_SECRET = 32_767;

export class Keyring {
  readonly #id: number;

  private constructor(id: number) {
    this.#id = id;
  }

  /**
   * Opens the keyring of this name, or makes it. Throws SystemCallError where the kernel has no keys or denies them to
   * this process, as in many containers.
   */
  static open(name: string): Keyring {
    // A service may have a session keyring of its own, from which root's keys are not reached (systemd's KeyringMode).
    call('keyctl', control, keyctl, LINK, USER_KEYRING, PROCESS_KEYRING);
    const known = Number(search(keyctl, SEARCH, USER_KEYRING, 'keyring', name, 0));
    if (known >= 0) return new Keyring(known);
    return new Keyring(Number(call('add_key', add, addKey, 'keyring', name, null, 0, USER_KEYRING)));
  }

  /**
   * Removes the keyring of a name with all its secrets; does nothing where there is none, or where the kernel has no
   * keys.
   */
  static forget(name: string): void {
    const known = Number(search(keyctl, SEARCH, USER_KEYRING, 'keyring', name, 0));
    if (known < 0) return;
    control(keyctl, CLEAR, known, 0);
    control(keyctl, UNLINK, known, USER_KEYRING);
  }

  /**
   * Adds a secret, or replaces the one of this name, for so many seconds. Throws SystemCallError: EDQUOT, EINVAL beyond
   * `MAX_SECRET`.
   */
  put(name: string, secret: Uint8Array, seconds: number): void {
    const id = Number(call('add_key', add, addKey, 'user', name, secret, secret.length, this.#id));
    call('keyctl', control, keyctl, SET_TIMEOUT, id, seconds);
  }

  remove(name: string): void {
    const id = Number(search(keyctl, SEARCH, this.#id, 'user', name, 0));
    if (id >= 0) control(keyctl, UNLINK, id, this.#id);
  }

  /** All secrets, in no order. */
  all(): Buffer[] {
    const ids = this.#read(this.#id) ?? Buffer.alloc(0);
    const found = Array.from({ length: Math.floor(ids.length / 4) }, (_, at) => ids.readInt32LE(at * 4));
    return found.flatMap((id) => this.#read(id) ?? []);
  }

  /** Undefined where the key has expired or been removed meanwhile. */
  #read(id: number): Buffer | undefined {
    for (let length = 4_096; ; ) {
      const buffer = Buffer.alloc(length);
      const needed = Number(read(keyctl, READ, id, buffer, length));
      if (needed < 0) return undefined;
      if (needed <= length) return buffer.subarray(0, needed);
      length = needed;
    }
  }
}
