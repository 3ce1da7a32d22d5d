/**
 * The parts of undici that cofa uses, 23 modules. Its index loads 110: mocks, caches, fetch, WebSockets. Those take 75
 * ms of processor time and 31 MB of memory in each process that speaks HTTP, these 35 ms and 17 MB. The package has no
 * `exports`, so its files can be named. Its version is pinned, and a test notices when the files change.
 */
import { createRequire } from 'node:module';

type Undici = typeof import('undici');

const load = createRequire(import.meta.url);

export const Pool = load('undici/lib/dispatcher/pool.js') as Undici['Pool'];

// undici's index does so with all of its calls; a dispatcher has none by itself.
const { prototype } = load('undici/lib/dispatcher/dispatcher.js') as Undici['Dispatcher'];
prototype.request = load('undici/lib/api/api-request.js') as typeof prototype.request;

/** Loads the proxy code for the few nodes that have a proxy. It calls `connect`. */
export function proxyAgent(
  options: ConstructorParameters<Undici['ProxyAgent']>[0],
): InstanceType<Undici['ProxyAgent']> {
  Object.assign(prototype, load('undici/lib/api/index.js'));
  const ProxyAgent = load('undici/lib/dispatcher/proxy-agent.js') as Undici['ProxyAgent'];
  return new ProxyAgent(options);
}
