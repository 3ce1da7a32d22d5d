/**
 * What members of the fleet have proven of one image, as this node has just heard it: block roots of its layers, and the flat
 * metadata of them. Under the policy `fleet` a sidecar is taken on their word, so that the first node proves and the others
 * start lazily. The ledger lies in no place of its own: each member's event log holds what it has found out, and says it when
 * another asks (src/fleet/ledger.ts). So it is as old as the answers to this question.
 *
 * A layer has one honest root, and the layers of an image one honest flat metadata for a revision of the builder. So where
 * two members disagree one of them lies, or its memory does:
 *
 * - **What this node has proven itself** stands, whatever others say. A member that has said otherwise is a liar: nothing
 *   that it says counts, and it is named.
 * - **Between others** no one is believed: the subject is disputed, and this node proves it by itself, which ends it. So one
 *   liar can cost the others what they would have had without a ledger, and cannot give them a byte.
 * - **A member that contradicts itself** counts for nothing.
 *
 * A liar that no other member contradicts is believed where one witness is enough. `witnesses: 2` takes two members for it.
 * Each has to vouch for all of a sidecar: its flat metadata and all of its block roots.
 */
import type { EventOf } from '../schemas/events.ts';
import type { LedgerEntry, LedgerHeard, LedgerSubject } from '../schemas/fleet.ts';
import { layersText, rootsOfImage } from './device.ts';
import { type ImageFacts, proofOf, type RootFacts } from './node-state.ts';
import { membersOfVoucher } from './voucher.ts';

export interface LedgerOptions {
  /** This node's name. */
  self: string;
  /** Members that have to say the same. */
  witnesses: number;
  /** Members whose word does not count: they were found to lie. */
  disbelieved: ReadonlySet<string>;
  /** Which image is asked about: entries about others are passed over. */
  subject: LedgerSubject;
}

/**
 * `proven`: this node has, or enough members have and none says otherwise. `refuted`: this node has, or members have and none
 * has proven it. `disputed`: members disagree. `unknown`: too few have said anything.
 */
export type LedgerWord = 'proven' | 'refuted' | 'disputed' | 'unknown';

/** What a member has said, and this node knows to be otherwise. */
export interface Lie {
  member: string;
  about: 'root' | 'flat';
  /** diffID, or digest over the layers. */
  subject: string;
  /** The root, or the digest of flat metadata, that it has vouched for, or called wrong. */
  said: string;
}

/** What a sidecar holds. */
export interface LedgerContents {
  /** Of its builder. */
  revision: number | undefined;
  flat: string;
  roots: ReadonlyArray<{ diffId: string; root: string }>;
}

/** Who vouches for a sidecar, as many as are needed; or why no one does. */
export type Vouching = { members: readonly string[] } | { reason: string };

/** Of one subject. */
interface Findings {
  /** One, unless it contradicts itself. */
  proven: Set<string>;
  refuted: Set<string>;
}

type Page = Map<string, Findings>;

export class Ledger {
  readonly #options: LedgerOptions;
  readonly #diffIds: ReadonlySet<string>;
  readonly #own: Page = new Map();
  readonly #members = new Map<string, Page>();
  readonly #sidecars = new Set<string>();
  /** Members whose word counts, until something else is known. */
  #counting: Array<[string, Page]> | undefined;

  constructor(options: LedgerOptions) {
    this.#options = options;
    this.#diffIds = new Set(options.subject.diffIds);
  }

  /** Folds an entry that a member has sent; the order does not matter. `from`: the member that the NATS subject of its message names. */
  heard(from: string, entry: LedgerEntry): void {
    const { self, disbelieved } = this.#options;
    // What this node has found out it knows from its own log.
    if (from === self || disbelieved.has(from) || !this.#isAsked(entry)) return;
    const page = this.#members.get(from) ?? new Map<string, Findings>();
    this.#members.set(from, page);
    note(page, entry);
    this.#counting = undefined;
    if (entry.kind === 'flat' && entry.verdict === 'proven' && entry.sidecar !== undefined)
      this.#sidecars.add(entry.sidecar);
  }

  /** This node has found out by itself. */
  found(entry: LedgerEntry): void {
    if (!this.#isAsked(entry)) return;
    note(this.#own, entry);
    this.#counting = undefined;
  }

  /** Of a layer's block root. */
  root(diffId: string, root: string): LedgerWord {
    return this.#word(rootKey(diffId), root);
  }

  /** Of flat metadata of the image's layers, made by this revision of the builder. */
  flat(revision: number, flat: string): LedgerWord {
    return this.#word(flatKey(this.#options.subject.layers, revision), flat);
  }

  /** Who vouches for a sidecar of the image that holds this. */
  vouch({ revision = 1, flat, roots }: LedgerContents): Vouching {
    const { subject, witnesses } = this.#options;
    const parts = [
      { key: flatKey(subject.layers, revision), value: flat, what: 'its flat metadata' },
      ...roots.map(({ diffId, root }) => ({
        key: rootKey(diffId),
        value: root,
        what: `the layer ${diffId}`,
      })),
    ];
    for (const { key, value, what } of parts) {
      const word = this.#word(key, value);
      if (word === 'disputed') return { reason: `members of the fleet disagree about ${what}` };
      if (word === 'refuted') return { reason: `${what}: refuted by this node, or by a member of the fleet` };
    }
    const [first, ...rest] = parts;
    const says = (page: Page, { key, value }: { key: string; value: string }): boolean =>
      page.get(key)?.proven.has(value) === true;
    const isFor = (page: Page): boolean =>
      first !== undefined &&
      says(page, first) &&
      rest.every((part) => says(this.#own, part) || says(page, part));
    const members = this.#credible().flatMap(([name, page]) => (isFor(page) ? [name] : []));
    if (members.length >= witnesses) return { members: members.toSorted().slice(0, witnesses) };
    const others =
      members.length === 0
        ? 'no member of the fleet has proven'
        : `of the fleet only ${members.join(', ')} has proven`;
    return { reason: `${others} what it holds${witnesses > 1 ? `; ${witnesses} have to` : ''}` };
  }

  /** Whether anything could be vouched for: flat metadata of the image's layers, of whichever revision. */
  get hasFlat(): boolean {
    return this.#flats().some(([key, value]) => this.#word(key, value) === 'proven');
  }

  /** Sidecars that members have named. A liar may name any: what they hold is compared. */
  get sidecars(): ReadonlySet<string> {
    return this.#sidecars;
  }

  /** What members disagree about, and this node has not found out, in words. */
  get disputes(): string[] {
    const list = new Set<string>();
    for (const [, page] of this.#credible())
      for (const [key, { proven }] of page)
        if ([...proven].some((value) => this.#word(key, value) === 'disputed'))
          list.add(
            key.startsWith('root ') ? `the block root of ${key.slice('root '.length)}` : 'flat metadata',
          );
    return [...list];
  }

  /** Members that have said what this node knows to be otherwise, one lie of each. */
  get lies(): Lie[] {
    const lies: Lie[] = [];
    for (const [member, page] of this.#members) {
      const lie = this.#lieOf(page);
      if (lie !== undefined) lies.push({ member, ...lie });
    }
    return lies;
  }

  #lieOf(page: Page): Omit<Lie, 'member'> | undefined {
    for (const [key, said] of page) {
      const own = this.#own.get(key);
      if (own === undefined) continue;
      const right = only(own.proven);
      const isWrong = (value: string) => own.refuted.has(value) || (right !== undefined && right !== value);
      const wrong =
        [...said.proven].find(isWrong) ??
        (right !== undefined && said.refuted.has(right) ? right : undefined);
      if (wrong !== undefined) return { ...partsOf(key), said: wrong };
    }
    return undefined;
  }

  /** Members whose word counts: they said neither what this node knows to be otherwise, nor two things at once. */
  #credible(): Array<[string, Page]> {
    this.#counting ??= [...this.#members].filter(
      ([, page]) => this.#lieOf(page) === undefined && ![...page.values()].some(isTorn),
    );
    return this.#counting;
  }

  #word(key: string, value: string): LedgerWord {
    const { witnesses } = this.#options;
    const own = this.#own.get(key);
    // Another one is the right one: this one cannot be it.
    const right = only(own?.proven);
    if (right !== undefined) return right === value ? 'proven' : 'refuted';
    if (own?.refuted.has(value) === true) return 'refuted';
    let proven = 0;
    let refuted = 0;
    let other = 0;
    for (const [, page] of this.#credible()) {
      const said = page.get(key);
      if (said?.proven.has(value) === true) proven += 1;
      else if (said !== undefined && said.proven.size > 0) other += 1;
      if (said?.refuted.has(value) === true) refuted += 1;
    }
    if (proven > 0 && refuted + other > 0) return 'disputed';
    if (proven >= witnesses) return 'proven';
    return refuted >= witnesses ? 'refuted' : 'unknown';
  }

  #flats(): Array<[key: string, value: string]> {
    const flats: Array<[string, string]> = [];
    for (const [, page] of this.#credible())
      for (const [key, { proven }] of page)
        if (key.startsWith('flat ')) for (const value of proven) flats.push([key, value]);
    return flats;
  }

  #isAsked(entry: LedgerEntry): boolean {
    return entry.kind === 'root'
      ? this.#diffIds.has(entry.diffId)
      : entry.layers === this.#options.subject.layers;
  }
}

/** What the choice of a sidecar takes of a ledger (sidecar-choice.ts). */
export interface FleetWord {
  /** Why no member vouches for any sidecar of the image; undefined: members vouch for one. */
  silence: string | undefined;
  /** Sidecars that members have proven: they are looked at first. */
  sidecars: ReadonlySet<string>;
  provesRoot(diffId: string, root: string): boolean;
  vouch(contents: LedgerContents): Vouching;
}

/** Of what was heard of one image. */
export const fleetWord = (
  ledger: Ledger,
  { nodes, answered }: Pick<LedgerHeard, 'nodes' | 'answered'>,
): FleetWord => ({
  silence: ledger.hasFlat ? undefined : silenceOf(ledger, nodes, answered),
  sidecars: ledger.sidecars,
  provesRoot: (diffId, root) => ledger.root(diffId, root) === 'proven',
  vouch: (contents) => ledger.vouch(contents),
});

function silenceOf({ disputes }: Ledger, nodes: number, answered: number): string {
  if (disputes.length > 0) return `members of the fleet disagree about ${disputes.join(', ')}`;
  if (nodes === 0) return 'no other node of the fleet is there';
  const late = nodes - answered;
  return `the fleet does not vouch for the image: ${answered} nodes answered${late > 0 ? `, ${late} did not` : ''}`;
}

// ── What a node says ──

/** What the log of a node says of images and layers. */
export interface ProvenFacts {
  readonly images: ReadonlyMap<string, ImageFacts>;
  readonly roots: ReadonlyMap<string, RootFacts>;
  readonly layers: { get(id: string): { readonly complete: boolean } | undefined };
}

/** Wrong values of one subject that a node tells of. */
const MOST_REFUTED = 4;

/**
 * What this node has found out about an image by itself, the most important first: flat metadata, roots, what was wrong.
 * `revision`: of its builder; `digestOf`: SHA-256 of a text, as `sha256:…`.
 */
export function provenHere(
  state: ProvenFacts,
  { layers, diffIds }: LedgerSubject,
  { revision, digestOf }: { revision: number; digestOf: (text: string) => string },
): LedgerEntry[] {
  const [flats, roots, refuted]: [LedgerEntry[], LedgerEntry[], LedgerEntry[]] = [[], [], []];
  for (const facts of state.images.values()) {
    const { resolved, prepared } = facts;
    if (prepared === undefined || resolved.layers.length !== diffIds.length) continue;
    if (resolved.layers.some(({ diffId }, at) => diffId !== diffIds[at])) continue;
    if (digestOf(layersText(resolved.layers)) !== layers) continue;
    const entry = { v: 1, kind: 'flat', layers, revision } as const;
    if (facts.refuted !== undefined) refuted.push({ ...entry, verdict: 'refuted', flat: facts.refuted.flat });
    const isProven = proofOf(facts) === 'proven' && rootsOfImage(prepared, state) === 'proven';
    // What an earlier builder has made says nothing of what this one would.
    if (!isProven || (prepared.revision ?? 1) !== revision || flats.length > 0) continue;
    const { flat, origin, sidecar } = prepared;
    const named = origin === 'sidecar' && sidecar !== undefined ? { sidecar } : {};
    flats.push({ ...entry, verdict: 'proven', flat, ...named });
  }
  for (const diffId of new Set(diffIds)) {
    const known = state.roots.get(diffId);
    const entry = { v: 1, kind: 'root', diffId } as const;
    if (known?.proven !== undefined) roots.push({ ...entry, verdict: 'proven', root: known.proven });
    for (const root of known?.refuted.slice(-MOST_REFUTED) ?? [])
      refuted.push({ ...entry, verdict: 'refuted', root });
  }
  return [...flats, ...roots, ...refuted.slice(-MOST_TOLD_REFUTED)];
}

/** Beside the roots of an image's layers. */
const MOST_TOLD_REFUTED = 64;

/** What a node vouches for of an image, in one form: two that have proven the same say the same. */
export const claimText = (entries: readonly LedgerEntry[]): string =>
  entries
    .flatMap((entry) => {
      if (entry.verdict === 'refuted') return [];
      return [
        entry.kind === 'root' ? `${entry.diffId} ${entry.root}` : `flat ${entry.revision} ${entry.flat}`,
      ];
    })
    .toSorted()
    .join('\n');

// ── Who was believed ──

/** What this node has found out to be wrong: a root of a layer, other roots than the proven one, flat metadata. */
export type Wrong =
  | { about: 'root'; diffId: string; root: string; isProven: boolean }
  | { about: 'flat'; flat: string };

/** Members on whose word images were prepared with what is wrong; one lie of each. */
export function liarsBehind(images: Iterable<Pick<ImageFacts, 'prepared'>>, wrong: Wrong): Lie[] {
  const lies = new Map<string, Lie>();
  for (const { prepared } of images) {
    const members = membersOfVoucher(prepared?.vouched);
    if (prepared === undefined || members === undefined) continue;
    const said = saidOf(prepared, wrong);
    if (said === undefined) continue;
    const subject = wrong.about === 'root' ? wrong.diffId : said;
    for (const member of members) lies.set(member, { member, about: wrong.about, subject, said });
  }
  return [...lies.values()];
}

function saidOf({ flat, devices }: EventOf<'image.prepared'>, wrong: Wrong): string | undefined {
  if (wrong.about === 'flat') return flat === wrong.flat ? flat : undefined;
  return devices.find(
    ({ diffId, root }) =>
      diffId === wrong.diffId && root !== undefined && (root !== wrong.root) === wrong.isProven,
  )?.root;
}

// ── Keys ──

const rootKey = (diffId: string): string => `root ${diffId}`;
const flatKey = (layers: string, revision: number): string => `flat ${layers} ${revision}`;

function partsOf(key: string): Pick<Lie, 'about' | 'subject'> {
  const [about, subject = ''] = key.split(' ');
  return { about: about === 'root' ? 'root' : 'flat', subject };
}

function note(page: Page, entry: LedgerEntry): void {
  const key = entry.kind === 'root' ? rootKey(entry.diffId) : flatKey(entry.layers, entry.revision);
  const value = entry.kind === 'root' ? entry.root : entry.flat;
  const findings = page.get(key) ?? { proven: new Set<string>(), refuted: new Set<string>() };
  page.set(key, findings);
  findings[entry.verdict].add(value);
}

/** It has said two things that cannot both be true. */
const isTorn = ({ proven, refuted }: Findings): boolean =>
  proven.size > 1 || [...proven].some((value) => refuted.has(value));

const only = (values: ReadonlySet<string> | undefined): string | undefined => values?.values().next().value;
