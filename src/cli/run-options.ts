/** The options of `cofa run`, declared once: for commander (run.ts), and for a line that needs no commander (plain-line.ts). */
import type { TrustPolicy } from '../../schemas/trust.ts';
import { checkName, NETWORKS, type Network } from '../container/options.ts';
import { type OptionWords, oneOf } from './context.ts';
import { trustOption } from './trust-option.ts';
import { PREFETCH_HELP, type Prefetch, prefetchOption } from './prefetch-option.ts';

/** What the options say, as commander hands it over. */
export interface RunWords {
  name?: string;
  env?: string[];
  envFile?: string[];
  volume?: string[];
  workdir?: string;
  user?: string;
  hostname?: string;
  network?: Network;
  entrypoint?: string;
  platform?: string;
  tty?: boolean;
  interactive?: boolean;
  readOnly?: boolean;
  keep?: boolean;
  rm?: boolean;
  securityOpt?: string[];
  prefetch?: Prefetch;
  trust?: TrustPolicy;
}

const collect = (value: string, before: unknown): string[] => [
  ...(Array.isArray(before) ? (before as string[]) : []),
  value,
];

export const RUN_OPTIONS: readonly OptionWords[] = [
  { flags: '-e, --env <name[=value]>', about: 'environment; the caller’s value without =', parse: collect },
  { flags: '--env-file <file>', about: 'environment from a file', parse: collect },
  { flags: '-v, --volume <host:dir[:ro]>', about: 'show a directory or file of the host', parse: collect },
  { flags: '-w, --workdir <dir>', about: 'directory to start in' },
  { flags: '-u, --user <user[:group]>', about: 'names of the image, or numbers' },
  { flags: '-i, --interactive', about: 'pass the standard input on' },
  { flags: '-t, --tty', about: 'give it a terminal' },
  { flags: '--entrypoint <program>', about: 'replaces the entrypoint of the image; "" for none' },
  { flags: '--hostname <name>', about: 'its own hostname' },
  {
    flags: '--network <network>',
    about: 'the host’s (host, the default), or loopback alone (none)',
    parse: oneOf('--network', NETWORKS),
  },
  { flags: '--name <name>', about: 'name of the container (default: by chance)', parse: checkName },
  { flags: '--read-only', about: 'nothing can be written to its root' },
  { flags: '--security-opt <option>', about: 'no-new-privileges, or seccomp=unconfined', parse: collect },
  { flags: '--rm', about: 'throw away what it wrote (this is the default)' },
  { flags: '--keep', about: 'keep what it wrote, below ROOT/containers/NAME/upper' },
  { flags: '--platform <os/arch>', about: 'another platform than the node’s' },
  { flags: '--prefetch <on|off|rate>', about: PREFETCH_HELP, parse: prefetchOption },
  { flags: '--no-prefetch', about: 'fetch nothing that is not read' },
  { flags: '--trust <policy>', about: 'as for cofa mount', parse: trustOption },
];
