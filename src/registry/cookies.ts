/**
 * The cookies of one upload. Some registries stand behind a load balancer that uses a cookie to name the server that
 * has the upload; without it the next request meets a server that knows nothing of it. No other request needs cookies.
 * So a jar lives as long as its upload and knows no paths, domains or dates: a cookie returns to the origin that set
 * it.
 */

const MAX_COOKIES = 50;
const MAX_COOKIE = 4096;

export class CookieJar {
  /** By origin, then by name. */
  readonly #cookies = new Map<string, Map<string, string>>();

  /** Takes the Set-Cookie headers of an answer (RFC 6265, 5.2: the part before the first semicolon). */
  store(url: URL, setCookie: string | string[] | undefined): void {
    for (const line of setCookie === undefined ? [] : [setCookie].flat()) {
      const pair = line.split(';', 1)[0]?.trim() ?? '';
      const equals = pair.indexOf('=');
      // A value is sent back as it came; what could break a header line is no cookie.
      if (equals < 1 || pair.length > MAX_COOKIE || !/^[\x20-\x7e]+$/.test(pair)) continue;
      let jar = this.#cookies.get(url.origin);
      if (jar === undefined) {
        if (this.#cookies.size >= MAX_COOKIES) continue;
        jar = new Map();
        this.#cookies.set(url.origin, jar);
      }
      if (jar.size < MAX_COOKIES) jar.set(pair.slice(0, equals).trim(), pair.slice(equals + 1).trim());
    }
  }

  /** The Cookie header for a request, if any. */
  header(url: URL): string | undefined {
    const jar = this.#cookies.get(url.origin);
    if (jar === undefined || jar.size === 0) return undefined;
    return [...jar].map(([name, value]) => `${name}=${value}`).join('; ');
  }
}
