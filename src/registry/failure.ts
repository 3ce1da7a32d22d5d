/**
 * Failures between here and a registry as the errors that users meet. Each names the host and the requested thing, and
 * knows whether another attempt could help.
 */
import { CofaError, type ErrorCode } from '../../schemas/errors.ts';
import { printable } from './printable.ts';

/** `broken`: the connection stood and ended too early. The other reasons prevented it. */
export type FailureReason = 'plain-http' | 'certificate' | 'refused' | 'broken';

export class RequestFailure extends CofaError {
  /** Another attempt may succeed. */
  readonly retryable: boolean;
  /** The registry's own request, ms. */
  readonly retryAfterMs: number | undefined;
  /** HTTP status; undefined where there was no answer. */
  readonly status: number | undefined;
  /** The registry's error code, such as MANIFEST_UNKNOWN (distribution-spec, "Error Codes"). */
  readonly serverCode: string | undefined;
  /** What is wrong with the connection, where a caller acts on it. */
  readonly reason: FailureReason | undefined;

  constructor(
    code: ErrorCode,
    message: string,
    details: {
      cause?: unknown;
      hint?: string;
      retryable?: boolean;
      retryAfterMs?: number | undefined;
      status?: number;
      serverCode?: string | undefined;
      reason?: FailureReason;
    } = {},
  ) {
    super(code, message, details);
    this.retryable = details.retryable ?? false;
    this.retryAfterMs = details.retryAfterMs;
    this.status = details.status;
    this.serverCode = details.serverCode;
    this.reason = details.reason;
  }
}

/** An answer that is worth another attempt: overload, a hiccup of a proxy, a registry that restarts. */
export function isRetryableStatus(status: number): boolean {
  return [408, 425, 429, 500, 502, 503, 504].includes(status);
}

/** Turns an error of the network or of TLS into a failure that names the host. */
export function networkFailure(error: unknown, url: URL): RequestFailure {
  if (error instanceof RequestFailure) return error;
  const { host } = url;
  const { kind, message, ...details } = troubleOf(error, host, url.protocol === 'https:');
  return new RequestFailure(kind, message, { cause: error, ...details });
}

interface Trouble {
  kind: ErrorCode;
  message: string;
  retryable?: boolean;
  reason?: FailureReason;
  hint?: string;
}

function troubleOf(error: unknown, host: string, isSecure: boolean): Trouble {
  const code = errorCode(error);
  const known = Object.hasOwn(TROUBLES, code) ? TROUBLES[code] : undefined;
  if (known !== undefined) return known(host);
  if (isCertificateCode(code)) {
    return {
      kind: 'unavailable',
      message: `the certificate of ${host} is not trusted: ${describe(error)}`,
      reason: 'certificate',
      hint: `if its CA is your own, put the CA's certificate at /etc/docker/certs.d/${host}/ca.crt`,
    };
  }
  if (/^ERR_SSL_.*ALERT/.test(code)) {
    const message = `${host} ended the TLS handshake: ${describe(error)}`;
    return { kind: 'unauthorized', message, hint: clientCertificateHint(host) };
  }
  // Resets, half answers, broken framing: the connection is at fault, another may do better. A server that misses a
  // client certificate may also just hang up (TLS 1.3 tells it after the handshake).
  const isSilent = isSecure && (error as { socket?: { bytesRead?: number } } | null)?.socket?.bytesRead === 0;
  return {
    kind: 'unavailable',
    message: `the connection to ${host} broke: ${describe(error)}`,
    retryable: true,
    reason: 'broken',
    ...(isSilent ? { hint: clientCertificateHint(host) } : {}),
  };
}

const noRoute = (host: string): Trouble => ({
  kind: 'unavailable',
  message: `there is no route to ${host}`,
  retryable: true,
});
const noConnection = (host: string): Trouble => ({
  kind: 'unavailable',
  message: `${host} does not accept the connection in time`,
  retryable: true,
});
const noHttps = (host: string): Trouble => ({
  kind: 'unavailable',
  message: `${host} does not speak HTTPS`,
  reason: 'plain-http',
  hint: `if it serves plain HTTP and you trust the network: cofa up --insecure-registry ${host}, and the same of cofa index, inspect, pull and pack; insecure-registry in /etc/cofa/config.toml is for all of them`,
});
const closedHere = (host: string): Trouble => ({
  kind: 'unavailable',
  message: `the connection to ${host} was closed on this side`,
});

/** By the codes of Node, OpenSSL and undici. */
const TROUBLES: Readonly<Partial<Record<string, (host: string) => Trouble>>> = {
  ECONNREFUSED: (host) => ({
    kind: 'unavailable',
    message: `${host} refuses connections`,
    retryable: true,
    reason: 'refused',
    hint: 'is the registry running, and is this its address?',
  }),
  ENOTFOUND: (host) => ({
    kind: 'unavailable',
    message: `${host} is not known to the name service (DNS)`,
    hint: 'check the spelling of the registry, and the name service of this machine',
  }),
  EAI_AGAIN: (host) => ({
    kind: 'unavailable',
    message: `the name service (DNS) does not answer for ${host}`,
    retryable: true,
  }),
  EHOSTUNREACH: noRoute,
  ENETUNREACH: noRoute,
  ETIMEDOUT: noConnection,
  UND_ERR_CONNECT_TIMEOUT: noConnection,
  UND_ERR_HEADERS_TIMEOUT: (host) => ({
    kind: 'timeout',
    message: `${host} took the request and did not answer in time`,
    retryable: true,
  }),
  UND_ERR_BODY_TIMEOUT: (host) => ({
    kind: 'timeout',
    message: `${host} stopped sending in the middle of its answer`,
    retryable: true,
  }),
  ERR_SSL_WRONG_VERSION_NUMBER: noHttps,
  ERR_SSL_PACKET_LENGTH_TOO_LONG: noHttps,
  ERR_SSL_HTTP_REQUEST: noHttps,
  EPROTO: noHttps,
  UND_ERR_DESTROYED: closedHere,
  UND_ERR_CLOSED: closedHere,
};

/**
 * Turns an unexpected status into a failure. `what` names the requested thing ("the manifest of …"), `body` is the
 * start of the answer's body, `refused` the refused account for 401 and 403.
 */
export function statusFailure(answer: {
  status: number;
  host: string;
  what: string;
  body: string;
  retryAfterMs?: number | undefined;
  refused?: { who: string; hint: string };
}): RequestFailure {
  const { status, host, what, refused } = answer;
  const server = serverError(answer.body);
  const said = server === undefined ? '' : `: ${server.message}`;
  const details = { status, serverCode: server?.code, retryAfterMs: answer.retryAfterMs };
  if (status === 401 || status === 403) {
    const who = refused === undefined ? '' : ` ${refused.who}`;
    return new RequestFailure('unauthorized', `${host} denies access to ${what}${who} (${status}${said})`, {
      ...details,
      hint: refused?.hint ?? `docker login ${host}`,
    });
  }
  if (status === 404) return new RequestFailure('not-found', `${host} does not have ${what}${said}`, details);
  if (status === 429) {
    return new RequestFailure(
      'unavailable',
      `${host} limits the rate of requests (429${said}), asked for ${what}`,
      {
        ...details,
        retryable: true,
        hint: 'try again later, or log in where that raises the limit',
      },
    );
  }
  if (status === 413) {
    return new RequestFailure(
      'unsupported',
      `${host} does not accept that much data at once (413), for ${what}`,
      {
        ...details,
        hint: 'raise the limit for request bodies of the proxy before the registry',
      },
    );
  }
  if (status === 400 && /HTTP request (?:was sent )?to an? HTTPS (?:server|port)/i.test(answer.body)) {
    return new RequestFailure('unavailable', `${host} speaks HTTPS alone`, {
      ...details,
      hint: `put the certificate of its CA at /etc/docker/certs.d/${host}/ca.crt`,
    });
  }
  const retryable = isRetryableStatus(status);
  const kind: ErrorCode = status >= 500 || retryable ? 'unavailable' : 'unsupported';
  return new RequestFailure(kind, `${host} answers ${status} to ${what}${said}`, { ...details, retryable });
}

/** The first error of a registry's JSON answer, or the answer itself where it is one line of text. */
function serverError(body: string): { code: string | undefined; message: string } | undefined {
  try {
    const document: unknown = JSON.parse(body);
    const first: unknown = (document as { errors?: unknown[] } | null)?.errors?.[0];
    const { code, message } = (first ?? {}) as { code?: unknown; message?: unknown };
    if (typeof code === 'string' || typeof message === 'string') {
      const text = [code, message].filter((part) => typeof part === 'string' && part !== '').join(' ');
      return { code: typeof code === 'string' ? code : undefined, message: printable(text) };
    }
    // Token services answer in a form of their own, or with OAuth's fields (RFC 6749, 5.2).
    const plain = document as { details?: unknown; error_description?: unknown; error?: unknown } | null;
    const text = plain?.details ?? plain?.error_description ?? plain?.error;
    return typeof text === 'string' ? { code: undefined, message: printable(text) } : undefined;
  } catch {
    const line = body.trim();
    return line === '' || line.length > 200 || line.startsWith('<')
      ? undefined
      : { code: undefined, message: printable(line) };
  }
}

function clientCertificateHint(host: string): string {
  return `if it asks for a client certificate, put client.cert and client.key into /etc/docker/certs.d/${host}/`;
}

function errorCode(error: unknown): string {
  const { code, cause } = (error ?? {}) as { code?: unknown; cause?: unknown };
  if (typeof code === 'string') return code;
  return cause instanceof Error ? errorCode(cause) : '';
}

function isCertificateCode(code: string): boolean {
  return (
    /^(?:CERT_|UNABLE_TO_|SELF_SIGNED_|DEPTH_ZERO_|ERR_TLS_CERT_|INVALID_CA|INVALID_PURPOSE|PATH_LENGTH_)/.test(
      code,
    ) || code === 'HOSTNAME_MISMATCH'
  );
}

function describe(error: unknown): string {
  return printable(error instanceof Error ? error.message : String(error));
}
