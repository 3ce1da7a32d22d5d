/**
 * Numbers of system calls for which not every C library has a function, by Linux' names (asm/unistd.h). From 424 on a call
 * has the same number on every processor; test/house/processors.test.ts compares them with the kernel's headers.
 */
const EVERYWHERE = { move_mount: 429, fsopen: 430, fsconfig: 431, fsmount: 432, openat2: 437 } as const;
const OWN = {
  x64: { sched_setscheduler: 144, keyctl: 250, ioprio_set: 251 },
  arm64: { sched_setscheduler: 119, keyctl: 219, ioprio_set: 30 },
} as const;

type Everywhere = keyof typeof EVERYWHERE;
type Own = keyof (typeof OWN)['x64'];

/** The number on a processor (Node's name of it); undefined where it is not known. */
export function systemNumber(name: Everywhere, processor?: string): number;
export function systemNumber(name: Own | Everywhere, processor?: string): number | undefined;
export function systemNumber(name: Own | Everywhere, processor: string = process.arch): number | undefined {
  if (name in EVERYWHERE) return EVERYWHERE[name as Everywhere];
  return (OWN as Partial<Record<string, Record<Own, number>>>)[processor]?.[name as Own];
}

/** All names. */
export const SYSTEM_NUMBERS: ReadonlyArray<Own | Everywhere> = [
  ...(Object.keys(OWN.x64) as Own[]),
  ...(Object.keys(EVERYWHERE) as Everywhere[]),
];
