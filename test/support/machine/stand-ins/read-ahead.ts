/** Stand-in for src/kernel/read-ahead.ts. */
import { machine } from '../machine.ts';

export * from '../../../../src/kernel/read-ahead.ts';

export const setReadAhead = (): Promise<void> => machine().call(1, () => {});
