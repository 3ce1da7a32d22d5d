/**
 * The system calls of a container: what is not listed is refused with EPERM, as by docker's default profile
 * (system-calls.ts says which calls). runc answers ENOSYS for calls younger than the youngest listed one, so that
 * programs fall back. Format: OCI runtime-spec, config-linux.md, "Seccomp".
 */
import { CofaError } from '../../schemas/errors.ts';
import { ALLOWED, ALLOWED_ON } from './system-calls.ts';

export interface Seccomp {
  defaultAction: string;
  defaultErrnoRet: number;
  architectures: string[];
  syscalls: SeccompRule[];
}

/** Rules for the same call are alternatives; the conditions of one rule must all hold. */
export interface SeccompRule {
  names: string[];
  action: string;
  errnoRet?: number;
  args?: Array<{ index: number; value: number; valueTwo?: number; op: string }>;
}

/**
 * The profile for a machine (`process.arch`). Error: `unsupported` for a machine whose system calls this file does not
 * know: a container without a filter is the user's choice only.
 */
export function seccompProfile(machine: string): Seccomp {
  const architectures = ARCHITECTURES[machine];
  if (architectures === undefined)
    throw new CofaError('unsupported', `there is no list of allowed system calls for ${machine}`, {
      hint: 'cofa run --security-opt seccomp=unconfined starts the container without one',
    });
  return {
    defaultAction: 'SCMP_ACT_ERRNO',
    defaultErrnoRet: EPERM,
    architectures,
    syscalls: [
      { names: [...ALLOWED, ...(ALLOWED_ON[machine] ?? [])], action: ALLOW },
      // Not AF_ALG and AF_VSOCK: the kernel's ciphers, and hypervisors, know no containers.
      allowIf('socket', 'SCMP_CMP_LT', AF_ALG),
      allowIf('socket', 'SCMP_CMP_EQ', AF_ALG + 1),
      allowIf('socket', 'SCMP_CMP_GT', AF_VSOCK),
      ...PERSONALITIES.map((value) => allowIf('personality', 'SCMP_CMP_EQ', value)),
      // A user namespace gives all capabilities inside, and so a way to most of what root can break.
      {
        names: ['clone'],
        action: ALLOW,
        args: [{ index: 0, value: NEW_NAMESPACES, valueTwo: 0, op: 'SCMP_CMP_MASKED_EQ' }],
      },
      // Its flags lie in memory, where no filter can look; after ENOSYS libc uses clone.
      { names: ['clone3'], action: 'SCMP_ACT_ERRNO', errnoRet: ENOSYS },
    ],
  };
}

const ALLOW = 'SCMP_ACT_ALLOW';
const EPERM = 1;
const ENOSYS = 38;
/** linux/socket.h */
const AF_ALG = 38;
const AF_VSOCK = 40;
/** linux/sched.h: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET. */
const NEW_NAMESPACES = 0x7e02_0000;
/** linux/personality.h: PER_LINUX, PER_LINUX32, UNAME26 with each, and the question. */
const PERSONALITIES = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

const allowIf = (name: string, op: string, value: number): SeccompRule => ({
  names: [name],
  action: ALLOW,
  args: [{ index: 0, value, op }],
});

/**
 * Of `process.arch`, with those that run on it besides; the kernel kills what makes calls of another. Docker lists x32
 * too, which no distribution uses: it would cost each start a third of the filter's time.
 */
const ARCHITECTURES: Readonly<Record<string, string[]>> = {
  x64: ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86'],
  arm64: ['SCMP_ARCH_AARCH64', 'SCMP_ARCH_ARM'],
};
