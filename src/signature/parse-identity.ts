/** Reads the files of identities: rules and trust roots (identities.ts). Loaded where there is one (key-directory.ts). */
import { createRequire } from 'node:module';
import type { RE2JS } from 're2js';
import { z } from 'zod';
import { CofaError } from '../../schemas/errors.ts';
import { digestOf } from '../digest/digest.ts';
import { DEFAULT_ROOT, MAX_TEXT, type TextRule, type TrustedIdentity, type TrustRoot } from './identities.ts';

const ROOT_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\.json$/;
const text = z.string().min(1).max(MAX_TEXT);

/** The file NAME.identity. */
const identitySchema = z
  .strictObject({
    issuer: text.optional(),
    issuerPattern: text.optional(),
    subject: text.optional(),
    subjectPattern: text.optional(),
    root: z.string().regex(ROOT_NAME, 'names a file NAME.json in the folder of keys').default(DEFAULT_ROOT),
  })
  .refine(({ issuer, issuerPattern }) => (issuer === undefined) !== (issuerPattern === undefined), {
    error: 'has to have issuer or issuerPattern',
  })
  .refine(({ subject, subjectPattern }) => (subject === undefined) !== (subjectPattern === undefined), {
    error: 'has to have subject or subjectPattern',
  });

/** Reads NAME.identity; `where` names it in errors. Error `invalid-argument`. */
export function parseIdentity(
  content: string,
  where: string,
): Pick<TrustedIdentity, 'issuer' | 'subject'> & { rootName: string } {
  const { issuer, issuerPattern, subject, subjectPattern, root } = readJsonFile(
    content,
    identitySchema,
    where,
    'docs/signing.md, "Identities", shows one',
  );
  return {
    issuer: ruleOf(issuer, issuerPattern, `${where}: issuerPattern`),
    subject: ruleOf(subject, subjectPattern, `${where}: subjectPattern`),
    rootName: root,
  };
}

function ruleOf(exact: string | undefined, pattern: string | undefined, where: string): TextRule {
  if (pattern === undefined) return { exact, matches: (one) => one === exact };
  let program: RE2JS;
  try {
    // Most operators have no expression.
    re2 ??= (createRequire(import.meta.url)('re2js') as { RE2JS: typeof RE2JS }).RE2JS;
    program = re2.compile(pattern);
  } catch (cause) {
    throw new CofaError('invalid-argument', `${where} is no RE2 expression`, {
      cause,
      hint: 'github.com/google/re2/wiki/Syntax; it has to match the whole text',
    });
  }
  return { pattern, matches: (one) => program.matches(one) };
}

let re2: typeof RE2JS | undefined;

const bytes = z.object({ rawBytes: z.base64().min(1) });
/** What is used of it here; src/signature/keyless.ts reads the rest. */
const rootSchema = z.object({
  mediaType: z.string().startsWith('application/vnd.dev.sigstore.trustedroot'),
  certificateAuthorities: z
    .array(z.object({ certChain: z.object({ certificates: z.array(bytes).min(1).max(16) }) }))
    .min(1)
    .max(16),
});

/** Reads a trust root as far as it takes to name it. Error `invalid-argument`. */
export function parseRoot(content: string, path: string): TrustRoot {
  const hint = 'a trusted_root.json of Sigstore: cosign trusted-root create, or that of sigstore.dev';
  const { certificateAuthorities } = readJsonFile(content, rootSchema, path, hint);
  const anchors = certificateAuthorities.map(({ certChain }) =>
    digestOf(Buffer.concat(certChain.certificates.map(({ rawBytes }) => Buffer.from(rawBytes, 'base64')))),
  );
  return { path, text: content, digest: digestOf(Buffer.from(content)), anchors };
}

function readJsonFile<T>(content: string, schema: z.ZodType<T>, where: string, hint: string): T {
  let document: unknown;
  try {
    document = JSON.parse(content);
  } catch (cause) {
    throw new CofaError('invalid-argument', `${where} is not JSON`, { cause, hint });
  }
  const { data, error } = schema.safeParse(document);
  if (data !== undefined) return data;
  const [issue] = error?.issues ?? [];
  const at = issue?.path.map(String).join('.') ?? '';
  throw new CofaError('invalid-argument', `${where}: ${`${at} ${issue?.message ?? ''}`.trim()}`, { hint });
}
