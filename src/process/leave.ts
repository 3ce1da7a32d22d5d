/** How a process ends by itself that may be at idle priority. */
import { raiseBeforeEnd } from '../kernel/priority.ts';

/** Ends this process with the code, raised first where it is idle: see `raiseBeforeEnd`. */
export function leave(code: number): never {
  raiseBeforeEnd(process.pid);
  process.exit(code);
}
