/**
 * System calls that a container may not make: doors into the kernel that no ordinary program needs and that missing
 * capabilities alone do not close. Docker's profile instead lists the allowed calls, some 380; it is stricter, and has
 * to follow each new kernel. Format: OCI runtime-spec, config-linux.md, "Seccomp".
 */

export interface Seccomp {
  defaultAction: string;
  architectures: string[];
  syscalls: Array<{
    names: string[];
    action: string;
    errnoRet: number;
    args?: Array<{ index: number; value: number; valueTwo: number; op: string }>;
  }>;
}

/** The profile for a machine (`process.arch`); undefined for a machine whose system calls this file does not know. */
export function seccompProfile(machine: string): Seccomp | undefined {
  const architectures = ARCHITECTURES[machine];
  if (architectures === undefined) return undefined;
  return {
    defaultAction: 'SCMP_ACT_ALLOW',
    architectures,
    syscalls: [
      { names: [...REFUSED], action: 'SCMP_ACT_ERRNO', errnoRet: EPERM },
      // A user namespace gives all capabilities inside, and so a way to most of what root can break.
      {
        names: ['clone', 'unshare'],
        action: 'SCMP_ACT_ERRNO',
        errnoRet: EPERM,
        args: [{ index: 0, value: CLONE_NEWUSER, valueTwo: CLONE_NEWUSER, op: 'SCMP_CMP_MASKED_EQ' }],
      },
      // Its flags lie in memory, where no filter can look; after ENOSYS libc uses clone.
      { names: ['clone3'], action: 'SCMP_ACT_ERRNO', errnoRet: ENOSYS },
    ],
  };
}

/** linux/sched.h */
const CLONE_NEWUSER = 0x10000000;
const EPERM = 1;
const ENOSYS = 38;

const REFUSED: readonly string[] = [
  // The key store of the kernel knows no containers.
  'add_key',
  'keyctl',
  'request_key',
  // Large and young parts of the kernel.
  'bpf',
  'io_uring_enter',
  'io_uring_register',
  'io_uring_setup',
  'perf_event_open',
  'userfaultfd',
  // The machine itself.
  'acct',
  'delete_module',
  'finit_module',
  'init_module',
  'kexec_file_load',
  'kexec_load',
  'reboot',
  'swapoff',
  'swapon',
  // Opens files by number, past every directory.
  'open_by_handle_at',
];

/** Of `process.arch`, with those that run on it besides. */
const ARCHITECTURES: Readonly<Record<string, string[]>> = {
  x64: ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32'],
  arm64: ['SCMP_ARCH_AARCH64', 'SCMP_ARCH_ARM'],
};
