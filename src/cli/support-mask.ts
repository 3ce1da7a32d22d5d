/**
 * Takes secrets out of texts that leave the machine. Two ways, since each misses something: secrets that are known, because they
 * stand in a file that holds some, are replaced wherever they are; and whatever looks like one is replaced as well.
 */

const MASKED = '***';
/** Shorter ones would be found in ordinary words. */
const SHORTEST = 6;

/** Names of fields, headers and variables whose values are secrets. */
const NAMES =
  'pass(?:word|wd|phrase)?|secret|token|identity_?token|registry_?token|access_?token|refresh_?token|id_?token|session_?token|auth|authorization|proxy-authorization|x-registry-auth|x-amz-security-token|cookie|set-cookie|credentials?|api[-_]?key|private[-_]?key|client[-_]?secret|seed|nkey|jwt|sig|signature';
/** Those whose values may have blanks. */
const WITH_BLANKS = 'pass(?:word|wd|phrase)?|secret|authorization|cookie';
/** A name and what stands between it and the quote of its value. */
const QUOTED = `(?:${NAMES})(?:\\\\*["'])?\\s*[:=]\\s*`;

/**
 * Each takes a time that grows with the text, not with its square: what others wrote into a log may be one word of any length.
 * So none begins with a run of letters that it can give back.
 */
const PATTERNS: ReadonlyArray<readonly [pattern: RegExp, by: string]> = [
  // Keys in PEM, also with the line ends of JSON.
  [/-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|$)/g, MASKED],
  // USER:PASSWORD@ of an address. The last @ counts, as for browsers.
  [/(:\/\/)[^/\s"']+@/g, `$1${MASKED}@`],
  [/\b(bearer|basic|negotiate)(\s+)[\w.~+/=-]{6,}/gi, `$1$2${MASKED}`],
  // JSON web tokens, and JSON in base64, as in X-Registry-Auth; tokens that say whose they are.
  [/\beyJ[\w-]{8,}(?:\.[\w-]*)*/g, MASKED],
  [/\b(?:gh[pousr]_|github_pat_|glpat-|dckr_pat_|xox[abprs]-|hvs\.|npm_)[\w.-]{8,}/g, MASKED],
  [/\b(?:AKIA|ASIA)[A-Z0-9]{16}\b/g, MASKED],
  [/\bS[UANOCX][A-Z2-7]{54,}\b/g, MASKED],
  // Signed addresses.
  [
    /([?&](?=[\w-]*(?:sig|signature|token|credential|secret|key|password|policy))[\w-]+=)[^&\s"'\\]+/gi,
    `$1${MASKED}`,
  ],
  // NAME = "VALUE", "NAME": "VALUE", also within JSON within JSON: to the quote that ends it, which is written as the first one.
  [
    new RegExp(`(${QUOTED}(\\\\*"))(?:(?!\\2)(?:\\\\{3}["']|\\\\[^\\r\\n]|[^"\\\\\\r\\n]))+`, 'gi'),
    `$1${MASKED}`,
  ],
  [new RegExp(`(${QUOTED}\\\\*')(?:[^"'\\\\\\r\\n]|\\\\[^"'])+`, 'gi'), `$1${MASKED}`],
  // NAME: VALUE and NAME = VALUE to the end of the line or of the JSON text: a passphrase has blanks, a list of cookies has, too.
  [
    new RegExp(
      `((?:${WITH_BLANKS})[ \\t]*(?::[ \\t]*|=[ \\t]+))(?![ \\t]|\\\\*["'])(?:\\\\[^nr\\r\\n]|[^"\\\\\\r\\n])+`,
      'gi',
    ),
    `$1${MASKED}`,
  ],
  // NAME=VALUE to the next blank.
  [
    new RegExp(
      `((?:pass(?:word|wd|phrase)?|secret|token|authorization|cookie|api[-_]?key)\\s*[:=]\\s*)[^\\s"'\\\\{}\\[\\],;]+`,
      'gi',
    ),
    `$1${MASKED}`,
  ],
];

export class Mask {
  /** The longest first: one may hold another. */
  readonly #known: readonly string[];

  /** `secrets`: those that are known; each is looked for as it is, in base64, in an address and in JSON. */
  constructor(secrets: Iterable<string>) {
    const forms = new Set<string>();
    for (const secret of secrets) {
      if (secret.length < SHORTEST) continue;
      const base64 = Buffer.from(secret).toString('base64');
      for (const form of [
        secret,
        base64,
        base64.replace(/=+$/, ''),
        Buffer.from(secret).toString('base64url'),
        encodeURIComponent(secret),
        JSON.stringify(secret).slice(1, -1),
      ])
        forms.add(form);
    }
    this.#known = [...forms].sort((a, b) => b.length - a.length);
  }

  text(text: string): string {
    let clean = text;
    for (const secret of this.#known) if (clean.includes(secret)) clean = clean.replaceAll(secret, MASKED);
    for (const [pattern, by] of PATTERNS) clean = clean.replace(pattern, by);
    return clean;
  }

  /** The same for every text in a value: maps, lists and plain objects. Bytes stay. */
  value<T>(value: T): T {
    return this.#value(value) as T;
  }

  #value(value: unknown): unknown {
    if (typeof value === 'string') return this.text(value);
    if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return value;
    if (Array.isArray(value)) return value.map((one: unknown) => this.#value(one));
    if (value instanceof Map)
      return new Map([...value].map(([key, one]) => [this.#value(key), this.#value(one)]));
    if (value instanceof Set) return new Set([...value].map((one: unknown) => this.#value(one)));
    return Object.fromEntries(
      Object.entries(value).map(([name, one]) => [
        name,
        typeof one === 'string' && SECRET_NAME.test(name) ? MASKED : this.#value(one),
      ]),
    );
  }
}

const SECRET_NAME = new RegExp(`^(?:.*[-_./])?(?:${NAMES})$`, 'i');

/** Texts in a JSON value or a table whose name says that they are secrets; and logins in addresses. */
export function secretsIn(value: unknown, isSecret = false): string[] {
  if (typeof value === 'string') {
    const login = /^[a-z][a-z0-9+.-]*:\/\/([^/\s]+)@/i.exec(value)?.[1];
    return [
      ...(isSecret ? [value, ...decoded(value)] : []),
      ...(login === undefined ? [] : loginParts(login)),
    ];
  }
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([name, one]) =>
    secretsIn(one, isSecret || SECRET_NAME.test(name) || /headers?$/i.test(name)),
  );
}

/** Of USER:PASSWORD in an address: the whole, and the password as it stands there and as it is sent. */
function loginParts(login: string): string[] {
  const at = login.indexOf(':');
  if (at < 0) return [login];
  const password = login.slice(at + 1);
  return [...new Set([login, password, decodedOr(password)])];
}

/** Without the percent signs of an address; as it is where those are none. */
export function decodedOr(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** USER:PASSWORD in base64, as docker keeps it. */
function decoded(text: string): string[] {
  if (!/^[\w+/-]{8,}={0,2}$/.test(text)) return [];
  const plain = Buffer.from(text, 'base64').toString('utf8');
  const at = plain.indexOf(':');
  return at > 0 && /^[\x20-\x7e]+$/.test(plain) ? [plain, plain.slice(at + 1)] : [];
}
