import type { Shape } from '../../schemas/shapes.ts';

/** For questions of tests that take any answer, and handlers that take any question. */
export const anything: Shape<unknown> = (_value): _value is unknown => true;
