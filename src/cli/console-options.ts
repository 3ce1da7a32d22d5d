/** Where a page is served, and to whom: options of `cofa console` and `cofa replay --web`. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { CofaError } from '../../schemas/errors.ts';
import type { ListenFlags } from '../console/address.ts';

const path = (text: string): string => resolve(text);

export function addListenOptions(command: Command): Command {
  return command
    .option('--listen <address>', 'PORT (of 127.0.0.1) or HOST:PORT (default: any free port of 127.0.0.1)')
    .option('--cert <file>', 'by HTTPS, with this certificate (PEM)', path)
    .option('--key <file>', 'its key, which its owner alone may read', path)
    .option('--auth <file>', 'to those who log in with USER:PASSWORD, the first line of this file', path);
}

/** Error `invalid-argument`: options of the page without the page. */
export function checkWebFlags(web: boolean, { listen, cert, key, auth }: ListenFlags): void {
  if (web || [listen, cert, key, auth].every((flag) => flag === undefined)) return;
  throw new CofaError('invalid-argument', '--listen, --cert, --key and --auth go with --web');
}
