/** The caller's terminal, asked without node:tty, whose streams would change the descriptors the container inherits. */
import { isatty } from 'node:tty';

export interface TerminalSize {
  /** Rows. */
  height: number;
  /** Columns. */
  width: number;
}

/** Whether one of the standard descriptors is a terminal. */
export function hasTerminal(): boolean {
  return STANDARD.some((fd) => isatty(fd));
}

/** Undefined without a terminal, or when it does not know its size. */
export async function terminalSize(): Promise<TerminalSize | undefined> {
  const fd = STANDARD.find((one) => isatty(one));
  if (fd === undefined) return undefined;
  const { declare } = await import('../kernel/libc.ts');
  const ioctl = declare('ioctl', ['int', 'ulong', 'void *']);
  const size = Buffer.alloc(8);
  if (ioctl(fd, TIOCGWINSZ, size) < 0) return undefined;
  const [height, width] = [size.readUInt16LE(0), size.readUInt16LE(2)];
  return height === 0 || width === 0 ? undefined : { height, width };
}

const STANDARD = [2, 1, 0];
/** asm-generic/ioctls.h; fills struct winsize, four u16: rows, columns, and pixels. */
const TIOCGWINSZ = 0x5413;
