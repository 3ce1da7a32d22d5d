/** The parts that know images: prepared, attached, proven. */
import type { NatsConnection } from '@nats-io/nats-core';
import type { Logger } from 'pino';
import type { Counts } from '../../../actors/counts.ts';
import type { Conditions } from '../../process/conditions.ts';
import { registryWatch } from '../../process/counted.ts';
import type { RegistrySettings } from '../../process/settings.ts';
import { RegistryClient } from '../../registry/client.ts';
import { DEFAULT_KEYS } from '../../signature/key-directory.ts';
import { DEFAULT_TRUST } from '../../../schemas/trust.ts';
import type { Layout } from '../../store/layout.ts';
import { type End, within } from '../end.ts';
import { Chains } from '../images/chains.ts';
import { Images } from '../images/images.ts';
import { Indexers } from '../images/indexers.ts';
import { Keys } from '../images/keys.ts';
import { NewTables } from '../images/new-tables.ts';
import { makeTable } from '../images/rebuild.ts';
import { Roots } from '../images/roots.ts';
import { Startups } from '../images/startups.ts';
import { Trust } from '../images/trust.ts';
import type { Witnesses } from '../images/witnesses.ts';
import type { Devices } from '../layers/devices.ts';
import type { FrontCaller } from '../layers/front-caller.ts';
import type { NodeLog } from '../log/node-log.ts';
import type { Leftovers } from '../mounts/leftovers.ts';
import { LaterSync } from '../../store/later-sync.ts';
import type { SupervisorOptions } from '../options.ts';
import type { SupervisorPorts } from '../ports.ts';
import type { FrontFigures } from '../status/front-figures.ts';

/** A rebuild that is ended has this long, ms. */
const PROOF_MS = 2_000;

export interface ImageParts {
  registry: RegistryClient;
  indexers: Indexers;
  startups: Startups;
  images: Images;
  chains: Chains;
  trust: Trust;
  newTables: NewTables;
}

export interface ImagePartsOptions {
  options: SupervisorOptions;
  /** Requests to registries are counted here. */
  counts: Counts;
  front: FrontCaller;
  packs: () => Promise<NatsConnection>;
  layout: Layout;
  label: string;
  leftovers: Leftovers;
  live: NodeLog['live'];
  devices: Devices;
  figures: FrontFigures;
  registrySettings: RegistrySettings;
  conditions: Conditions;
  /** The node's fleet; undefined: it is of none. */
  witnesses: Witnesses | undefined;
  log: Logger;
  end: End;
  ports: SupervisorPorts;
}

/** Makes them; each registers with `end` what it has to close. */
export function makeImages(given: ImagePartsOptions): ImageParts {
  const { options, layout, log, end, ports, devices, conditions } = given;
  const completeLayers = () => given.figures.completeLayers();
  const registry = new RegistryClient({ ...given.registrySettings, log, watch: registryWatch(given.counts) });
  end.at('connections', () => registry.close());
  const indexers = new Indexers(options.root, options.rehearses !== false);
  end.at('background', () => indexers.close());
  const now = () => ports.clock.now();
  const startups = new Startups({ front: given.front, packs: given.packs, registry, log });
  const images = new Images({
    layout,
    log,
    live: given.live,
    registry,
    devices,
    startups,
    indexers,
    label: given.label,
    leftovers: given.leftovers,
    trust: options.trust ?? DEFAULT_TRUST,
    keys: new Keys({ directory: options.keys ?? DEFAULT_KEYS, registry, conditions, log }),
    witnesses: given.witnesses,
    completeLayers,
    newFiles: () => new LaterSync((ms) => given.counts.observe('file_sync_seconds', ms / 1000), now),
  });
  devices.direct.subscribe((layer) => void images.changedDirect(layer));
  const roots = new Roots({ live: given.live, log });
  roots.begin();
  const chains = new Chains({ images, log, now: () => ports.clock.wallMs() });
  const trust = new Trust({ layout, log, images, conditions, completeLayers, now });
  end.at('background', {
    clean: () => within(ports.clock, PROOF_MS, trust.close()),
    // The mounts of an engine that was replaced do not wait.
    replaced: () => void trust.close(),
    failed: () => trust.close(),
  });
  const newTables = new NewTables({
    makeTable: (order, signal) => makeTable(layout, order, signal),
    log,
    images,
    roots,
    front: given.front,
    now,
  });
  end.at('background', () => newTables.close());
  return { registry, indexers, startups, images, chains, trust, newTables };
}
