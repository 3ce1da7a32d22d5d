/**
 * A credential provider that makes credentials of a pod's own token (`tokenAttributes`), as those of clouds do, and a registry
 * that takes them: it looks who has signed the token, for whom, and for which service account.
 */
import { createPublicKey, type JsonWebKey, verify } from 'node:crypto';
import type { NodeOptions } from './node.ts';
import type { FaultRegistry } from '../support/fault-registry.ts';
import { type Account, dockerConfigOf } from '../support/private-registry.ts';

/** Whom the tokens are for. */
const AUDIENCE = 'registry.example';
/** A service account without it has no use for the provider. */
const ANNOTATION = 'registry.example/account';
const FOLDER = 'kubernetes/providers';

/** For a kubelet: options, and files of /etc. */
export function tokenProvider(host: string): { args: string[]; etc: NonNullable<NodeOptions['etc']> } {
  const configuration = {
    apiVersion: 'kubelet.config.k8s.io/v1',
    kind: 'CredentialProviderConfig',
    providers: [
      {
        name: 'sh',
        args: [`/etc/${FOLDER}/provider`],
        apiVersion: 'credentialprovider.kubelet.k8s.io/v1',
        matchImages: [host],
        defaultCacheDuration: '0s',
        tokenAttributes: {
          serviceAccountTokenAudience: AUDIENCE,
          cacheType: 'Token',
          requireServiceAccount: true,
          requiredServiceAccountAnnotationKeys: [ANNOTATION],
        },
      },
    ],
  };
  const response = JSON.stringify({
    apiVersion: 'credentialprovider.kubelet.k8s.io/v1',
    kind: 'CredentialProviderResponse',
    cacheKeyType: 'Image',
    cacheDuration: '0s',
    auth: { [host]: { username: 'token', password: 'TOKEN' } },
  });
  const program = `token=$(sed 's/.*"serviceAccountToken":"\\([^"]*\\)".*/\\1/')\necho '${response}' | sed "s/TOKEN/$token/"\n`;
  return {
    args: [
      '--image-credential-provider-config',
      `/etc/${FOLDER}/config.json`,
      '--image-credential-provider-bin-dir',
      '/bin',
    ],
    etc: { [`${FOLDER}/config.json`]: JSON.stringify(configuration), [`${FOLDER}/provider`]: program },
  };
}

/** The node may ask for tokens of that audience; and a service account that the provider is for. */
export const tokenObjects = (account: string): object[] => [
  {
    apiVersion: 'rbac.authorization.k8s.io/v1',
    kind: 'ClusterRole',
    metadata: { name: 'registry-tokens' },
    rules: [{ apiGroups: [''], resources: [AUDIENCE], verbs: ['request-serviceaccounts-token-audience'] }],
  },
  {
    apiVersion: 'rbac.authorization.k8s.io/v1',
    kind: 'ClusterRoleBinding',
    metadata: { name: 'registry-tokens' },
    roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'registry-tokens' },
    subjects: [{ apiGroup: 'rbac.authorization.k8s.io', kind: 'Group', name: 'system:nodes' }],
  },
  {
    apiVersion: 'v1',
    kind: 'ServiceAccount',
    metadata: { name: account, namespace: 'default', annotations: { [ANNOTATION]: 'robot' } },
  },
];

/** From now on a good token of `account` is worth what `robot`'s password is. `jwks`: the cluster's keys. */
export function takeTokens(
  registry: FaultRegistry,
  o: { account: string; robot: Account; jwks: string },
): void {
  const { keys } = JSON.parse(o.jwks) as { keys: JsonWebKey[] };
  const before = registry.fault;
  registry.fault = async (call) => {
    const { headers } = call.request;
    const [, given = ''] = /^Basic (.+)$/.exec(headers.authorization ?? '') ?? [];
    const [user, token = ''] = Buffer.from(given, 'base64').toString().split(':');
    if (user === 'token' && isGood(token, { account: o.account, keys })) {
      const { auths } = JSON.parse(dockerConfigOf({ here: o.robot })) as {
        auths: { here: { auth: string } };
      };
      headers.authorization = `Basic ${auths.here.auth}`;
    }
    return (await before?.(call)) ?? 'pass';
  };
}

function isGood(token: string, { account, keys }: { account: string; keys: JsonWebKey[] }): boolean {
  const [head = '', body = '', signature = ''] = token.split('.');
  const { sub, aud, exp } = JSON.parse(Buffer.from(body, 'base64url').toString() || '{}') as Record<
    string,
    unknown
  >;
  const isSigned = keys.some((key) =>
    verify(
      'RSA-SHA256',
      Buffer.from(`${head}.${body}`),
      createPublicKey({ key, format: 'jwk' }),
      Buffer.from(signature, 'base64url'),
    ),
  );
  return (
    isSigned &&
    sub === `system:serviceaccount:default:${account}` &&
    JSON.stringify(aud) === JSON.stringify([AUDIENCE]) &&
    Number(exp) * 1000 > Date.now()
  );
}
