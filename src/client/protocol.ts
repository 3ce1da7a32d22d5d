/** A client and an engine of different versions: what they can say to each other, and what the user is told. */
import type { Operation, RequestOf } from '../../schemas/api.ts';
import { CofaError } from '../../schemas/errors.ts';
import { ADDITIONS, OLDEST_PROTOCOL, PROTOCOL } from '../../schemas/protocol.ts';

/** What an engine says of itself. */
export interface Spoken {
  /** Version of cofa, such as 0.1.0. */
  version: string;
  protocol: number;
  /** The oldest protocol whose clients it serves. */
  oldestProtocol: number;
}

/** Error `unsupported` where no protocol is common to both. */
export async function checkProtocol(engine: Spoken): Promise<void> {
  if (engine.protocol >= OLDEST_PROTOCOL && engine.oldestProtocol <= PROTOCOL) return;
  throw new CofaError('unsupported', `${await bothOf(engine)}: they do not understand each other`, {
    hint: hintFor(engine),
  });
}

/** A sentence for the user where the engine speaks another protocol; undefined where it speaks the same. */
export async function otherProtocol(engine: Spoken): Promise<string | undefined> {
  if (engine.protocol === PROTOCOL) return undefined;
  return `${await bothOf(engine)}; ${hintFor(engine)}`;
}

/**
 * The request as the engine understands it: without words that came later, where the answer tells. Error `unsupported` where
 * the call makes no sense without them.
 */
export async function requestFor<O extends Operation>(
  engine: Spoken,
  operation: O,
  request: RequestOf<O>,
): Promise<RequestOf<O>> {
  const isLater = (what: string) => (ADDITIONS[what]?.since ?? 0) > engine.protocol;
  const fit = { ...request };
  const words = (Object.keys(fit) as Array<keyof typeof fit & string>).filter(
    (word) => fit[word] !== undefined && isLater(`${operation}.${word}`),
  );
  const refused = [operation, ...words.map((word) => `${operation}.${word}`)].find(
    (what) => isLater(what) && ADDITIONS[what]?.otherwise === 'refuse',
  );
  if (refused !== undefined)
    throw new CofaError('unsupported', `the engine does not know ${refused}: ${await bothOf(engine)}`, {
      hint: hintFor(engine),
    });
  for (const word of words) delete fit[word];
  return fit;
}

async function bothOf({ version, protocol }: Spoken): Promise<string> {
  const { version: own } = await import('./version.ts');
  return `the engine is cofa ${version} and speaks protocol ${protocol}, this is cofa ${own()} with protocol ${PROTOCOL}`;
}

const hintFor = ({ protocol }: Spoken): string =>
  protocol < PROTOCOL
    ? 'cofa down and cofa up start the engine of this cofa; its mounts come back'
    : 'install the version of cofa that the engine has';
