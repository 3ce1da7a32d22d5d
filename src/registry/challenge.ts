/** WWW-Authenticate headers (RFC 9110, 11.6.1), as far as registries use them: Basic, and docker's Bearer. */

export type Challenge =
  | { scheme: 'basic' }
  /** `realm` is the address of the token service (distribution's "Token Authentication Specification"). */
  | { scheme: 'bearer'; realm: string; service: string | undefined };

const MAX_HEADER = 16 * 1024;
const TOKEN = /[!#$%&'*+\-.^_`|~0-9A-Za-z]+/y;

/**
 * The challenge to answer among those of a response. Bearer wins over Basic, since a registry that offers both prefers
 * it. Undefined where cofa knows none of them, or cannot read the header.
 */
export function chooseChallenge(header: string | string[] | undefined): Challenge | undefined {
  const all = [header ?? []].flat().flatMap((line) => parseChallenges(line));
  for (const { scheme, parameters } of all) {
    const realm = parameters.get('realm');
    if (scheme === 'bearer' && realm !== undefined) {
      return { scheme, realm, service: parameters.get('service') };
    }
  }
  return all.some(({ scheme }) => scheme === 'basic') ? { scheme: 'basic' } : undefined;
}

interface Parsed {
  /** Lowercase. */
  scheme: string;
  /** Names lowercase, values unquoted. */
  parameters: Map<string, string>;
}

/** Splits one header line. What follows a mistake is ignored. */
export function parseChallenges(line: string): Parsed[] {
  const challenges: Parsed[] = [];
  if (line.length > MAX_HEADER) return challenges;
  let at = 0;
  const skip = (set: string) => {
    while (at < line.length && set.includes(line.charAt(at))) at++;
  };
  const token = (): string | undefined => {
    TOKEN.lastIndex = at;
    const found = TOKEN.exec(line)?.[0];
    if (found !== undefined) at += found.length;
    return found;
  };
  for (;;) {
    skip(', \t');
    const word = token();
    if (word === undefined) return challenges;
    skip(' \t');
    const current = challenges.at(-1);
    // A word with an equals sign is a parameter of the challenge before it, any other starts a challenge.
    if (line.charAt(at) !== '=' || current === undefined) {
      challenges.push({ scheme: word.toLowerCase(), parameters: new Map() });
      continue;
    }
    at++;
    skip(' \t');
    let value: string | undefined;
    if (line.charAt(at) === '"') {
      value = '';
      at++;
      while (at < line.length && line.charAt(at) !== '"') {
        if (line.charAt(at) === '\\') at++;
        value += line.charAt(at);
        at++;
      }
      if (at >= line.length) return challenges;
      at++;
    } else {
      value = token();
      if (value === undefined) return challenges;
    }
    current.parameters.set(word.toLowerCase(), value);
  }
}
