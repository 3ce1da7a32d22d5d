/** Passphrases of private keys: from the environment, else from the terminal. */
import { CofaError } from '../../schemas/errors.ts';
import { Interrupted } from '../terminal/interrupted.ts';

export const PASSWORD_VARIABLE = 'COFA_KEY_PASSWORD';
const MOST_LETTERS = 1024;

/** For a key that is read. Undefined: neither the variable is set, nor is there a terminal. */
export async function passphraseFor(what: string): Promise<string | undefined> {
  const given = process.env[PASSWORD_VARIABLE];
  if (given !== undefined || process.stdin.isTTY !== true) return given;
  return await askHidden(`passphrase of ${what}: `);
}

/** For a key that is made; empty or undefined: none. Error: `invalid-argument` where the user types two. */
export async function newPassphrase(): Promise<string | undefined> {
  const given = process.env[PASSWORD_VARIABLE];
  if (given !== undefined || process.stdin.isTTY !== true) return given;
  const first = await askHidden('passphrase for the private key (empty: none): ');
  if (first !== '' && first !== (await askHidden('again: ')))
    throw new CofaError('invalid-argument', 'the two passphrases differ', { hint: 'try again' });
  return first;
}

/** Asks on standard error and reads a line of standard input, a terminal, which shows nothing of it. */
async function askHidden(question: string): Promise<string> {
  const { stdin, stderr } = process;
  // Before the question: what is typed at once must not be shown either.
  stdin.setRawMode(true);
  stdin.setEncoding('utf8');
  stderr.write(question);
  try {
    let line = '';
    for await (const typed of stdin.iterator({ destroyOnReturn: false }) as AsyncIterable<string>) {
      for (const letter of typed) {
        if (letter === '\r' || letter === '\n') return line;
        if (letter === '\u0003') throw new Interrupted('SIGINT');
        if (letter === '\u0004') return line;
        line = letter === '\u007f' || letter === '\b' ? line.slice(0, -1) : line + letter;
        if (line.length > MOST_LETTERS) throw new CofaError('invalid-argument', 'the passphrase is too long');
      }
    }
    return line;
  } finally {
    stdin.setRawMode(false);
    stdin.pause();
    stderr.write('\n');
  }
}
