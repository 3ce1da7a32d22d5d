/**
 * The registry client: all that cofa asks of an OCI registry (distribution-spec v1.1, and docker's registry API v2
 * before it). The client checks the sha256 of whole manifests and blobs; the readers of parts verify them against the
 * span table.
 *
 * How it is built, each layer adding one thing to the one below:
 *
 *     RegistryClient          images, blobs, referrers
 *       manifest-reader.ts    manifests by digest, the choice of a platform
 *       blob-reader.ts        unbroken byte ranges over cuts, redirects, registries without ranges
 *       referrers.ts          the referrers API or its fallback by tag
 *       pusher.ts             uploads
 *     RegistryApi (api.ts)    answers to challenges (auth.ts), statuses as errors, retries
 *       endpoints.ts          where a registry is, and the mirrors that hosts.toml puts before it
 *     Transport               connections, TLS, proxies, time limits, redirects
 *
 * Errors are CofaError: `not-found`, `unauthorized`, `unavailable` (down, unknown host, overloaded after all retries),
 * `timeout`, `integrity`, `unsupported`, `invalid-argument`, `environment` (certificates), `conflict` and `busy` (list
 * of referrers). An AbortSignal ends any call with its reason, that of a deadline with `timeout`.
 */
import { RegistryApi, type RegistryLog, type Source } from './api.ts';
import { type BlobName, BlobReader, type ByteRange } from './blob-reader.ts';
import { CofaError } from '../../schemas/errors.ts';
import { DOCKER_CERTS } from './certificates.ts';
import {
  type Descriptor,
  embeddedIn,
  type ImageManifest,
  MEDIA_TYPES,
  parseManifest,
  type ResolvedImage,
} from './manifest.ts';
import type { Renewal } from './auth.ts';
import type { FleetDoor } from './fleet-door.ts';
import { CONTAINERD_HOSTS } from './hosts.ts';
import { type FetchedManifest, fetchManifest, resolveImage } from './manifest-reader.ts';
import { namedSidecar, SIDECAR_ARTIFACT } from './named-sidecar.ts';
import { pushBlob, putManifest } from './pusher.ts';
import { readPart } from './part.ts';
import { hasBlob, isBlobGiven, isPublic, type Right } from './questions.ts';
import type { Reference } from './reference.ts';
import { addToFallback, listReferrers, referrerDescriptor } from './referrers.ts';
import { type Ambient, DEFAULT_RETRY, type RetrySettings, realAmbient } from './retry.ts';
import { discard } from './transport.ts';

export type { RegistryLog, Source } from './api.ts';
export type { BlobName, ByteRange } from './blob-reader.ts';
export type { Descriptor, ImageManifest, ResolvedImage } from './manifest.ts';
export type { Right } from './questions.ts';
export type { FetchedManifest } from './manifest-reader.ts';
export type { Platform } from './platform.ts';
export type { RetrySettings } from './retry.ts';

export interface RegistryClientOptions {
  /** Folder of docker's config.json, or the file itself; by default $DOCKER_CONFIG, else ~/.docker. */
  dockerConfig?: string;
  /**
   * Socket of an engine's credential desk; the client asks it before docker's configuration (credential-sources.ts).
   */
  credentialSocket?: string;
  /** Socket of the node's member of a fleet, which is asked for blobs before the registry (fleet-door.ts). */
  fleetSocket?: string;
  /**
   * Folders in the layout of docker's certs.d; by default /etc/cofa/certs.d. The client also reads /etc/docker/certs.d.
   */
  certDirs?: readonly string[];
  /**
   * Folders with `hosts.toml`s, as containerd has them; by default /etc/containerd/certs.d. Certificates that lie beside them
   * count as those of certs.d do.
   */
  hostDirs?: readonly string[];
  /** Registries (`HOST[:PORT]`) whose certificate is not checked and that may speak plain HTTP. */
  insecure?: readonly string[];
  retry?: Partial<RetrySettings>;
  /** Time limits in ms. */
  timeouts?: Partial<Timeouts>;
  /** Connections to one host at most, 32 by default. */
  connections?: number;
  /** For PATH (credential helpers), DOCKER_CONFIG, HOME and the proxy variables; by default the process's own. */
  environment?: Readonly<Record<string, string | undefined>>;
  ambient?: Ambient;
  log?: RegistryLog;
  /** Told of each request, for metrics. */
  watch?: RegistryWatch | undefined;
}

/** What is told of the traffic with registries. */
export interface RegistryWatch {
  /** An answer began after so many seconds, with this status; `error`: none came. */
  answered: (code: string, seconds: number) => void;
  /** A token or a password was asked for. `refused`: there is no better one. */
  renewed: (outcome: Renewal) => void;
}

export interface Timeouts {
  /** Until a connection stands, TLS included. */
  connectMs: number;
  /** From a request to the start of its answer. */
  headersMs: number;
  /** Between two pieces of an answer. */
  bodyMs: number;
  /** For a credential helper. */
  helperMs: number;
}

export interface PushManifestOptions {
  /**
   * Selects entries of the fallback list of referrers that the new manifest replaces. Used only where the registry does
   * not keep that list itself.
   */
  replaces?: (entry: Descriptor) => boolean;
  signal?: AbortSignal;
}

/** Blobs up to this size, in bytes, are read whole into memory. */
export const MAX_WHOLE_BLOB = 512 * 1024 * 1024;

const DEFAULT_TIMEOUTS: Timeouts = { connectMs: 10_000, headersMs: 30_000, bodyMs: 30_000, helperMs: 30_000 };
/** The kernel reads from many threads at once, and each read may need a range. */
const DEFAULT_CONNECTIONS = 32;
/** Longest time that an answer requested ahead is valid, ms. */
const AHEAD_MS = 5_000;
const MOST_AHEAD = 64;
/** Referrers of one image whose manifests are fetched ahead; any account that may push can add some. */
const MOST_FOLLOWED = 4;
/** Bytes of one referrer's blobs that are fetched ahead: an image of 30,000 files has 2 MB. */
export const MOST_AHEAD_BYTES: number = 16 * 1024 * 1024;
const aheadKey = (source: Source, digest: string) => `${source.registry}/${source.repository}@${digest}`;

/** Which of an image's referrers are fetched ahead, beside their list. */
export interface FollowedReferrers {
  /** Whether to fetch their list at all; by default it is fetched. */
  listed?: (manifest: string) => boolean;
  /** Whether to fetch anything but the list, by the digest of the image's manifest. */
  wanted: (manifest: string) => boolean;
  /** Media types of the blobs that come with a referrer's manifest; undefined: not even the manifest. */
  blobsOf: (referrer: Descriptor) => readonly string[] | undefined;
}

export class RegistryClient {
  readonly #api: RegistryApi;
  readonly #blobs: BlobReader;
  readonly #now: () => number;
  /** Lists of referrers that were requested ahead, by image. */
  readonly #ahead = new Map<string, { answer: Promise<Descriptor[]>; askedAt: number }>();
  /** Manifests and blobs of referrers that were requested ahead; the first caller that wants one takes it. */
  readonly #manifestsAhead = new Once<FetchedManifest>();
  readonly #blobsAhead = new Once<Buffer>();

  constructor(options: RegistryClientOptions = {}) {
    const timeouts = { ...DEFAULT_TIMEOUTS, ...options.timeouts };
    const environment = options.environment ?? process.env;
    const { hostDirs = [CONTAINERD_HOSTS] } = options;
    this.#api = new RegistryApi({
      transport: {
        certDirs: [...new Set([...(options.certDirs ?? ['/etc/cofa/certs.d']), ...hostDirs, DOCKER_CERTS])],
        insecure: options.insecure ?? [],
        connections: options.connections ?? DEFAULT_CONNECTIONS,
        connectTimeoutMs: timeouts.connectMs,
        headersTimeoutMs: timeouts.headersMs,
        bodyTimeoutMs: timeouts.bodyMs,
        environment,
        onAnswer: options.watch?.answered,
      },
      hostDirs,
      credentials: {
        dockerConfig: options.dockerConfig,
        helperTimeoutMs: timeouts.helperMs,
        environment,
        credentialSocket: options.credentialSocket,
      },
      retry: { ...DEFAULT_RETRY, ...options.retry },
      ambient: options.ambient ?? realAmbient,
      log: options.log ?? { debug: () => {}, warn: () => {} },
      onRenewal: options.watch?.renewed,
    });
    const { fleetSocket } = options;
    this.#blobs = new BlobReader(
      this.#api,
      fleetSocket === undefined ? undefined : () => this.#openFleet(fleetSocket),
    );
    this.#now = (options.ambient ?? realAmbient).now;
  }

  /** Mirrors that this process does not ask at the moment, a sentence each. */
  leftOut(): string[] {
    return this.#api.leftOut();
  }

  /** Resolves when the registry (`HOST[:PORT]`) answers as one and accepts our credentials, if it wants any. */
  async ping(registry: string, signal?: AbortSignal): Promise<void> {
    const what = 'its registry API (/v2/)';
    await this.#api.retry(what, signal, async () => {
      const reply = await this.#api.request({
        registry,
        method: 'GET',
        target: '/v2/',
        expect: [200],
        what,
        signal,
      });
      await discard(reply.body);
    });
  }

  /**
   * The image of a reference for a platform (`os/arch[/variant]`, by default this machine's; a manifest that is named
   * by its own digest is taken as it is). Checks manifest and configuration; fetches no layers. With `referrers` it
   * requests these ahead, while the configuration arrives: the next `referrers` of the image returns them, and
   * `manifest` and `blob` return what was followed.
   */
  async resolve(
    reference: Reference,
    options: {
      platform?: string;
      signal?: AbortSignal;
      referrers?: true | FollowedReferrers;
      /** Gives a configuration, by its digest, that was checked before: the client then requests the manifest only. */
      knownConfig?: (digest: string) => Buffer | undefined;
    } = {},
  ): Promise<ResolvedImage> {
    const { platform, signal, referrers, knownConfig } = options;
    const ahead =
      referrers === undefined
        ? undefined
        : ({ digest }: Descriptor, manifest: ImageManifest) => {
            const blobsOf = referrers !== true && referrers.wanted(digest) ? referrers.blobsOf : undefined;
            if (blobsOf !== undefined) this.#followNamed(reference, manifest, blobsOf);
            if (referrers !== true && referrers.listed?.(digest) === false) return;
            this.#ask(reference, digest);
            if (blobsOf !== undefined) this.#follow(reference, digest, blobsOf);
          };
    return await resolveImage(this.#api, this.#blobs, reference, platform, signal, ahead, knownConfig);
  }

  /** Any manifest or index by tag or digest, checked by digest. */
  async manifest(source: Source, tagOrDigest: string, signal?: AbortSignal): Promise<FetchedManifest> {
    const ahead = await this.#manifestsAhead.take(aheadKey(source, tagOrDigest));
    signal?.throwIfAborted();
    if (ahead !== undefined) return ahead;
    return await fetchManifest(this.#api, source, tagOrDigest, signal);
  }

  /**
   * A whole blob in memory, checked. Refuses a blob of more than `limit` bytes without a request; sends none either for
   * a blob that its descriptor carries.
   */
  async blob(
    source: Source,
    blob: BlobName,
    signal?: AbortSignal,
    limit: number = MAX_WHOLE_BLOB,
  ): Promise<Buffer> {
    const embedded = embeddedIn(blob);
    if (embedded !== undefined) return embedded;
    const ahead = await this.#blobsAhead.take(aheadKey(source, blob.digest));
    signal?.throwIfAborted();
    if (ahead !== undefined && blob.size === ahead.length && blob.size <= limit) return ahead;
    return await this.#blobs.whole(source, blob, limit, signal);
  }

  /** A whole blob as it arrives. Resumes after cuts; throws `integrity` at the end where its digest is wrong. */
  blobStream(source: Source, blob: BlobName, signal?: AbortSignal): AsyncGenerator<Buffer, void, undefined> {
    return this.#blobs.stream(source, blob, signal);
  }

  /** The bytes [start, end) of a blob as they arrive, unchecked. Resumes after cuts. */
  blobRange(
    source: Source,
    blob: BlobName,
    start: number,
    end: number,
    signal?: AbortSignal,
  ): AsyncGenerator<Buffer, void, undefined> {
    return this.#blobs.range(source, blob, start, end, signal);
  }

  /**
   * The bytes of several ranges, ascending and apart, as they arrive, unchecked; no chunk has bytes of two. Resumes
   * after cuts.
   */
  blobRanges(
    source: Source,
    blob: BlobName,
    ranges: readonly ByteRange[],
    signal?: AbortSignal,
  ): AsyncGenerator<Buffer, void, undefined> {
    return this.#blobs.ranges(source, blob, ranges, signal);
  }

  /**
   * What came of a blob was not what it should be: mirrors that brought any of it are left out for a while. True where one did, so
   * that asking again is worth it.
   */
  doubt(source: Source, blob: Pick<BlobName, 'digest'>): boolean {
    return this.#blobs.doubt(source, blob);
  }

  /** What came behind a doubt is right: members of the fleet that sent other bytes are told of. */
  settle(blob: Pick<BlobName, 'digest'>): void {
    this.#blobs.settle(blob);
  }

  /** These bytes of a blob were verified: a node of a fleet gives what came from there to other members. */
  right(source: Source, blob: BlobName, ranges: readonly ByteRange[]): void {
    this.#blobs.right(source, blob, ranges);
  }

  /** Whether the registry gives a blob to who has this right. Errors: the registry's, but not its refusal. */
  async isBlobGiven(source: Source, digest: string, right: Right, signal: AbortSignal): Promise<boolean> {
    return await isBlobGiven(this.#api, source, digest, right, signal);
  }

  /**
   * The bytes [start, end) of a blob, for who has this right, with nothing that this client knows from others. Errors: the
   * registry's; `unsupported` where it gives no parts.
   */
  async part(
    source: Source,
    blob: BlobName,
    [start, end]: ByteRange,
    right: Right,
    signal: AbortSignal,
  ): Promise<Buffer> {
    return await readPart(this.#api, source, blob, [start, end], right, signal);
  }

  /** Whether the registry gives a manifest, by digest, to a client without credentials. Errors: the registry's. */
  async isPublic(source: Source, manifest: string, signal: AbortSignal): Promise<boolean> {
    return await isPublic(this.#api, source, manifest, signal);
  }

  /** Whether the repository has a blob, and gives it to us. Errors: the registry's. */
  async hasBlob(source: Source, digest: string, signal: AbortSignal): Promise<boolean> {
    return await hasBlob(this.#api, source, digest, signal);
  }

  /** Pushes a blob of these bytes unless the repository has it. */
  async pushBlob(
    source: Source,
    bytes: Buffer,
    mediaType: string,
    signal?: AbortSignal,
  ): Promise<Descriptor> {
    return await pushBlob(this.#api, source, bytes, mediaType, signal);
  }

  /**
   * Pushes a manifest, under a tag or under its digest alone. One with a `subject` becomes a referrer of it: registries
   * with the referrers API list it themselves; for the others the client adds it to the fallback list under the tag
   * `sha256-<hex>`.
   */
  async pushManifest(
    source: Source,
    bytes: Buffer,
    mediaType: string,
    tag?: string,
    options: PushManifestOptions = {},
  ): Promise<Descriptor> {
    const { signal, replaces = () => false } = options;
    const parsed = parseManifest(bytes, mediaType, 'the manifest to push');
    const content = parsed.kind === 'manifest' ? parsed.manifest : parsed.index;
    if (content.mediaType !== mediaType) {
      throw new CofaError(
        'invalid-argument',
        `a manifest of type ${content.mediaType} is pushed as ${mediaType}`,
      );
    }
    const subject = content.subject?.digest;
    const pushed = await putManifest(this.#api, source, bytes, mediaType, tag, subject, signal);
    if (subject !== undefined) this.#ahead.delete(aheadKey(source, subject));
    if (subject !== undefined && !pushed.subject) {
      const entry = referrerDescriptor(pushed.descriptor, content);
      await addToFallback(this.#api, source, subject, entry, replaces, signal);
    }
    return pushed.descriptor;
  }

  /** Manifests whose `subject` is `digest`; empty where the registry knows none. */
  async referrers(
    source: Source,
    digest: string,
    artifactType?: string,
    signal?: AbortSignal,
  ): Promise<Descriptor[]> {
    const all = this.#askedAhead(source, digest);
    if (all === undefined) return await listReferrers(this.#api, source, digest, artifactType, signal);
    const found = await all;
    signal?.throwIfAborted();
    return artifactType === undefined ? found : found.filter((entry) => entry.artifactType === artifactType);
  }

  #ask(source: Source, digest: string): void {
    const key = aheadKey(source, digest);
    const answer = listReferrers(this.#api, source, digest, undefined);
    // The caller that takes it sees its failure; a new request may succeed.
    answer.catch(() => this.#ahead.delete(key));
    this.#ahead.set(key, { answer, askedAt: this.#now() });
    if (this.#ahead.size > MOST_AHEAD) this.#ahead.delete(this.#ahead.keys().next().value as string);
  }

  /** Fetches the image's referrers that a start needs as soon as their list has arrived. */
  #follow(source: Source, subject: string, blobsOf: FollowedReferrers['blobsOf']): void {
    const follow = async () => {
      const list = (await this.#askedAhead(source, subject)) ?? [];
      const wanted = list.flatMap((entry) => {
        const types = blobsOf(entry);
        return types === undefined ? [] : [{ ...entry, types }];
      });
      for (const { digest, artifactType, types } of wanted.slice(0, MOST_FOLLOWED)) {
        const fetched = this.#manifestsAhead.put(aheadKey(source, digest), () =>
          fetchManifest(this.#api, source, digest),
        );
        // Of several the caller takes one, and it is not known here which.
        const isOnly = wanted.filter((other) => other.artifactType === artifactType).length === 1;
        if (isOnly) void fetched?.then((one) => this.#followBlobs(source, one, types), ignore);
      }
    };
    follow().catch(ignore);
  }

  /** Fetches the sidecar that an image's manifest names. */
  #followNamed(source: Source, manifest: ImageManifest, blobsOf: FollowedReferrers['blobsOf']): void {
    const digest = namedSidecar(manifest);
    if (digest === undefined) return;
    const types = blobsOf({
      mediaType: MEDIA_TYPES.ociManifest,
      digest,
      size: 0,
      artifactType: SIDECAR_ARTIFACT,
    });
    const fetched = this.#manifestsAhead.put(aheadKey(source, digest), () =>
      fetchManifest(this.#api, source, digest),
    );
    void fetched?.then((one) => this.#followBlobs(source, one, types ?? []), ignore);
  }

  #followBlobs(source: Source, { parsed }: FetchedManifest, types: readonly string[]): void {
    if (parsed.kind !== 'manifest') return;
    const blobs = parsed.manifest.layers.filter(
      ({ mediaType, data }) => types.includes(mediaType) && data === undefined,
    );
    if (blobs.reduce((sum, { size }) => sum + size, 0) > MOST_AHEAD_BYTES) return;
    for (const blob of blobs)
      this.#blobsAhead.put(aheadKey(source, blob.digest), () =>
        this.#blobs.whole(source, blob, MOST_AHEAD_BYTES),
      );
  }

  #askedAhead(source: Source, digest: string): Promise<Descriptor[]> | undefined {
    const key = aheadKey(source, digest);
    const known = this.#ahead.get(key);
    if (known === undefined) return undefined;
    if (this.#now() - known.askedAt <= AHEAD_MS) return known.answer;
    this.#ahead.delete(key);
    return undefined;
  }

  async #openFleet(socket: string): Promise<FleetDoor> {
    const { FleetDoor } = await import('./fleet-door.ts');
    return new FleetDoor({
      socket,
      now: this.#now,
      read: async (source, blob, [start, end], signal) => {
        const chunks: Buffer[] = [];
        for await (const chunk of this.#blobs.range({ ...source, direct: true }, blob, start, end, signal))
          chunks.push(chunk);
        return Buffer.concat(chunks);
      },
      token: async (source, digest, signal) => {
        const known = await this.#api.pullToken(source, signal);
        if (known !== undefined) return known;
        // The registry says what it wants to see, and whether this node may.
        if (!(await hasBlob(this.#api, source, digest, signal ?? new AbortController().signal)))
          return undefined;
        return await this.#api.pullToken(source, signal);
      },
    });
  }

  /** Ends all connections; calls in flight fail. */
  async close(): Promise<void> {
    await Promise.all([this.#api.close(), this.#blobs.close()]);
  }
}

/** Answers that a caller will want soon: the first that asks takes one, and after a while it is discarded. */
class Once<T> {
  readonly #answers = new Map<string, Promise<T>>();

  /** Undefined where the same is kept already, or too much is. */
  put(key: string, ask: () => Promise<T>): Promise<T> | undefined {
    if (this.#answers.has(key) || this.#answers.size >= MOST_AHEAD) return undefined;
    const answer = ask();
    const forget = () => {
      if (this.#answers.get(key) === answer) this.#answers.delete(key);
    };
    // A new request may succeed.
    answer.catch(forget);
    this.#answers.set(key, answer);
    setTimeout(forget, AHEAD_MS).unref();
    return answer;
  }

  /** Undefined where it is not kept, or has failed: the caller then sends its own request. */
  async take(key: string): Promise<T | undefined> {
    const answer = this.#answers.get(key);
    this.#answers.delete(key);
    return await answer?.catch(() => undefined);
  }
}

const ignore = (): void => {};
