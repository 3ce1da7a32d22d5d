import { execFile } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Cleanup } from '../support/temp.ts';

/** Runs a command on a terminal, types each answer when its question has come; prints what the terminal showed. */
const ON_TERMINAL = `
import json, os, pty, sys
command, answers = json.loads(sys.argv[1])
pid, terminal = pty.fork()
if pid == 0:
    os.environ.pop("COFA_KEY_PASSWORD", None)
    os.execv(command[0], command)
shown = b""
while True:
    try:
        more = os.read(terminal, 4096)
    except OSError:
        break
    if not more:
        break
    shown += more
    if answers and answers[0][0].encode() in shown:
        os.write(terminal, answers.pop(0)[1].encode())
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()]))
`;

const cleanup = new Cleanup();
let folder: string;
beforeAll(async () => {
  folder = await cleanup.tempDir('passphrase');
});
afterAll(() => cleanup.run());

const run = promisify(execFile);
const MAIN = join(import.meta.dirname, '../../src/cli/main.ts');
async function onTerminal(args: string[], answers: Array<[question: string, typed: string]>) {
  const command = [process.execPath, MAIN, ...args];
  const given = JSON.stringify([command, answers]);
  const { stdout } = await run('python3', ['-c', ON_TERMINAL, given], { timeout: 60_000 });
  const [exit, shown] = JSON.parse(stdout) as [number, string];
  return { exit, shown };
}

describe('a passphrase on the terminal', () => {
  const FIRST = 'passphrase for the private key (empty: none): ';
  it('is asked for twice, corrected, never shown, and needed to sign', async () => {
    const out = join(folder, 'a');
    const made = await onTerminal(
      ['key', 'create', '--out', out],
      [
        [FIRST, 'secreX\u007ft\r'],
        ['again: ', 'secret\r'],
      ],
    );
    expect(made.exit).toBe(0);
    expect(made.shown).toMatch(/a\.key \(encrypted\)/);
    expect(made.shown).not.toMatch(/secre/);
    // The key is read; there is no registry.
    const sign = ['index', '--sign', `${out}.key`, '127.0.0.1:1/app'];
    const question = `passphrase of ${out}.key: `;
    expect(await onTerminal(sign, [[question, 'secret\r']])).toMatchObject({ exit: 5 });
    const wrong = await onTerminal(sign, [[question, 'wrong\r']]);
    expect(wrong).toMatchObject({ exit: 2, shown: expect.stringMatching(/cannot be decrypted/) });
  });

  it('that is typed in two ways, and Ctrl-C, make no key', async () => {
    const create = ['key', 'create', '--out', join(folder, 'b')];
    const two: Array<[string, string]> = [
      [FIRST, 'one\r'],
      ['again: ', 'two\r'],
    ];
    expect(await onTerminal(create, two)).toMatchObject({ exit: 2, shown: expect.stringMatching(/differ/) });
    expect(await onTerminal(create, [[FIRST, '\u0003']])).toMatchObject({ exit: 130 });
    expect((await readdir(folder)).filter((name) => name.startsWith('b'))).toEqual([]);
  });
});
