/**
 * Image references as docker writes and completes them: `debian`, `debian:12`, `ghcr.io/a/b`,
 * `localhost:5000/a@sha256:…`. The grammar is that of the distribution project's reference package, which
 * docker, containerd and podman share.
 *
 * This file loads nothing but the error kinds, so that a command line can check a reference before anything
 * heavy is loaded.
 */
import { DIGEST as SHA256 } from '../../schemas/digest.ts';
import { CofaError } from '../../schemas/errors.ts';

export interface Reference {
  /** Host, with its port if any, that is asked: `registry-1.docker.io` for `docker.io`. */
  registry: string;
  /** Host as references name it: `docker.io`, `localhost:5000`. */
  domain: string;
  /** Repository below the host, such as `library/debian`. */
  repository: string;
  /** Present unless the reference has a digest alone; `latest` where the text has neither. */
  tag?: string;
  /** `sha256:<64 hex>`. Where tag and digest are given the digest decides, as with docker. */
  digest?: string;
  /** The reference completed, in the short form that docker prints: `debian:latest`, `localhost:5000/a:1`. */
  text: string;
}

/** Longest text that the parser reads; host, repository, tag and digest together cannot be longer. */
const MAX_TEXT = 1024;
const MAX_HOST = 255;
const MAX_REPOSITORY = 255;

/** Where docker.io is served; the name itself is a redirect to a web page. */
const DOCKER_HUB = 'registry-1.docker.io';

const LABEL = '(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])';
const HOST = new RegExp(`^(?:${LABEL}(?:\\.${LABEL})*|\\[[a-fA-F0-9:]+\\])(?::[0-9]+)?$`);
const REPOSITORY = /^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*$/;
const TAG = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
const DIGEST = /^[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}$/;

/** The host as references name it, for the one that is asked. */
export const domainOf = (registry: string): string => (registry === DOCKER_HUB ? 'docker.io' : registry);

/** The host that is asked, for the one that references name. */
export const hostOf = (domain: string): string => (domain === 'docker.io' ? DOCKER_HUB : domain);

/**
 * Reads a reference and fills in docker's defaults: the host `docker.io`, its `library/` for names of one part,
 * the tag `latest`. Throws CofaError: `invalid-argument` where the text breaks the grammar, `unsupported` for a
 * digest that is well formed but not sha256.
 */
export function parseReference(text: string): Reference {
  if (text.length === 0) throw invalid(text, 'it is empty');
  if (text.length > MAX_TEXT) throw invalid(`${text.slice(0, 60)}…`, 'it is too long');
  if (/^[0-9a-f]{64}$/.test(text)) throw invalid(text, 'a bare hash is not a name; write NAME@sha256:HASH');

  const at = text.indexOf('@');
  const digest = at < 0 ? undefined : text.slice(at + 1);
  const named = at < 0 ? text : text.slice(0, at);
  // A colon after the last slash starts the tag; one before it belongs to a port.
  const colon = named.indexOf(':', named.lastIndexOf('/') + 1);
  const tag = colon < 0 ? undefined : named.slice(colon + 1);
  const name = colon < 0 ? named : named.slice(0, colon);

  const { domain, repository } = splitDomain(name);
  if (!HOST.test(domain) || domain.length > MAX_HOST) throw invalid(text, `"${domain}" is not a host`);
  checkPort(text, domain);
  if (repository === '') throw invalid(text, 'the name of the repository is missing');
  if (repository !== repository.toLowerCase()) throw invalid(text, 'repository names are lowercase');
  if (repository.length > MAX_REPOSITORY) throw invalid(text, 'the name of the repository is too long');
  if (!REPOSITORY.test(repository)) throw invalid(text, `"${repository}" is not a repository name`);
  if (tag !== undefined && !TAG.test(tag)) throw invalid(text, `"${tag}" is not a tag`);
  if (digest !== undefined) checkDigest(text, digest);

  const reference: Reference = {
    registry: hostOf(domain),
    domain,
    repository,
    text: '',
  };
  if (tag !== undefined) reference.tag = tag;
  else if (digest === undefined) reference.tag = 'latest';
  if (digest !== undefined) reference.digest = digest;
  reference.text = familiar(reference);
  return reference;
}

/**
 * True where the host is this machine: 127.0.0.0/8, ::1 or localhost, with or without a port. Such registries speak
 * plain HTTP, as with docker.
 */
export function isLoopback(host: string): boolean {
  let name: string;
  try {
    // The URL parser knows the odd spellings of addresses, such as 127.1.
    name = new URL(`http://${host}`).hostname;
  } catch {
    return false;
  }
  return name === 'localhost' || name === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(name);
}

/** The first part is a host if it looks like one; otherwise the name belongs to docker.io. */
function splitDomain(name: string): { domain: string; repository: string } {
  const slash = name.indexOf('/');
  const first = slash < 0 ? '' : name.slice(0, slash);
  const isHost =
    slash >= 0 &&
    (first.includes('.') || first.includes(':') || first === 'localhost' || first !== first.toLowerCase());
  let domain = isHost ? first : 'docker.io';
  let repository = isHost ? name.slice(slash + 1) : name;
  if (domain === 'index.docker.io' || domain === DOCKER_HUB) domain = 'docker.io';
  if (domain === 'docker.io' && repository !== '' && !repository.includes('/')) {
    repository = `library/${repository}`;
  }
  return { domain, repository };
}

function checkPort(text: string, domain: string): void {
  const port = /:([0-9]+)$/.exec(domain.replace(/^\[[^\]]*\]/, ''))?.[1];
  if (port !== undefined && (port.length > 5 || Number(port) < 1 || Number(port) > 65535)) {
    throw invalid(text, `${port.slice(0, 20)} is not a port`);
  }
}

function checkDigest(text: string, digest: string): void {
  if (SHA256.test(digest)) return;
  if (!digest.startsWith('sha256:') && DIGEST.test(digest)) {
    throw new CofaError('unsupported', `image reference "${text}": only sha256 digests are supported`);
  }
  throw invalid(text, `"${digest.slice(0, 80)}" is not a digest (sha256: and 64 lowercase hex digits)`);
}

function familiar(reference: Reference): string {
  let name = `${reference.domain}/${reference.repository}`;
  if (reference.domain === 'docker.io') {
    const short = reference.repository.replace(/^library\//, '');
    // A short name that would be read as another stays long: "library/a/b", and "a.b/c", whose first part is like a
    // host.
    if (!short.includes('/')) name = short;
    else if (splitDomain(reference.repository).domain === 'docker.io') name = reference.repository;
  }
  const tag = reference.tag === undefined ? '' : `:${reference.tag}`;
  const digest = reference.digest === undefined ? '' : `@${reference.digest}`;
  return `${name}${tag}${digest}`;
}

function invalid(text: string, why: string): CofaError {
  return new CofaError('invalid-argument', `image reference "${text}": ${why}`, {
    hint: 'write it as docker does, such as debian:12 or localhost:5000/team/app@sha256:…',
  });
}
