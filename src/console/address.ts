/** Where a console listens, as its options say. What other machines could reach without TLS and login is refused. */
import { CofaError } from '../../schemas/errors.ts';
import { isLoopbackHost, metricsAddress, readLogin, readTls } from '../metrics/address.ts';

export interface ListenFlags {
  listen?: string;
  cert?: string;
  key?: string;
  auth?: string;
}

export interface ListenSettings {
  host: string;
  /** 0: any that is free. */
  port: number;
  /** Texts, PEM. */
  tls?: { cert: string; key: string };
  /** `USER:PASSWORD`; absent: the token of the address. */
  login?: string;
}

/** Error `invalid-argument`. */
export function listenSettings({ listen, cert, key, auth }: ListenFlags): ListenSettings {
  if ((cert === undefined) !== (key === undefined))
    throw new CofaError('invalid-argument', '--cert and --key go together');
  const settings: ListenSettings = {
    ...(listen === undefined ? { host: '127.0.0.1', port: 0 } : addressOf(listen)),
    ...(cert === undefined || key === undefined ? {} : { tls: readTls({ cert, key }, ['--cert', '--key']) }),
    ...(auth === undefined ? {} : { login: readLogin(auth, '--auth') }),
  };
  const isOpen = !isLoopbackHost(settings.host);
  if (isOpen && (settings.tls === undefined || settings.login === undefined)) {
    throw new CofaError('invalid-argument', `--listen ${settings.host}: other machines reach this address`, {
      hint: 'there it takes --cert, --key and --auth; or leave it on 127.0.0.1 and reach it by ssh -L',
    });
  }
  return settings;
}

function addressOf(text: string): { host: string; port: number } {
  const address = metricsAddress(text, '--listen');
  if ('host' in address) return address;
  throw new CofaError('invalid-argument', `--listen ${JSON.stringify(text)}: a browser opens no socket`, {
    hint: 'PORT, 127.0.0.1:PORT or [::1]:PORT',
  });
}
