/** Names of programs come out of containers: what they may do to a log, and to a terminal that shows it. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { commandName, LONGEST_NAME, programName } from '../../schemas/program-name.ts';
import { ProgramName, Ran } from '../../schemas/ran.ts';

test('a name keeps what can be read, and marks become escapes', () => {
  expect(programName('python3')).toBe('python3');
  expect(programName('Isolated Web Co')).toBe('Isolated Web Co');
  expect(programName('say "hi"')).toBe('say "hi"');
  expect(programName('a\nb\tc')).toBe('a\\nb\\tc');
  expect(programName('\u{1b}[2Jroot#')).toBe('\\u{1b}[2Jroot#');
  expect(programName('abc\u{202e}fdp')).toBe('abc\\u{202e}fdp');
  expect(programName('')).toBe('?');
});

test('a long name is cut, and not inside a letter', () => {
  expect(programName('x'.repeat(64))).toBe('x'.repeat(64));
  expect(programName('x'.repeat(65))).toBe(`${'x'.repeat(63)}…`);
  expect(programName(`${'x'.repeat(62)}😀😀`)).toBe(`${'x'.repeat(62)}…`);
});

test('each name that a program can give itself fits its schema', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 200 }), (text) => {
      expect(ProgramName.safeParse(programName(text)).success).toBe(true);
      expect(programName(text).length).toBeLessThanOrEqual(LONGEST_NAME);
      expect(ProgramName.safeParse(commandName(text)).success).toBe(true);
    }),
  );
  expect(ProgramName.safeParse(programName('\ud800')).success).toBe(true);
  for (const name of ['', 'a\nb', '\u{9b}31m', 'x'.repeat(65)])
    expect(ProgramName.safeParse(name).success, JSON.stringify(name)).toBe(false);
});

test('a command has the name of its file, and nothing of its arguments', () => {
  expect(commandName('/usr/local/bin/python3')).toBe('python3');
  expect(commandName('sh')).toBe('sh');
  expect(commandName('./bin/')).toBe('./bin/');
});

test('what an earlier `cofa run` said of a run is still read', () => {
  const ran = { answered: 1, spawned: 2, ended: 4, cpuUs: 5 };
  expect(Ran.parse(ran)).toEqual(ran);
  expect(Ran.safeParse({ ...ran, command: 'python3' }).success).toBe(true);
  expect(Ran.safeParse({ ...ran, command: 'a\nb' }).success).toBe(false);
});
