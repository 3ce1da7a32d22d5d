/**
 * Keyrings of the kernel (keyrings(7)) that cofa 0.1.0 has left. Root's keys are one store for the whole machine: root
 * of a container without a seccomp filter reads them, so nothing is kept there.
 */
import { call, declare } from './libc.ts';
import { systemNumber } from './system-numbers.ts';

const keyctl = systemNumber('keyctl') ?? -1;

const control = declare('syscall', ['long', 'long', 'long', 'long'], 'int64');
const search = declare('syscall', ['long', 'long', 'long', 'str', 'str', 'long'], 'int64');

/** linux/keyctl.h */
const PROCESS_KEYRING = -2;
const USER_KEYRING = -4;
const CLEAR = 7;
const LINK = 8;
const UNLINK = 9;
const SEARCH = 10;

/**
 * Removes root's keyring of a name with all its secrets. Returns whether it was there. Throws SystemCallError where the
 * kernel has no keys or denies them to this process, as in many containers.
 */
export function forgetKeyring(name: string): boolean {
  // A service may have a session keyring of its own, from which root's keys are not reached (systemd's KeyringMode).
  call('keyctl', control, keyctl, LINK, USER_KEYRING, PROCESS_KEYRING);
  try {
    const known = Number(search(keyctl, SEARCH, USER_KEYRING, 'keyring', name, 0));
    if (known < 0) return false;
    call('keyctl', control, keyctl, CLEAR, known, 0);
    call('keyctl', control, keyctl, UNLINK, known, USER_KEYRING);
    return true;
  } finally {
    control(keyctl, UNLINK, USER_KEYRING, PROCESS_KEYRING);
  }
}
