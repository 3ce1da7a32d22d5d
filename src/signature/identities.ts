/**
 * Identities that may vouch for sidecars without a key: what a certificate of a Sigstore CA (Fulcio) says of who has signed. A
 * rule names an issuer of identities and a subject there; its trust root says whose certificates and logs count (sigstore's
 * protobuf-specs, sigstore_trustroot.proto).
 */
import { digestOf } from '../digest/digest.ts';

/** Matches a whole text: by itself, or by an RE2 expression that has to match from its beginning to its end. */
export interface TextRule {
  exact?: string | undefined;
  pattern?: string | undefined;
  matches: (text: string) => boolean;
}

/** The file of a trust root. */
export interface TrustRoot {
  path: string;
  text: string;
  /** Of the text. */
  digest: string;
  /** Of the certificates of each CA, in the file's order. */
  anchors: readonly string[];
}

/** An identity that an operator trusts. */
export interface TrustedIdentity {
  kind: 'identity';
  /** What its file is named, without `.identity`. */
  name: string;
  issuer: TextRule;
  subject: TextRule;
  root: TrustRoot;
  /** As of a key (keys.ts). */
  scope: readonly string[] | undefined;
}

/** Who has signed, as its certificate says. */
export interface SignerIdentity {
  issuer: string;
  subject: string;
}

/** In the folder of keys, where a rule names no other. */
export const DEFAULT_ROOT = 'trusted_root.json';

/** Characters of an issuer, a subject, an expression. */
export const MAX_TEXT = 2_048;

/**
 * What the log calls an identity that has vouched: by its rule and the CA of its certificate. So it vouches no longer where the
 * rule is changed or its root has lost the CA; a root that gets another log or CA changes nothing.
 */
export const voucherOfIdentity = ({ issuer, subject }: TrustedIdentity, anchor: string): string =>
  `identity:${digestOf(Buffer.from(JSON.stringify([textOf(issuer), textOf(subject), anchor])))}`;

const textOf = ({ exact, pattern }: TextRule) => [exact ?? null, pattern ?? null];

/** A rule in words: the text, or `/expression/`. */
export const wordsOf = ({ exact, pattern }: TextRule): string => exact ?? `/${pattern}/`;
