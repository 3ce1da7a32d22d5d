/** What a client that ran a container says of the run when it has ended: the engine sees the mount alone. */
import { z } from 'zod';
import { LONGEST_NAME, NAME } from './program-name.ts';

/** A program in a container, as `programName` writes it. */
export const ProgramName = z.string().min(1).max(LONGEST_NAME).regex(NAME);

/** ms since the epoch */
const instant = z.number().min(0);

export const Ran = z.strictObject({
  answered: instant.describe('the mount was there, and the client knew'),
  spawned: instant.describe('runc was started'),
  program: instant.optional().describe("the container's program began; absent: not known"),
  command: ProgramName.optional().describe(
    "name of the container's program, without its folder and its arguments; absent: not known",
  ),
  ended: instant.describe('runc had ended'),
  cpuUs: z.int().min(0).describe('processor time of runc and of all processes of the container'),
});
export type Ran = z.output<typeof Ran>;
