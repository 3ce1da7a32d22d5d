import { describe, expect, test } from 'vitest';
import { type AnyStateMachine, setup } from 'xstate';
import { imageMachine } from '../../actors/image.ts';
import { mountMachine } from '../../actors/mount.ts';
import { processMachine } from '../../actors/process.ts';
import { ActorHost, type Effects } from '../../src/process/actor-host.ts';

const nothing = () => {};

const lamp = setup({
  types: { context: {} as { switched: number }, events: {} as { type: 'SWITCH' } },
  actions: { light: (_args, _params: { watts: number }) => {}, darken: () => {} },
});
const lampMachine = lamp.createMachine({
  id: 'lamp',
  initial: 'dark',
  context: { switched: 0 },
  states: {
    dark: { on: { SWITCH: { target: 'lit', actions: lamp.assign({ switched: 1 }) } } },
    lit: { entry: { type: 'light', params: { watts: 40 } }, on: { SWITCH: 'dark' }, exit: 'darken' },
  },
});

describe('effects of an actor', () => {
  test('an effect runs with the parameters of its action; a change of the context is none', () => {
    const done: string[] = [];
    const host = new ActorHost(lampMachine, {
      light: ({ watts }) => void done.push(`light ${watts}`),
      darken: () => void done.push('darken'),
    });
    host.send({ type: 'SWITCH' });
    host.send({ type: 'SWITCH' });
    expect(done).toEqual(['light 40', 'darken']);
    expect(host.snapshot.context.switched).toBe(1);
  });

  test('an action without an effect is refused, at compile time and at construction', () => {
    // @ts-expect-error darken is missing
    expect(() => new ActorHost(lampMachine, { light: nothing })).toThrow(
      'lamp: no effect for the action darken',
    );
  });

  test('an effect that no action names is refused, at compile time and at construction', () => {
    expect(
      // @ts-expect-error blink is no action of a lamp
      () => new ActorHost(lampMachine, { light: nothing, darken: nothing, blink: nothing }),
    ).toThrow('lamp: no action names the effect blink');
  });

  test('an effect that wants other parameters than its action has does not compile', () => {
    const effects: Effects<typeof lampMachine> = {
      // @ts-expect-error watts is a number
      light: ({ watts }: { watts: string }) => watts,
      darken: nothing,
    };
    expect(Object.keys(effects)).toEqual(['light', 'darken']);
  });
});

test.each([
  ['image', imageMachine],
  ['mount', mountMachine],
  ['process', processMachine],
] as const)(
  'every action that the %s machine declares is named by a state',
  (_, machine: AnyStateMachine) => {
    const text = JSON.stringify(machine.config);
    for (const action of Object.keys(machine.implementations.actions)) expect(text).toContain(`"${action}"`);
  },
);
