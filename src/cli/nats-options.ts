/** The options of `cofa up` that say which NATS an engine takes. */
import { CofaError } from '../../schemas/errors.ts';
import { serversIn } from '../bus/server-list.ts';
import type { Context } from './context.ts';

export interface NatsOptions {
  nats?: string;
  natsUsers?: string;
  natsCa?: string;
  /** Users of the API with limited rights. */
  apiUsers?: string;
}

/** In the environment the URL may have a password: a command line can be read by every user of the machine. */
const VARIABLE = 'COFA_NATS';

/** Takes the environment's URL where no option has one. The environment then has it no more: other processes need none. */
export function takeNatsUrl(options: NatsOptions): void {
  const url = process.env[VARIABLE] ?? '';
  delete process.env[VARIABLE];
  if (url !== '') options.nats ??= url;
}

/** The environment of an engine that is to take this NATS. */
export const withNatsUrl = (url: string | undefined): NodeJS.ProcessEnv =>
  url === undefined ? process.env : { ...process.env, [VARIABLE]: url };

/** Tells the user where passwords and messages are in clear. */
export async function warnOfNats({ nats, natsCa: ca }: NatsOptions, context: Context): Promise<void> {
  if (nats === undefined) return;
  const { exposure } = await import('../bus/operators-nats.ts');
  const exposed = exposure(nats, ca);
  if (exposed !== undefined) context.output.note(exposed);
}

/** Error `invalid-argument` where the options do not belong together. */
export function checkNats({ nats, natsUsers, natsCa }: NatsOptions): void {
  if (nats === undefined && natsCa !== undefined) {
    throw new CofaError('invalid-argument', '--nats-ca is for --nats', {
      hint: 'the private nats-server has a certificate that its clients know',
    });
  }
  const servers = nats === undefined ? [] : serversIn(nats);
  const wrong = servers.find((one) => !URL.canParse(one));
  if (wrong !== undefined) {
    throw new CofaError('invalid-argument', `--nats: ${JSON.stringify(wrong)} is not a URL`, {
      hint: 'such as tls://nats.example:4222, or several of one cluster with commas between',
    });
  }
  if (natsUsers === undefined) return;
  if (nats === undefined) {
    throw new CofaError('invalid-argument', '--nats-users goes with --nats', {
      hint: 'the private nats-server makes its own users at each start',
    });
  }
  if (servers.some((one) => /^[a-z]+:\/\/[^/]*@/i.test(one))) {
    throw new CofaError('invalid-argument', 'either --nats has a user, or --nats-users names them', {
      hint: '--nats tls://HOST:4222 --nats-users FILE',
    });
  }
}
