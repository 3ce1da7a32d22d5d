/**
 * Who may look. On loopback it is the client that opens the address which `cofa console` prints: the token in it becomes a
 * cookie, so that neither history nor links keep it. Where other machines reach the console, clients log in with a user's name and
 * password, over TLS. Both are compared as digests of equal length, in constant time.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';

export type Access =
  | { kind: 'token'; token: string; cookie: string }
  /** Digest of the header that a client must send. */
  | { kind: 'login'; header: Buffer };

/** What a request shows for itself. */
export interface Shown {
  /** The word `token` of the address. */
  token: string | undefined;
  cookie: string | undefined;
  authorization: string | undefined;
}

/** Cookies know no ports, so the name has it: two consoles of a machine do not log each other out. */
export const byToken = (port: number, token = randomBytes(32).toString('base64url')): Access => ({
  kind: 'token',
  token,
  cookie: `cofa-console-${port}`,
});

/** `login`: `USER:PASSWORD` */
export const byLogin = (login: string): Access => ({
  kind: 'login',
  header: digestOf(`Basic ${Buffer.from(login).toString('base64')}`),
});

export type Verdict =
  | 'allowed'
  /** The address has the right token: it becomes a cookie. */
  | 'entering'
  | 'refused';

export function judge(access: Access, shown: Shown): Verdict {
  if (access.kind === 'login')
    return timingSafeEqual(access.header, digestOf(shown.authorization ?? '')) ? 'allowed' : 'refused';
  if (shown.token !== undefined && isSame(access.token, shown.token)) return 'entering';
  return isSame(access.token, cookieOf(shown.cookie ?? '', access.cookie)) ? 'allowed' : 'refused';
}

const isSame = (a: string, b: string): boolean => timingSafeEqual(digestOf(a), digestOf(b));

const digestOf = (text: string): Buffer => createHash('sha256').update(text).digest();

function cookieOf(header: string, name: string): string {
  for (const pair of header.split(';')) {
    const at = pair.indexOf('=');
    if (at > 0 && pair.slice(0, at).trim() === name) return pair.slice(at + 1).trim();
  }
  return '';
}
