/**
 * The node's member of a fleet (src/fleet/main.ts): started before the processes that ask it. main.ts imports this file where
 * the node is to be a member, so a node without a fleet loads nothing of it.
 */
import { fileURLToPath } from 'node:url';
import type { Logger } from 'pino';
import type { Counts } from '../../../actors/counts.ts';
import { isLedgerHeard, isLedgerSubject } from '../../../schemas/check-fleet.ts';
import type { LedgerHeard, LedgerSubject } from '../../../schemas/fleet.ts';
import { list, sentence, type Shape } from '../../../schemas/shapes.ts';
import { askLocal } from '../../bus/local-socket.ts';
import { Child } from '../../process/child.ts';
import type { Conditions } from '../../process/conditions.ts';
import { type FleetChoice, writeFleetSettings } from '../../process/fleet-settings.ts';
import { NODE_FLAGS } from '../../process/node-flags.ts';
import type { RegistrySettings } from '../../process/settings.ts';
import type { Layout } from '../../store/layout.ts';
import type { LiveFold } from '../../store/live-fold.ts';
import type { End } from '../end.ts';
import { Witnesses } from '../images/witnesses.ts';
import type { SupervisorOptions } from '../options.ts';
import type { SupervisorPorts } from '../ports.ts';
import { FleetEvents } from '../processes/fleet-events.ts';
import type { Watch } from '../processes/watchers.ts';
import type { ReachedNats } from './nats.ts';

export interface Fleet {
  /** How the engine's processes reach registries: over the member. */
  registrySettings: RegistrySettings;
  fleet: FleetProcess;
}

export interface FleetProcess {
  child: Child;
  /** What it says is wrong, as sentences; none where it does not answer. */
  degraded(): Promise<readonly string[]>;
}

/** What a member needs of the stages before it. */
interface Reached {
  fleetUser: ReachedNats['fleetUser'];
  /** How registries are reached without a fleet. */
  registrySettings: RegistrySettings;
  label: string;
}

/** The stage of the fleet. */
export interface FleetStage {
  /** Asks others what they have proven, and says what this node has. */
  witnesses: Witnesses;
  /** Starts the member's process. Errors: `invalid-argument` where NATS has no user for it. */
  begin(reached: Reached): Promise<Fleet>;
  /** The log is there. */
  open(live: LiveFold): void;
}

interface Given {
  options: SupervisorOptions;
  choice: FleetChoice;
  layout: Layout;
  conditions: Conditions;
  counts: Counts;
  watch: Watch;
  log: Logger;
  end: End;
  ports: SupervisorPorts;
}

/** Makes what the supervisor has for the fleet; nothing runs before `begin`. */
export function makeFleet(given: Given): FleetStage {
  const { options, choice, layout, ports } = given;
  const facts = new FleetEvents(given);
  const witnesses = new Witnesses({
    ...given,
    self: options.node,
    witnesses: choice.witnesses ?? 1,
    ask: askFleet(layout),
    clock: ports.clock,
  });
  return {
    witnesses,
    begin: (reached) => startMember({ ...given, ...reached, facts, witnesses }),
    open: (live) => {
      facts.open(live);
      witnesses.open(live);
    },
  };
}

async function startMember(
  given: Given & Reached & { facts: FleetEvents; witnesses: Witnesses },
): Promise<Fleet> {
  const { options, choice, layout, conditions, watch, end, ports } = given;
  const { fleetUser, registrySettings, label, facts, witnesses } = given;
  const { certDirs, hostDirs, insecure } = registrySettings;
  const registry = Object.fromEntries(
    Object.entries({ certDirs, hostDirs, insecure }).filter(([, value]) => value !== undefined),
  );
  await writeFleetSettings({
    ...choice,
    root: options.root,
    node: options.node,
    role: 'node',
    nats: fleetUser(),
    registry,
    logLevel: options.logLevel,
    rehearses: options.rehearses !== false,
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
      onFleet: (news) => facts.take(news),
      onProve: (subject) => (isLedgerSubject(subject) ? witnesses.proven(subject) : []),
    },
    ports,
    ...watchers,
    onStart: (pid) => {
      facts.begins();
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
const askFleet =
  (layout: Layout) =>
  (subject: LedgerSubject): Promise<LedgerHeard> =>
    askLocal(layout.socket('fleet'), 'ledger', ASK_MS, isLedgerHeard, { request: subject });

/** Longer than a question is open (actors/fleet-inquiry.ts). */
const ASK_MS = 8_000;
const ANSWER_MS = 1_000;
const PROGRAM = fileURLToPath(new URL('../../fleet/main.ts', import.meta.url));
const areSentences = list(sentence, 1_000) as Shape<readonly string[]>;
