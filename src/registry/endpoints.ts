/**
 * Where a registry is asked: at its mirrors, as `hosts.toml` names them (hosts.ts), and at its own address.
 *
 * What a mirror may answer is what a digest proves, and what its capabilities allow. Who may read what is decided by the
 * registry itself: such requests name no capability, so no mirror ever sees them. Each host is a registry of its own for
 * credentials: a mirror never gets those of the registry that it stands before.
 */
import { CofaError } from '../../schemas/errors.ts';
import { readCertificates } from './certificates.ts';
import { RequestFailure } from './failure.ts';
import { HostsFiles, may } from './hosts.ts';
import type { Capability, HostEntry } from './hosts-toml.ts';
import { MirrorHealth } from './mirror-health.ts';
import { domainOf, hostOf, isLoopback } from './reference.ts';
import { type Ambient, waitFor } from './retry.ts';
import type { Reach, Transport, TransportSettings } from './transport.ts';

export interface Endpoint {
  /** Under which credentials are looked for: `HOST[:PORT]`. */
  registry: string;
  origin: URL;
  /** Stands for the `/v2` of a target. */
  path: string;
  /** `HOST[:PORT]` of the registry that this mirror is asked for, in the form that references name; undefined: no mirror. */
  mirrors: string | undefined;
  reach: Reach | undefined;
  headersTimeoutMs: number | undefined;
}

/** A mirror that hangs costs its readers no more than this, ms; the registry is asked next. */
const MIRROR_CONNECT_MS = 3_000;
const MIRROR_HEADERS_MS = 10_000;

export interface EndpointSettings {
  transport: TransportSettings;
  /** Folders with `hosts.toml`s. */
  hostDirs: readonly string[];
  ambient: Pick<Ambient, 'now'>;
  log: { warn(fields: object, message: string): void };
}

export class Endpoints {
  readonly health: MirrorHealth;
  readonly #settings: EndpointSettings;
  readonly #transport: Transport;
  readonly #hosts: HostsFiles;
  readonly #origins = new Map<string, Promise<URL>>();

  constructor(transport: Transport, settings: EndpointSettings) {
    const { hostDirs, ambient, log } = settings;
    this.#transport = transport;
    this.#settings = settings;
    this.health = new MirrorHealth(ambient.now);
    this.#hosts = new HostsFiles({ dirs: hostDirs, now: ambient.now, warn: log.warn.bind(log) });
  }

  /** The mirrors that may be asked for this, in order. None for requests that need no capability. */
  async mirrorsOf(registry: string, need: readonly Capability[]): Promise<Endpoint[]> {
    if (need.length === 0) return [];
    const { mirrors } = await this.#hosts.of(registry);
    return mirrors.filter((mirror) => may(mirror, need)).map((mirror) => this.#mirror(registry, mirror));
  }

  /**
   * The registry itself. Error `unavailable` where its hosts.toml does not let it be asked for this, those of a registry whose
   * address cannot be found.
   */
  async ofRegistry(
    registry: string,
    need: readonly Capability[],
    signal: AbortSignal | undefined,
  ): Promise<Endpoint> {
    const { server } = await this.#hosts.of(registry);
    const plain = { mirrors: undefined, headersTimeoutMs: undefined };
    if (server === undefined)
      return {
        ...plain,
        registry,
        origin: await this.#origin(registry, signal),
        path: '/v2',
        reach: undefined,
      };
    if (server.origin === undefined) {
      const origin = await this.#origin(registry, signal);
      return { ...plain, registry, origin, path: '/v2', reach: reachOf(server, undefined) };
    }
    if (!may(server, need))
      throw new CofaError(
        'unavailable',
        `no mirror of ${registry} has it, and its hosts.toml lets no other host be asked`,
        {
          hint: `the capabilities beside "server" in the hosts.toml of ${domainOf(registry)} do not have ${need.join(' and ')}`,
        },
      );
    const origin = new URL(server.origin);
    return { ...plain, registry: origin.host, origin, path: server.path, reach: reachOf(server, undefined) };
  }

  #mirror(registry: string, mirror: HostEntry & { origin: string }): Endpoint {
    const origin = new URL(mirror.origin);
    const { connectTimeoutMs, headersTimeoutMs } = this.#settings.transport;
    return {
      registry: hostOf(origin.host),
      origin,
      path: mirror.path,
      mirrors: domainOf(registry),
      reach: reachOf(mirror, Math.min(connectTimeoutMs, MIRROR_CONNECT_MS)),
      headersTimeoutMs: Math.min(headersTimeoutMs, MIRROR_HEADERS_MS),
    };
  }

  /** The address of a registry: `https://HOST` or `http://HOST`. */
  #origin(registry: string, signal: AbortSignal | undefined): Promise<URL> {
    let origin = this.#origins.get(registry);
    if (origin === undefined) {
      origin = this.#findOrigin(registry);
      this.#origins.set(registry, origin);
      origin.catch(() => this.#origins.delete(registry));
    }
    return waitFor(origin, signal);
  }

  /**
   * Registries on loopback speak plain HTTP, all others HTTPS, as with docker. Where that is not certain (a loopback
   * registry with certificates, one that is listed as insecure) this tries HTTPS first, without any credentials.
   */
  async #findOrigin(registry: string): Promise<URL> {
    const { certDirs, insecure } = this.#settings.transport;
    const https = parseOrigin('https', registry);
    const loopback = isLoopback(registry);
    const listed = insecure.includes(registry);
    if (!loopback && !listed) return https;
    const http = parseOrigin('http', registry);
    if (loopback && !listed) {
      const { fingerprint } = await readCertificates(certDirs, [registry]);
      if (fingerprint === '') return http;
    }
    try {
      const reply = await this.#transport.send({
        method: 'GET',
        url: new URL('/v2/', https),
        redirects: 'none',
      });
      reply.body.destroy();
      return https;
    } catch (error) {
      if (!(error instanceof RequestFailure)) throw error;
      const noTls = error.reason === 'plain-http' || (error.reason === 'refused' && https.port === '');
      if (!noTls) throw error;
      return http;
    }
  }
}

/** The address of a target (`/v2/…`) at an endpoint; a mirror is told whose contents it is asked for, as containerd does. */
export function urlAt(endpoint: Endpoint, target: string): URL {
  const url = new URL(`${endpoint.path}${target.slice('/v2'.length)}`, endpoint.origin);
  if (endpoint.mirrors !== undefined) url.searchParams.append('ns', endpoint.mirrors);
  return url;
}

function reachOf(entry: HostEntry, connectMs: number | undefined): Reach | undefined {
  const { ca, client, skipVerify, headers, dialTimeoutMs } = entry;
  const connectTimeoutMs = dialTimeoutMs ?? connectMs;
  const isPlain = ca.length === 0 && client.length === 0 && Object.keys(headers).length === 0;
  if (isPlain && !skipVerify && connectTimeoutMs === undefined) return undefined;
  const key = JSON.stringify([ca, client, skipVerify, connectTimeoutMs]);
  return { key, ca, client, skipVerify, connectTimeoutMs, headers };
}

function parseOrigin(scheme: 'http' | 'https', registry: string): URL {
  try {
    return new URL(`${scheme}://${registry}`);
  } catch (cause) {
    throw new CofaError('invalid-argument', `"${registry}" is not the address of a registry`, { cause });
  }
}
