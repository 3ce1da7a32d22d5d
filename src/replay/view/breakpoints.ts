/** Breakpoints of the view: conditions at which playing and following stop. */
import { type Condition, formatCondition, parseCondition } from '../conditions.ts';
import type { ReplayLog } from '../replay-log.ts';
import { find } from '../search.ts';

export interface Breakpoint {
  text: string;
  condition: Condition;
}

/** Most breakpoints at once; a further one takes the place of the oldest. */
const MAX_BREAKPOINTS = 20;

/** With a breakpoint more. Error: `invalid-argument` for a text that is no condition. */
export function withBreakpoint(breakpoints: readonly Breakpoint[], text: string): Breakpoint[] {
  const condition = parseCondition(text);
  return [...breakpoints, { text: formatCondition(condition), condition }].slice(-MAX_BREAKPOINTS);
}

/** A condition that any of the breakpoints fulfils; undefined without breakpoints. */
export function anyOf(breakpoints: readonly Breakpoint[]): Condition | undefined {
  return breakpoints.length === 0 ? undefined : breakpoints.flatMap(({ condition }) => condition);
}

/** Index of the first event from `from` to before `to` that a breakpoint stops at. */
export function firstHit(
  log: ReplayLog,
  breakpoints: readonly Breakpoint[],
  from: number,
  to: number,
): number | undefined {
  const condition = anyOf(breakpoints);
  return condition === undefined || to <= from ? undefined : find(log, { condition }, from, to);
}

/** Says which breakpoint stops at an event. */
export function describeHit(log: ReplayLog, breakpoints: readonly Breakpoint[], index: number): string {
  const hit = breakpoints.find(({ condition }) => find(log, { condition }, index, index + 1) === index);
  return `breakpoint: ${hit?.text ?? ''}`;
}
