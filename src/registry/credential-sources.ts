/**
 * Which credentials may be tried for a repository, best first:
 *
 *     the engine's desk     what a pull brought along, and the kubelet's credential providers   (src/registry/credential-desk.ts)
 *     docker's config.json  and its helpers                                                     (credentials.ts)
 *
 * Every process that reads from registries looks for itself when a registry asks who it is. Between processes
 * credentials travel only over the desk's unix socket, for root alone: never over NATS, and into no file.
 */
import { fields, list, maybe, name, sentence, type Shape, text } from '../../schemas/shapes.ts';
import { askLocal } from '../bus/local-socket.ts';
import { type Credentials, type CredentialSettings, readCredentials } from './credentials.ts';

export interface CredentialQuestion {
  /** `HOST[:PORT]` */
  registry: string;
  /** Undefined for a request that concerns no repository. */
  repository?: string | undefined;
  /** A registry refused what the sources gave before: a source with a cache has to look again. */
  isRefused: boolean;
}

export interface CredentialSources extends CredentialSettings {
  /** There are none: what a registry says then, it says to everyone. */
  none?: boolean;
  /** Socket of the engine's desk; absent where there is none. */
  credentialSocket?: string | undefined;
}

/** A provider may have to ask a service of its cloud; the desk ends one that takes longer. */
const DESK_MS = 90_000;

/** Letters of a password or token. */
const MAX_SECRET = 1 << 16;
const areCredentials = list(
  fields({
    username: text(MAX_SECRET),
    password: text(MAX_SECRET),
    identityToken: maybe(text(MAX_SECRET)),
    registryToken: maybe(text(MAX_SECRET)),
    source: sentence,
    repository: maybe(name),
  }),
  1_024,
) as Shape<Credentials[]>;

/** Errors: `unauthorized` as for `readCredentials`, where the desk has nothing either. */
export async function findCredentials(
  question: CredentialQuestion,
  sources: CredentialSources,
  signal?: AbortSignal,
): Promise<Credentials[]> {
  if (sources.none === true) return [];
  const known = await askDesk(question, sources, signal);
  try {
    const own = await readCredentials(question.registry, sources, signal);
    if (own !== undefined) known.push(own);
  } catch (error) {
    // A broken configuration of docker does not hide what the pull brought.
    if (known.length === 0 || signal?.aborted === true) throw error;
  }
  return known;
}

async function askDesk(
  question: CredentialQuestion,
  { credentialSocket }: CredentialSources,
  signal: AbortSignal | undefined,
): Promise<Credentials[]> {
  if (credentialSocket === undefined) return [];
  try {
    return await askLocal(credentialSocket, 'find', DESK_MS, areCredentials, { request: question, signal });
  } catch (error) {
    if (signal?.aborted === true) throw error;
    // The supervisor restarts.
    return [];
  }
}
