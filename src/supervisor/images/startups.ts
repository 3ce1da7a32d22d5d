/**
 * Startup packs on the supervisor's side: find the pack of an image while its sidecar is fetched, and tell the front end
 * what starts. A pack only makes a start faster: whatever goes wrong with it is noted, and the start goes on without.
 */
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import type { StartSet } from '../../../actors/start-set.ts';
import type { JobLayer, PackSource } from '../../../schemas/fetch.ts';
import type { BeginStart } from '../../../schemas/front.ts';
import type { FrontCalls } from '../layers/front-caller.ts';
import { DEFAULT_START, PackStore } from '../../pack/pack-store.ts';
import type { RegistryClient, ResolvedImage } from '../../registry/client.ts';
import { findPack } from '../../registry/packs.ts';

const NO_IMAGE = `sha256:${'0'.repeat(64)}`;

export class Startups {
  readonly #front: FrontCalls;
  readonly #registry: RegistryClient;
  readonly #log: Logger;
  readonly #store: PackStore;

  /** `packs`: gives a connection to where startup packs lie. */
  constructor(options: {
    front: FrontCalls;
    packs: () => Promise<NatsConnection>;
    registry: RegistryClient;
    log: Logger;
  }) {
    this.#front = options.front;
    this.#registry = options.registry;
    this.#log = options.log;
    this.#store = new PackStore(options.packs);
  }

  /**
   * Opens the store, and looks for a pack that no image has: the first start waits neither for a connection nor for code that has never
   * run. Errors are those of that start.
   */
  async ready(): Promise<void> {
    await this.#store.find(NO_IMAGE, DEFAULT_START).catch(() => {});
  }

  /**
   * Where the pack of a start lies; undefined where there is none. What the nodes of this NATS have learned comes first,
   * then what lies beside the image: `image` as the registry has just described it, undefined when it was not asked. Where
   * neither has one: what an earlier image of `repository` (`registry/repository`) has read.
   */
  async find(
    manifest: string,
    start: string,
    repository: string,
    image: ResolvedImage | undefined,
  ): Promise<PackSource | undefined> {
    const ignore = (error: unknown) => {
      this.#log.warn({ manifest, start, error }, 'no startup pack could be looked for');
      return undefined;
    };
    const [shared, files, pushed] = await Promise.all([
      this.#store.find(manifest, start).catch(ignore),
      this.#store.findFiles(repository, start).catch(() => undefined),
      image && findPack(this.#registry, image, [...new Set([start, DEFAULT_START])]).catch(ignore),
    ]);
    if (shared !== undefined) return { kind: 'nats', ...shared };
    if (pushed !== undefined && image !== undefined) {
      const { registry, repository: name } = image.reference;
      return { kind: 'registry', registry, repository: name, ...pushed.blob };
    }
    return files === undefined ? undefined : { kind: 'files', ...files };
  }

  /**
   * The pack was found and its image is about to be attached: what comes of it meanwhile need not be waited for then. Nothing
   * has to be undone where that does not come about.
   */
  ahead(manifest: string, start: string, repository: string, pack: PackSource): void {
    // What an earlier image has read says nothing before the flat image is there.
    if (pack.kind === 'files') return;
    this.#tell({ manifest, start, repository, layers: [], record: false, pack, ahead: true });
  }

  /** The image's devices are attached: its start begins. `hints`: what it is likely to read, for where there is no pack. */
  begin(
    start: { manifest: string; start: string; repository: string; layers: JobLayer[] },
    pack: Promise<PackSource | undefined>,
    hints: () => Promise<StartSet | undefined>,
  ): void {
    // Recorded from now on; the pack comes when it is found.
    this.#tell({ ...start, record: true });
    void pack.then(async (found) => {
      if (found !== undefined) return this.#tell({ ...start, record: false, pack: found });
      const hinted = await hints();
      if (hinted !== undefined && hinted.runs.length > 0)
        this.#tell({ ...start, record: false, hints: hinted });
    });
  }

  #tell(order: BeginStart): void {
    this.#front.once('start', order).catch((error: unknown) => {
      this.#log.warn({ image: order.manifest, error }, 'the front end does not know of a start');
    });
  }
}
