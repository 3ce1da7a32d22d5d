/** The node's member of a fleet (src/fleet/main.ts): started before the processes that ask it. */
import { fileURLToPath } from 'node:url';
import { isLedgerHeard } from '../../../schemas/check-fleet.ts';
import type { LedgerHeard, LedgerSubject } from '../../../schemas/fleet.ts';
import { list, sentence, type Shape } from '../../../schemas/shapes.ts';
import { askLocal } from '../../bus/local-socket.ts';
import { Child, type ChildPorts } from '../../process/child.ts';
import type { Conditions } from '../../process/conditions.ts';
import { writeFleetSettings } from '../../process/fleet-settings.ts';
import { NODE_FLAGS } from '../../process/node-flags.ts';
import type { RegistrySettings } from '../../process/settings.ts';
import type { Layout } from '../../store/layout.ts';
import type { End } from '../end.ts';
import type { SupervisorOptions } from '../options.ts';
import type { Witnesses } from '../images/witnesses.ts';
import type { FleetEvents } from '../processes/fleet-events.ts';
import type { Watch } from '../processes/watchers.ts';
import type { ReachedNats } from './nats.ts';

export interface Fleet {
  /** How the engine's processes reach registries: over the member. */
  registrySettings: RegistrySettings;
  /** Undefined where the node is of no fleet. */
  fleet: FleetProcess | undefined;
}

export interface FleetProcess {
  child: Child;
  /** What it says is wrong, as sentences; none where it does not answer. */
  degraded(): Promise<readonly string[]>;
}

/** Errors: `invalid-argument` where NATS has no user for it. */
export async function openFleet(given: {
  options: SupervisorOptions;
  fleetUser: ReachedNats['fleetUser'];
  registrySettings: RegistrySettings;
  layout: Layout;
  label: string;
  conditions: Conditions;
  watch: Watch;
  /** Takes what the member says of others. */
  fleetFacts: FleetEvents;
  /** Says what this node has proven; undefined where it is of no fleet. */
  witnesses: Pick<Witnesses, 'proven'> | undefined;
  end: End;
  ports: ChildPorts;
}): Promise<Fleet> {
  const { options, fleetUser, registrySettings, layout, label, conditions, watch, fleetFacts, end, ports } =
    given;
  const { witnesses } = given;
  if (options.fleet === undefined) return { registrySettings, fleet: undefined };
  const { certDirs, hostDirs, insecure } = registrySettings;
  const registry = Object.fromEntries(
    Object.entries({ certDirs, hostDirs, insecure }).filter(([, value]) => value !== undefined),
  );
  await writeFleetSettings({
    ...options.fleet,
    root: options.root,
    node: options.node,
    role: 'node',
    nats: fleetUser(),
    registry,
    logLevel: options.logLevel,
  });
  const watchers = watch('fleet', 'fleet');
  const child = new Child({
    role: 'fleet',
    name: 'fleet',
    command: process.execPath,
    args: [...NODE_FLAGS, PROGRAM, layout.root, label],
    log: layout.log('fleet'),
    isExpendable: true,
    ownSession: true,
    link: {
      hangMs: options.hangMs,
      onReady: () => conditions.clear('fleet'),
      onFleet: (news) => fleetFacts.take(news),
      onProve: (subject) => witnesses?.proven(subject) ?? [],
    },
    ports,
    ...watchers,
    onStart: (pid) => {
      fleetFacts.begins();
      watchers.onStart(pid);
    },
    onGiveUp: () =>
      conditions.set(
        'fleet',
        `the member of the fleet does not start: everything comes from registries; see ${layout.log('fleet')}`,
      ),
  });
  end.at('readers', () => child.stop());
  child.start();
  const degraded = () =>
    askLocal(layout.socket('fleet'), 'degraded', ANSWER_MS, areSentences).catch((): readonly string[] => []);
  return {
    registrySettings: { ...registrySettings, fleetSocket: layout.socket('pieces') },
    fleet: { child, degraded },
  };
}

/** Asks other nodes what they have proven. Errors: those of `askLocal`. */
export const askFleet =
  (layout: Layout) =>
  (subject: LedgerSubject): Promise<LedgerHeard> =>
    askLocal(layout.socket('fleet'), 'ledger', ASK_MS, isLedgerHeard, { request: subject });

/** Longer than a question is open (actors/fleet-inquiry.ts). */
const ASK_MS = 8_000;
const ANSWER_MS = 1_000;
const PROGRAM = fileURLToPath(new URL('../../fleet/main.ts', import.meta.url));
const areSentences = list(sentence, 1_000) as Shape<readonly string[]>;
