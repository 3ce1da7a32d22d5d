/**
 * Compiles a flat XState machine (no context, no guards, no nested states) into a table of bytes, by asking the
 * machine's own pure `transition` about every (state, event). What the machine says is thereby what runs.
 */
import { type AnyStateMachine, transition } from 'xstate';

/** Table entry: this event cannot happen in this state. */
export const NOT_ALLOWED = 0xff;

/**
 * Returns `table[state * events.length + event]` = index of the next state, or NOT_ALLOWED.
 * An event that the machine handles by staying in the state yields that state.
 * Throws an Error for a machine whose next state is not one of `states`, or with more than 254 states.
 */
export function compileTable(
  machine: AnyStateMachine,
  states: readonly string[],
  events: readonly string[],
): Uint8Array {
  if (states.length >= NOT_ALLOWED) throw new Error(`machine ${machine.id} has too many states for a byte`);
  const table = new Uint8Array(states.length * events.length).fill(NOT_ALLOWED);
  for (const [row, state] of states.entries()) {
    const snapshot = machine.resolveState({ value: state, context: {} });
    for (const [column, type] of events.entries()) {
      if (!snapshot.can({ type })) continue;
      const [next] = transition(machine, snapshot, { type });
      const index = states.indexOf(String(next.value));
      if (index < 0) throw new Error(`machine ${machine.id}: ${state} + ${type} leads to an unknown state`);
      table[row * events.length + column] = index;
    }
  }
  return table;
}
